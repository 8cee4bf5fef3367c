"""The command line: `app` (what runs without a verb), `generate`, `inspect`. Heavy imports wait for the verb that needs them."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import LycorisError
from .tools.arguments import Parser, size
from .tools.cli import add_tool_commands

if TYPE_CHECKING:
    from .models import BaseModel

REFUSED, FAILED, STOPPED = 1, 2, 130  # exit codes; 130 is what shells expect after Ctrl-C
DEFAULT_PORT = 7870
TAG_HELP = 'A prompt may hold tags: "a castle <lyco:style:0.7>" puts the network "style" on at strength 0.7'


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code; what goes wrong is one sentence on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    if hasattr(sys.stdout, "reconfigure"):  # a name that the terminal's encoding lacks is printed by its code, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    parser, verbs = command_parser()
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "app")
    elif not words[0].startswith("-") and words[0] not in verbs:
        near = "".join(f" did you mean {name}?" for name in get_close_matches(words[0], list(verbs), 1))
        return _failed(f'there is no verb "{words[0]}";{near} There are {", ".join(verbs)}', "UsageError", "--json" in words)
    try:
        arguments = parser.parse_args(words) if words[0] != "train" else argparse.Namespace(run=_train, words=words[1:])
    except SystemExit as ended:
        if ended.code and "--json" in words:  # argparse has said on stderr what is wrong
            print(json.dumps({"failure": parser.said, "kind": "UsageError"}, indent=2, ensure_ascii=False))
        raise
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except OSError as error:
        return _no_output(error, "--json" in words)
    except LycorisError as error:
        return _failed(str(error), type(error).__name__, getattr(arguments, "json", False))
    except KeyboardInterrupt:
        print("\nStopped; no file is left half written.", file=sys.stderr)
        return STOPPED


def _no_output(error: OSError, as_json: bool) -> int:
    """Return the exit code where the system takes no output; raise any other fault."""
    if "No usable temporary directory" in str(error):  # torch asks for one as it is imported
        return _failed("no folder for temporary files can be written to; name one in TMPDIR", "OutputError", as_json)
    if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EFBIG):
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # who read it has seen enough, as `head` has; or a disk is full
    return 0 if error.errno == errno.EPIPE else _failed(f"the output cannot be written: {error.strerror}", "OutputError", False)


def _failed(sentence: str, kind: str, as_json: bool) -> int:
    """Say what went wrong, to programs too; return the exit code."""
    print(f"error: {sentence}", file=sys.stderr)
    if as_json:
        print(json.dumps({"failure": sentence, "kind": kind}, indent=2, ensure_ascii=False))
    return FAILED


def command_parser() -> tuple[Parser, Any]:
    """Return the parser of the command line, and its verbs by name."""
    parser = Parser(
        prog=_program(), description="Networks of the LoRA/LyCORIS family on Stable Diffusion: make images, look into files.",
        epilog=f"Without a verb the app opens in the browser. Every verb has its own --help. {TAG_HELP}.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"sd-webui-lycoris {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_app(verbs.add_parser("app", help="open the app in the browser (the default)", description="Open the app in the browser."))
    _add_generate(verbs.add_parser("generate", help="make one image", description=f"Make one image. {TAG_HELP}."))
    _add_inspect(verbs.add_parser("inspect", help="tell what a network file is", description="Tell everything about a network file."))
    add_tool_commands(verbs)
    _add_train(verbs.add_parser("train", help="train a network from a folder of images", add_help=False))
    return parser, verbs.choices


def _program() -> str:
    """Return what the user typed to start this: `run.py`, `lycoris` or `python -m lib_lycoris`."""
    name = Path(sys.argv[0]).name
    return {"__main__.py": "python -m lib_lycoris", "": "lycoris"}.get(name, name)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ckpt", type=Path, metavar="FILE",
        help="a checkpoint: a .safetensors file (SD1, SD2, SDXL base) or a diffusers folder; without it a trained toy that"
        " draws shapes, with demo networks",
    )  # fmt: skip
    parser.add_argument("--networks", type=Path, metavar="DIR", help="a folder with network files, searched with its subfolders")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps (default: a GPU if there is one)")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where the app keeps what it makes (default: LyCORIS in the user's documents)"
    )


def _add_app(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="the port, or the next free one (default: %(default)s)")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="a name under which the app may be asked too, such as that of a reverse proxy on this machine (default: loopback only)",
    )  # fmt: skip
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser, only print the address")
    parser.set_defaults(run=_app)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", required=True, help="what to draw, tags included")
    parser.add_argument("--negative", default="", help="what to stay away from")
    parser.add_argument("--seed", type=int, default=-1, help="the same seed gives the same image (default: a random one)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: %(default)s)")
    parser.add_argument("--size", type=size, metavar="WxH", help="pixels, such as 512x768 (default: what suits the model)")
    parser.add_argument("--cfg", type=float, help="how closely to follow the prompt, such as 7 (default: what suits the model)")
    parser.add_argument("--sampler", help='DDIM (the default), Euler, "Euler a", "DPM++ 2M" or "DPM++ 2M Karras"; of SD 1, 2 and XL alone')
    parser.add_argument("--out", type=Path, default=Path("image.png"), metavar="FILE", help="the image, a PNG (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON on stdout")
    parser.add_argument(
        "--lenient", action="store_true",
        help="leave out tags and networks that cannot be used, as the webui does (default: end before anything is computed)",
    )  # fmt: skip
    _add_model(parser)
    parser.set_defaults(run=_generate)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    from .models import FAMILIES

    parser.add_argument("file", type=Path, help="a network file (.safetensors, .pt, .ckpt, .bin), or a folder that PEFT or diffusers saved")
    parser.add_argument(
        "--family", "--base", choices=list(FAMILIES), metavar="ID",
        help="read it for this family of base models, such as chroma (default: the file's own; docs/families.md lists them)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=_inspect)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs=argparse.REMAINDER)
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    """Train in a process of its own: nothing of it is ever part of this one."""
    from .tools.training.runs import run_to_end

    return run_to_end(arguments.words)


def _app(arguments: argparse.Namespace) -> int:
    from .tools.jobs.freed_memory import share_freed_memory

    share_freed_memory()  # before there are threads
    host = _open(arguments)
    from .hosts.embedded.files import open_store, use_checkpoint
    from .hosts.infotext import save_png
    from .hosts.jobs_api import add_docs, add_job_routes
    from .hosts.library.cards import LibraryCards
    from .hosts.site import LOOPBACK, SiteGuard
    from .tools.jobs.queue import shared
    from .tools.jobs.service import JobService
    from .ui.app import launch
    from .ui.context import PageContext
    from .ui.settings import Settings

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the end by a service manager tidies up as Ctrl-C does
    store, jobs = open_store(host, arguments.ckpt, arguments.networks, arguments.data_dir), shared()
    kept = store.kept_folder()
    print(host.about(), f"Results, images and presets are kept in {kept}", sep="\n", file=sys.stderr)
    if old := store.old.sentence():
        print(f"{old} The page can move them to your results.", file=sys.stderr)
    context = PageContext(store, jobs, host, Settings(kept / "pages.json"), "Generate", lambda path: use_checkpoint(host, path))
    context.networks, context.any_path, context.trains_here = LibraryCards(lambda: host.library), True, True
    service = JobService(jobs, store)

    def routes(app: Any) -> None:
        add_job_routes(app, service, [])  # the guard is before all routes
        add_docs(app, service)

    guard = partial(SiteGuard, names=(*LOOPBACK, *arguments.allow_host))
    launch(host, save_png, context, routes, guard, port=arguments.port, browser=not arguments.no_browser)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # requests that still compute are threads inside torch, and Python's own end around them aborts or hangs


def _generate(arguments: argparse.Namespace) -> int:
    if arguments.out.suffix.lower() != ".png":
        raise LycorisError(f"{arguments.out} must end in .png, the format that keeps the prompt in the image")
    if not _writable(arguments.out.absolute().parent):
        raise LycorisError(f"{arguments.out} cannot be written: its folder does not take files; choose another with --out")
    host = _open(arguments)
    from .hosts.infotext import save_png
    from .hosts.protocol import GenerationRequest, TagsRefused

    width, height = arguments.size or (host.size, host.size)
    cfg = host.cfg if arguments.cfg is None else arguments.cfg
    sampler = arguments.sampler or next(iter(host.samplers()))
    request = GenerationRequest(
        arguments.prompt, arguments.negative, arguments.seed, arguments.steps, width, height, cfg, sampler, not arguments.lenient
    )
    started = time.monotonic()
    try:
        picture = _with_bar(host, request)
    except TagsRefused as error:
        sentences = [f"error: {sentence}" for sentence in error.sentences]
        print(*sentences, "No image was made; --lenient makes it without these networks.", sep="\n", file=sys.stderr)
        if arguments.json:
            print(json.dumps({"failure": "\n".join(error.sentences), "kind": type(error).__name__}, indent=2, ensure_ascii=False))
        return REFUSED
    save_png(picture, arguments.out)
    seconds = time.monotonic() - started
    for sentence in picture.problems:
        print(f"note: {sentence}", file=sys.stderr)
    if arguments.json:
        facts = {"image": str(arguments.out), "seed": picture.seed, "seconds": round(seconds, 3), "model": host.identity}
        facts.update(applied=picture.applied, problems=picture.problems, infotext=picture.infotext)
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        for sentence in picture.applied:
            print(sentence)
        print(f"{arguments.out}: {width}x{height}, seed {picture.seed}, {seconds:.1f} s")
    return 0


def _writable(folder: Path) -> bool:
    """Tell whether files can be made in a folder, which may itself have to be made: before minutes are spent on one."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _with_bar(host: Any, request: Any) -> Any:
    from tqdm import tqdm

    live = sys.stderr.isatty()  # elsewhere a line now and then, and one at the end: a log is not redrawn
    bars: list[Any] = []  # the bar, from the moment when there is something to show

    def tell(at: Any) -> None:
        if not bars:
            bars.append(tqdm(total=request.steps, unit="step", desc="sampling", leave=not live, mininterval=0.1 if live else 10))
        bars[0].update(at.step - bars[0].n)

    try:
        return host.generate(request, tell)
    finally:
        for bar in bars:
            bar.close()


def _inspect(arguments: argparse.Namespace) -> int:
    from .tools.examine.inspect import inspect
    from .tools.examine.inspect_text import as_text

    found = inspect(arguments.file, _demo_base(arguments), arguments.family, "the demo model")
    print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False) if arguments.json else as_text(found))
    return 0 if found.usable else 1


def _demo_base(arguments: argparse.Namespace) -> BaseModel | None:
    """Return the demo model for its own networks, unless a family is asked for."""
    if arguments.family:
        return None
    from .demo import CHECKPOINT
    from .networks.reading.reader import open_file

    if open_file(arguments.file).metadata.get("ss_sd_model_name") != CHECKPOINT.name:
        return None
    from .hosts.embedded.host import EmbeddedHost

    return EmbeddedHost.open(device="cpu").base


def _open(arguments: argparse.Namespace) -> Any:
    """Open the embedded host; say what to install where its packages are missing."""
    try:
        from .hosts.embedded.host import EmbeddedHost
    except ImportError as error:
        raise LycorisError(
            f"the package {error.name} is missing; `python3 run.py` installs what images need, or: pip install 'sd-webui-lycoris[app]'"
        ) from error
    return EmbeddedHost.open(arguments.ckpt, arguments.networks, arguments.device, arguments.data_dir)
