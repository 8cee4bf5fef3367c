"""SD.Next, whose models no network of ours is put on: a tag gets a sentence at each image, the tab's files and the API are its own."""

from __future__ import annotations

import sys
import types
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from fastapi.testclient import TestClient

from lib_lycoris.errors import HostError
from lib_lycoris.hosts.webui import adapters, files, register
from lib_lycoris.hosts.webui import host as webui_host
from lib_lycoris.hosts.webui.interface import api
from tests.hosts.standin import Processing, StandIn, parse, running
from tests.webui.sample_networks import write_network


class Program(StandIn):
    """What of it an extension meets, as 058a7f0c was seen to do it: it says the step, and calls those without tags without it."""

    def start(self) -> None:
        """Be the program around us, without modules that only its cousins have."""
        super().start()
        sys.modules["installer"] = self.modules["installer"] = types.SimpleNamespace(git_commit="058a7f0c")  # type: ignore[assignment]
        del sys.modules["modules.launch_utils"], self.modules["modules"].launch_utils
        shared = self.modules["modules.shared"]
        shared.native, shared.api = True, types.SimpleNamespace(credentials={}, auth=signed_in)  # type: ignore[attr-defined]
        shared.opts.lora_dir, shared.opts.ckpt_dir = str(self.folder / "Lora"), str(self.folder / "Stable-diffusion")  # type: ignore[attr-defined]
        shared.cmd_opts.lora_dir = None  # type: ignore[attr-defined]
        info = types.SimpleNamespace(name="base", title="base [12]", filename=str(self.folder / "Stable-diffusion" / "base.safetensors"))
        models = self.modules["modules.sd_models"]
        models.checkpoints_list, models.list_models = {info.title: info}, lambda: None  # type: ignore[attr-defined]

    def image(self, prompt: str) -> Processing:
        """Parse a prompt and call every network as its own code does; return the run."""
        p = Processing(prompt)
        data: dict[str, list[Any]] = defaultdict(list, parse(prompt)[1])
        for name, found in data.items():
            if name in self.registry:
                self.registry[name].activate(p, found, step=0)
        for name, network in self.registry.items():
            if name not in data:
                network.activate(p, [])
            network.deactivate(p, force=False)
        return p


def signed_in(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008
    """Ask for a name and a password."""
    if (credentials.username, credentials.password) != ("me", "secret"):
        raise HTTPException(401, "Unauthorized")


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    (tmp_path / "Lora").mkdir()
    write_network(tmp_path / "Lora" / "one.safetensors")
    made = Program(tmp_path, built_in=False)
    with running(tmp_path, program=made):
        adapters.adapter.cache_clear()
        webui_host.host.cache_clear()
        register.before_ui(register.refuse)
        made.before_ui()
        yield made
    adapters.adapter.cache_clear()
    webui_host.host.cache_clear()


def test_a_tag_gets_a_sentence_at_each_image_and_no_other_has_it(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    assert not webui_host.host().webui.applies and webui_host.host().name == "SD.Next"
    told = [program.image(prompt).extra_generation_params for prompt in ("a cat <lyco:one:1>", "a cat", "a cat <lora:one:1>")]
    assert "does nothing in SD.Next" in told[0]["Lyco problems"] and "<lora:NAME:STRENGTH>" in told[0]["Lyco problems"]
    assert not told[1] and not told[2]
    assert "does nothing in SD.Next" in capsys.readouterr().out
    with pytest.raises(HostError, match="its own loader"):
        _ = webui_host.host().base


def test_a_line_at_the_start_says_where_it_is(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    program.before_ui()
    assert "SD.Next 058a7f0c, 1 network files in" in capsys.readouterr().out


def test_files_are_read_and_written_where_its_own_loader_looks(program: Program) -> None:
    store = files.WebuiFileStore()
    assert [entry.name for entry in store.networks()] == ["one"] and [entry.name for entry in store.checkpoints()] == ["base"]
    assert store.network_folder() == program.folder / "Lora" and store.checkpoint_folder() == program.folder / "Stable-diffusion"
    assert files.checkpoint_title(store.checkpoints()[0].path) == "base [12]"


def test_its_model_is_dropped_for_a_training(program: Program) -> None:
    dropped: list[str] = []
    program.modules["modules.sd_models"].unload_model_weights = lambda op: dropped.append(op)  # type: ignore[attr-defined]
    assert "the next image loads it again" in files.unload() and dropped == ["model"]


def test_the_api_asks_for_the_password_that_its_own_asks_for(program: Program) -> None:
    def status(**options: Any) -> int:
        app = FastAPI()
        api.add_routes(app, None)
        return TestClient(app).get("/sdapi/v1/lycos", **options).status_code

    assert status() == 200
    program.modules["modules.shared"].api.credentials["me"] = "secret"
    assert (status(), status(auth=("me", "wrong")), status(auth=("me", "secret"))) == (401, 401, 200)
