"""Start a real webui on CPU with this checkout as its extension, and talk to its HTTP API.

`WebUI(DIR, PYTHON, models=..., data=...)`: DIR is a webui folder (one of kinds.py), PYTHON its interpreter, `models` a folder
made by make_checkpoints, `data` a private folder that takes everything the webui writes. Nothing is written into DIR.
Needs the standard library and Pillow only.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from tests.webui.kinds import recognise

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
EXTENSION_PARTS = ("install.py", "preload.py", "metadata.ini", "style.css", "javascript", "scripts", "lib_lycoris", "localizations")
OPTIONS = {  # quiet, nothing saved, nothing looked up
    "samples_save": False,
    "grid_save": False,
    "save_to_dirs": False,
    "live_previews_enable": False,
    "show_progress_every_n_steps": -1,
    "auto_launch_browser": "Disable",
    "do_not_add_watermark": True,
    "lora_preferred_name": "Filename",
}

# the Forges paste no prompt before they are started a second time: until then their fields have no value whose kind they could take
FIELDS = ("Prompt", "Negative Prompt", "Negative prompt")
SECOND_START = {f"{page}/{field}/value": "" for page in ("txt2img", "img2img") for field in FIELDS}
NOT_INHERITED = ("COMMANDLINE_ARGS", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")  # without byte code each start would compile everything
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class WebUIError(RuntimeError):
    """The webui did not start, or answered an API call with an error; the message ends with the log's tail."""


def make_checkpoints(webui: Path, python: Path, out: Path, *kinds: str) -> list[Path]:
    """Run the maker of checkpoints under the webui's python for `kinds` (kind or kind:seed); return the checkpoint files."""
    maker = recognise(webui).maker
    command = [str(python), str(HERE / maker), "--webui", str(webui), "--out", str(out), *kinds]
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPYCACHEPREFIX=byte_code().name)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=out.parent)
    if done.returncode:
        raise WebUIError(f"{maker} failed for {', '.join(kinds)}:\n{done.stderr[-2000:]}")
    names = [(text + ":1").split(":")[:2] for text in kinds]
    return [out / "checkpoints" / f"{kind}-{seed}.safetensors" for kind, seed in names]


@cache
def byte_code() -> tempfile.TemporaryDirectory[str]:
    """Return the folder for the byte code of all webuis of this run: each would compile its packages anew."""
    return tempfile.TemporaryDirectory(prefix="lycoris-webui-", ignore_cleanup_errors=True)


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def copy_extension(checkout: Path, target: Path) -> None:
    """Copy the parts of `checkout` that an installed extension uses; a copy, so that the webui cannot write here."""
    target.mkdir(parents=True)
    for name in EXTENSION_PARTS:
        source = checkout / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy2(source, target / name)


def decode(picture: str) -> Image.Image:
    """Return the image of one base64 PNG of the API."""
    return Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")


class WebUI:
    """One running webui; use it as a context manager, or call start() and stop()."""

    def __init__(
        self,
        folder: Path,
        python: Path,
        *,
        models: Path,
        data: Path,
        checkout: Path | None = CHECKOUT,
        extensions: Sequence[Path] = (),
        checkpoint: str = "sd1-1.safetensors",
        flags: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        threads: int | None = 1,
    ) -> None:
        """Prepare `data`; `checkout=None` starts without our extension, `extensions` are further folders to copy in.

        threads: that torch computes with; None: as many as it takes by itself.
        """
        self.folder, self.python, self.models, self.data = Path(folder), Path(python), Path(models), Path(data)
        self.lora_dir, self.lyco_dir = self.data / "models" / "Lora", self.data / "models" / "LyCORIS"
        self.embeddings_dir = self.data / "embeddings"
        self.log_path = self.data / "webui.log"
        self.kind = recognise(self.folder)
        self.flags = list(flags)
        self.threads = threads
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.startup_seconds = 0.0
        for path in (self.lora_dir, self.lyco_dir, self.embeddings_dir, self.data / "tmp"):
            path.mkdir(parents=True, exist_ok=True)
        self._install(checkout, [HERE / self.kind.teacher, *extensions])
        settings = {**OPTIONS, **dict(self.kind.settings), "sd_model_checkpoint": checkpoint, **(options or {})}
        (self.data / "config.json").write_text(json.dumps(settings))
        (self.data / "ui-config.json").write_text(json.dumps(SECOND_START))

    def _install(self, checkout: Path | None, extensions: Sequence[Path]) -> None:
        target = self.data / "extensions"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for extension in extensions:
            shutil.copytree(extension, target / extension.name, ignore=shutil.ignore_patterns("__pycache__"))
        if checkout is not None:
            copy_extension(checkout, target / "sd-webui-lycoris")

    def command(self) -> list[str]:
        """Return the command line; every folder that the webui writes to lies under `data`."""
        return [*self.kind.command(self.python, self.folder, self.data, self.models, self.port), *self.flags]

    def environment(self) -> dict[str, str]:
        """Return the environment: offline hubs, and byte code and temporary files outside of the webui."""
        own = {
            "PYTHONUNBUFFERED": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HOME": str(self.data / "hf"),
            "HUGGINGFACE_HUB_CACHE": str(self.models / "hub"),
            "TRANSFORMERS_CACHE": str(self.models / "hub"),
            "PYTHONPYCACHEPREFIX": byte_code().name,
            "TMPDIR": str(self.data / "tmp"),
            "GRADIO_TEMP_DIR": str(self.data / "tmp"),
            "MPLCONFIGDIR": str(self.data),
            "SD_WEBUI_RESTARTING": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        kept = {name: value for name, value in os.environ.items() if name not in (*NOT_INHERITED, *THREADS)}
        threads = {} if self.threads is None else dict.fromkeys(THREADS, str(self.threads))
        return {**kept, **own, **threads}

    def start(self, timeout: float = 600.0) -> WebUI:
        """Start and wait until /sdapi/v1/options answers and the model is there; raise WebUIError after `timeout` s."""
        self.port = free_port()
        began = time.monotonic()
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.data,
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            self._wait(began + timeout)
        except BaseException:
            self.stop()
            raise
        self.startup_seconds = time.monotonic() - began
        return self

    def _wait(self, deadline: float, startups: int = 1) -> None:
        """Wait until the UI was built `startups` times, the model is loaded and the API answers.

        No request before the line `Startup time`: an early one starts the web application and the webui, which adds its
        API after that, ends. And none that changes the model while the first one loads: that breaks the loading.
        """
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise WebUIError(f"the webui ended while it started; its log ends with:\n{self.log()[-3000:]}")
            log = self.log()
            if "model failed to load" in log:
                raise WebUIError(f"the webui could not load its checkpoint; its log ends with:\n{log[-3000:]}")
            if log.count("Startup time: ") >= startups and self.kind.loaded in log:
                self.options()
                return
            time.sleep(0.2)
        raise WebUIError(f"the webui did not answer in time; its log ends with:\n{self.log()[-3000:]}")

    def reload_ui(self, timeout: float = 120.0) -> None:
        """Press the button that reloads the UI (scripts are unloaded and loaded again) and wait until it is back."""
        config = self.call("/config")
        button = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "settings_restart_gradio")
        backed = [found for found in enumerate(config["dependencies"]) if found[1]["backend_fn"]]
        event = next(number for number, found in backed if button in found["targets"] or [button, "click"] in found["targets"])
        startups = self.log().count("Startup time: ") + 1
        self.call("/run/predict", {"fn_index": event, "data": [], "session_hash": "tests"})
        self._wait(time.monotonic() + timeout, startups)

    def stop(self) -> None:
        """End the server and everything it started; safe to call twice."""
        process, self.process = self.process, None
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    continue

    def __enter__(self) -> WebUI:
        """Start the server."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the server."""
        self.stop()

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """Return what the server printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def call(self, path: str, payload: Any = None, *, method: str | None = None, timeout: float = 300.0) -> Any:
        """GET `path`, or POST `payload` as JSON; return the JSON answer, raise WebUIError with the server's words."""
        body = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(self.url + path, data=body, headers={"Content-Type": "application/json"})
        request.method = method or ("GET" if payload is None else "POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            words = error.read().decode(errors="replace")[:1000]
            raise WebUIError(f"{request.method} {path} answered {error.code}: {words}") from error
        return json.loads(text) if text else None

    def options(self, **changes: Any) -> dict[str, Any]:
        """Set options if any are given (names as in config.json), then return all of them."""
        if changes:
            self.call("/sdapi/v1/options", changes)
        found: dict[str, Any] = self.call("/sdapi/v1/options")
        return found

    def txt2img(self, prompt: str, **fields: Any) -> tuple[list[Image.Image], dict[str, Any]]:
        """Make 64x64 images in 4 Euler steps from seed 1, unless `fields` say otherwise; return them and the info."""
        return self._pictures("/sdapi/v1/txt2img", prompt, fields)

    def img2img(self, prompt: str, image: Image.Image, **fields: Any) -> tuple[list[Image.Image], dict[str, Any]]:
        """As txt2img, starting from `image`."""
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        return self._pictures("/sdapi/v1/img2img", prompt, {"init_images": [encoded], **fields})

    def _pictures(self, path: str, prompt: str, fields: Mapping[str, Any]) -> tuple[list[Image.Image], dict[str, Any]]:
        payload = {
            "prompt": prompt,
            "seed": 1,
            "steps": 4,
            "width": 64,
            "height": 64,
            "cfg_scale": 5.0,
            "sampler_name": "Euler",
            "scheduler": "Automatic",
            **(dict(self.kind.hires) if fields.get("enable_hr") else {}),
            **fields,
        }
        answer = self.call(path, payload, timeout=600.0)
        return [decode(picture) for picture in answer["images"]], json.loads(answer["info"])
