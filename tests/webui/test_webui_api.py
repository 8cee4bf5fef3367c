"""The HTTP API, the settings and the plot's axes in a real webui, started with --api-auth and without the built-in Lora extension."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.webui.sample_networks import notes, write_network, write_samples
from tests.webui.server import WebUI, WebUIError, decode, make_checkpoints

pytestmark = pytest.mark.webui

PASSWORD = "me:secret"
PATHS = ("/sdapi/v1/lycos", "/sdapi/v1/lycos/inspect?name=plain")


class GuardedWebUI(WebUI):
    """A webui whose API asks for a name and a password, and a client that gives them."""

    def call(self, path: str, payload: Any = None, *, method: str | None = None, timeout: float = 300.0) -> Any:
        """As the parent's, with name and password."""
        return self.ask(path, payload, method, timeout, PASSWORD)

    def ask(self, path: str, payload: Any, method: str | None, timeout: float, password: str | None) -> Any:
        """Send one request; WebUIError begins with the status."""
        body = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(self.url + path, data=body, headers={"Content-Type": "application/json"})
        request.method = method or ("GET" if payload is None else "POST")
        if password:
            request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise WebUIError(f"{error.code}: {error.read().decode(errors='replace')}") from error
        return json.loads(text) if text else None


@pytest.fixture(scope="module")
def webui(webui_dir: Path, webui_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedWebUI]:
    folder = tmp_path_factory.mktemp("api")
    make_checkpoints(webui_dir, Path(webui_python), folder / "models", "sd1")
    options = {"disabled_extensions": ["Lora"], "lyco_functional": True, "sd_lyco": "None"}
    data = folder / "data"
    elsewhere = folder / "elsewhere"
    flags = ["--api-auth", PASSWORD, "--lyco-dir", str(elsewhere)]
    with GuardedWebUI(webui_dir, Path(webui_python), models=folder / "models", data=data, flags=flags, options=options) as running:
        running.lyco_dir = elsewhere
        write_samples(running.lyco_dir)
        notes(running.lyco_dir / "broken.safetensors", ["no", "table"])
        running.call("/sdapi/v1/refresh-lycos", {})
        yield running


def test_every_network_is_listed_whatever_model_it_is_for(webui: GuardedWebUI) -> None:
    listed = {entry["name"]: entry for entry in webui.call("/sdapi/v1/lycos")}
    assert set(listed) == {"cat-style", "odd & 'name'", "plain", "large", "broken"}
    cat = listed["cat-style"]
    assert cat["alias"] == "Cat Style v2" and cat["path"] == str(webui.lyco_dir / "cat-style.safetensors")
    assert cat["metadata"]["ss_tag_frequency"]["10_cat"]["orange fur"] == 31
    assert (cat["version"], cat["hash"], listed["large"]["version"]) == ("SD1", "ab" * 6, "SDXL")
    assert listed["cat-style"]["problem"] is None and "broken.safetensors" in listed["broken"]["problem"]


def test_refresh_finds_a_new_file(webui: GuardedWebUI) -> None:
    before = webui.call("/sdapi/v1/refresh-lycos", {})["count"]
    write_network(webui.lora_dir / "late.safetensors")
    assert webui.call("/sdapi/v1/refresh-lycos", {})["count"] == before + 1
    (webui.lora_dir / "late.safetensors").unlink()
    assert webui.call("/sdapi/v1/refresh-lycos", {})["count"] == before


def test_inspect_tells_about_a_file_of_the_folders_only(webui: GuardedWebUI) -> None:
    found = webui.call("/sdapi/v1/lycos/inspect?name=cat-style")
    assert found["family"] == "sd1" and len(found["modules"]) == 4 and found["algorithms"] == {"lora": 4}
    outside = webui.data / "outside.safetensors"
    write_network(outside)
    for name in ("../../outside", str(outside), "nothing"):
        with pytest.raises(WebUIError, match=r"^404"):
            webui.call(f"/sdapi/v1/lycos/inspect?name={urllib.request.quote(name)}")
    with pytest.raises(WebUIError, match=r"^422.*broken\.safetensors"):
        webui.call("/sdapi/v1/lycos/inspect?name=broken")


def test_all_of_it_asks_for_the_password(webui: GuardedWebUI) -> None:
    for password in (None, "me:wrong", "you:secret", "me:"):
        for path in PATHS:
            with pytest.raises(WebUIError, match=r"^401"):
                webui.ask(path, None, None, 60, password)
        with pytest.raises(WebUIError, match=r"^401"):
            webui.ask("/sdapi/v1/refresh-lycos", {}, None, 60, password)


def test_the_routes_are_described(webui: GuardedWebUI) -> None:
    described = webui.call("/openapi.json")["paths"]
    for path, method in (("/sdapi/v1/lycos", "get"), ("/sdapi/v1/refresh-lycos", "post"), ("/sdapi/v1/lycos/inspect", "get")):
        assert described[path][method]["summary"] and described[path][method]["description"]


def test_settings_keep_old_values(webui: GuardedWebUI) -> None:
    options = webui.options()
    assert options["lyco_mode"] == "functional"  # what the old key asked for
    assert options["lyco_add_hashes_to_infotext"] is True and options["lyco_preferred_name"] == "Filename"


def test_settings_can_be_changed(webui: GuardedWebUI) -> None:
    assert webui.options(lyco_show_all=True)["lyco_show_all"] is True
    assert json.loads((webui.data / "config.json").read_text())["lyco_show_all"] is True
    assert webui.options(lyco_show_all=False)["lyco_show_all"] is False


def plot(webui: GuardedWebUI, prompt: str, x: tuple[str, str], y: tuple[str, str] = ("Nothing", "")) -> list[Any]:
    """Draw a plot without its legend, its values written as text; return the cells."""
    scripts = webui.call("/sdapi/v1/script-info")
    fields = next(script for script in scripts if script["name"] == "x/y/z plot" and not script["is_img2img"])["args"]
    number = fields[0]["choices"].index
    places = [number(x[0]), x[1], [], number(y[0]), y[1], [], number("Nothing"), "", []]
    wanted = {"draw legend": False, "include sub images": True, "use text inputs instead of dropdowns": True}
    others = [wanted.get(str(field["label"]).lower(), field["value"]) for field in fields[len(places) :]]
    payload = {
        "prompt": prompt, "seed": 1, "steps": 2, "width": 64, "height": 64, "sampler_name": "Euler",
        "script_name": "x/y/z plot", "script_args": [*places, *others],
    }  # fmt: skip
    answer = webui.call("/sdapi/v1/txt2img", payload)
    return [decode(image) for image in answer["images"]][1:]


def test_a_plot_over_networks_and_strengths_gives_the_pictures_of_the_tags(webui: GuardedWebUI) -> None:
    cells = plot(webui, "a cat", ("[LyCORIS] name", "None,plain"), ("[LyCORIS] strength", "0.5,1"))
    prompts = ("a cat", "a cat<lyco:plain:0.5>", "a cat", "a cat<lyco:plain:1>")
    expected = [webui.txt2img(prompt, steps=2, cfg_scale=7)[0][0] for prompt in prompts]
    assert [cell.tobytes() for cell in cells] == [picture.tobytes() for picture in expected]
    assert len({cell.tobytes() for cell in cells}) == 3


@pytest.mark.parametrize(
    "label, values, tags",
    [
        ("[LyCORIS] te", "0,1", ["<lyco:plain:0:0.5>", "<lyco:plain:1:0.5>"]),
        ("[LyCORIS] unet", "0,1", ["<lyco:plain:0.5:0>", "<lyco:plain:0.5:1>"]),
        ("[LyCORIS] block preset", "None,INS", ["<lyco:plain:0.5>", "<lyco:plain:0.5:lbw=INS>"]),
    ],
)
def test_every_other_axis_gives_the_pictures_of_its_tags(webui: GuardedWebUI, label: str, values: str, tags: list[str]) -> None:
    cells = plot(webui, "a cat<lyco:plain:0.5>", (label, values))
    expected = [webui.txt2img(f"a cat{tag}", steps=2, cfg_scale=7)[0][0] for tag in tags]
    assert [cell.tobytes() for cell in cells] == [picture.tobytes() for picture in expected]


def test_a_plot_with_an_unknown_name_or_preset_is_refused_before_the_first_picture(webui: GuardedWebUI) -> None:
    for label, value in (("[LyCORIS] name", "plian"), ("[LyCORIS] block preset", "MID")):
        with pytest.raises(WebUIError, match=r"^500"):
            plot(webui, "a cat<lyco:plain:0.5>", (label, value))
    sentences = ('there is no network called "plian"; the nearest name is plain', 'there is no preset "MID"')
    for _ in range(100):  # some webuis write what happened after they have answered
        if all(sentence in webui.log() for sentence in sentences):
            return
        time.sleep(0.1)
    raise AssertionError(webui.log()[-3000:])
