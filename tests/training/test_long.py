"""What takes minutes: networks learn what their images ask for, a run that is killed again and again, two processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib_lycoris import load
from lib_lycoris.hosts.embedded.demo import demo_model
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.protocol import GenerationRequest
from lib_lycoris.patching import Patcher
from lib_lycoris.tools.training import runs
from lib_lycoris.training.__main__ import main
from lib_lycoris.training.demo import styles
from tests.training import flow_pipelines, pictures
from tests.training.conftest import Words
from tests.training.test_training import same

REQUIRES = ("lycoris",)
pytestmark = pytest.mark.long

STEPS = 60
PROMPTS = ("a red circle on the left, white background", "a yellow star at the top, gray background", "a big green tree")
OWN = "lycoris.kohya"
ALGORITHMS: dict[str, tuple[str, tuple[str, ...], float]] = {  # name -> what is asked for, rate
    "lora": ("networks.lora", (), 8e-3),
    "lora-fa": ("networks.lora_fa", (), 2e-2),
    "lora-plus": ("networks.lora", ("loraplus_lr_ratio=4",), 4e-3),
    "rslora": (OWN, ("rs_lora=True",), 5e-3),
    "dora-in": (OWN, ("dora_wd=True", "wd_on_output=False"), 8e-3),
    "dora-out": (OWN, ("dora_wd=True", "wd_on_output=True"), 8e-3),
    "locon": (OWN, ("algo=locon", "train_norm=True"), 8e-3),
    "loha": (OWN, ("algo=loha",), 3e-2),
    "lokr": (OWN, ("algo=lokr", "factor=4"), 1e-2),
    "dylora": (OWN, ("algo=dylora", "block_size=2"), 2e-2),
    "glora": (OWN, ("algo=glora",), 8e-3),
    "full": (OWN, ("algo=full",), 1e-3),
    "diag-oft": (OWN, ("algo=diag-oft",), 2e-2),
    "coft": (OWN, ("algo=diag-oft", "constraint=0.01"), 2e-2),
    "boft": (OWN, ("algo=boft",), 2e-2),
    "ia3": (OWN, ("algo=ia3",), 5e-2),
    "tlora": (OWN, ("algo=tlora",), 2e-2),
}
DIMS = {"boft": 10}  # it takes a block of 2 k for widths of 2 k times a power of two, and the model has some of 5 times one


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty scenes that are seen through blue glass."""
    torch.set_num_threads(1)
    return pictures.folder(tmp_path_factory.mktemp("images"), style=styles.cold)


def blueness(host: EmbeddedHost, tag: str) -> float:
    """Return how much more blue than red there is in the images of the prompts, from -255 to 255."""
    found = [np.asarray(host.generate(GenerationRequest(prompt + tag, seed=2, steps=8, width=64, height=64)).image) for prompt in PROMPTS]
    return float(np.mean([image[..., 2].mean() - image[..., 0].mean() for image in found]))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_network_learns_what_its_images_ask_for(name: str, out: Path, words: Words) -> None:
    """The colour comes, every key is read, and the file's forward is the training's; `-rP` shows the numbers of docs/training.md."""
    module, arguments, rate = ALGORITHMS[name]
    given = words(
        name, "--network_module", module, "--network_dim", str(DIMS.get(name, 8)), "--network_alpha", "4", "--train_batch_size", "8",
        "--max_train_steps", str(STEPS), "--learning_rate", str(rate), "--lr_scheduler", "cosine", "--save_precision", "float",
    )  # fmt: skip
    assert main([*given, *(("--network_args", *arguments) if arguments else ())]) == 0
    network = load(out / f"{name}.safetensors", Patcher(demo_model(torch.device("cpu")).parts()).base)
    (saved,) = told(out / f"{name}.training", "saved")
    host = EmbeddedHost.open(networks=out, device="cpu")
    plain, off, on = (blueness(host, tag) for tag in ("", f" <lyco:{name}:0>", f" <lyco:{name}:1>"))
    keys = len(load_file(str(out / f"{name}.safetensors")))
    print(f"{name}: {off:.0f} without, {on:.0f} with; {keys} keys; {saved['apart'] / saved['answer']:.1e} apart")
    assert not network.skipped and network.coverage is None
    assert saved["apart"] <= 1e-5 * saved["answer"]
    assert off == plain
    assert on - off > 15, f"{name}: {off:.1f} without, {on:.1f} with"


# ---- runs that are killed, and runs of two processes


KILLS, WHOLE = 20, 200
TINY = (
    "--t5xxl_max_token_length",
    "32",
    "--resolution",
    "64",
    "--network_dim",
    "4",
    "--learning_rate",
    "1e-2",
    "--save_precision",
    "float",
)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Flux.1, whose steps take no time: what is measured is the place where a run is killed."""
    return flow_pipelines.flux(tmp_path_factory.mktemp("models") / "flux")


def started(words: list[str], before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """Start a training in a process of its own."""
    command = [sys.executable, *before, "-m", "lib_lycoris.training", *words]
    return subprocess.Popen(
        command, env={**runs.environment(), "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def test_a_run_that_is_killed_at_twenty_random_steps_comes_to_the_same_bits(flux: Path, out: Path, words: Words) -> None:
    """Each time the run goes on, it is killed at another step: between two states, or while one is written."""
    asked = ("--pretrained_model_name_or_path", str(flux), *TINY, "--max_train_steps", str(WHOLE), "--state_every_n_steps", "1",
             "--optimizer_type", "AdamW", "--lr_scheduler", "cosine", "--ema_decay", "0.9", "--network_dropout", "0.1")  # fmt: skip
    assert main(words("undisturbed", *asked)) == 0
    choose = random.Random(18)
    places = sorted(choose.sample(range(1, WHOLE - 5), KILLS))
    folder = out / "killed.training"
    for number, place in enumerate(places):
        process = started(words("killed", *asked, *(("--resume",) if number else ())))
        while runs.facts_of(folder).step < place and process.poll() is None:
            time.sleep(0.002)
        time.sleep(choose.random() * 0.02)
        assert process.poll() is None, f"the run had ended before it was killed at step {place}"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "killed.safetensors").exists()
    assert main(words("killed", *asked, "--resume")) == 0
    same(out / "killed.safetensors", out / "undisturbed.safetensors")
    assert not [path.name for path in (*folder.iterdir(), *out.iterdir()) if path.name.endswith(".part")]


def test_two_processes_are_one_with_twice_the_batch(flux: Path, out: Path, words: Words) -> None:
    asked = ("--pretrained_model_name_or_path", str(flux), *TINY, "--max_train_steps", "10")
    assert main(words("alone", *asked, "--train_batch_size", "4")) == 0
    both = started(words("both", *asked, "--train_batch_size", "2"), ("-m", "torch.distributed.run", "--nproc_per_node", "2"))
    assert both.wait(300) == 0
    one, two = load_file(str(out / "alone.safetensors")), load_file(str(out / "both.safetensors"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)
    losses = [[line["loss"] for line in told(out / f"{name}.training", "step")] for name in ("alone", "both")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 10


def told(folder: Path, event: str) -> list[dict[str, float]]:
    """Return what a run told of one kind of event."""
    lines = [json.loads(line) for line in (folder / runs.PROGRESS).read_text().splitlines()]
    return [line for line in lines if line["event"] == event]
