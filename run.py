#!/usr/bin/env python3
"""Start sd-webui-lycoris with nothing but Python: makes .venv beside this file, installs what is needed, and runs.

  python3 run.py [app]              the app, in the browser
  python3 run.py test               the whole test suite; `test --help` says what else it takes
  python3 run.py bench NAME ...     a benchmark of tests/benchmarks
  python3 run.py dev family CLASS   a draft of a base model family's file, for developers
  python3 run.py VERB ...           generate, inspect, merge, extract, resize, convert, bake, split, prune, compare, measure,
                                    verify, undo, metadata, slim, find, interrogate
  python3 run.py train ...          train a network from a folder of images; installs what that needs first

`python3 run.py VERB --help` explains a verb. Needs Python 3.10 or newer.
"""

import sys

if sys.version_info < (3, 10):
    sys.exit(
        "sd-webui-lycoris needs Python 3.10 or newer, and this is Python %d.%d: install a newer one from python.org "
        "and start run.py with that." % sys.version_info[:2]
    )

import argparse
import ast
import contextlib
import hashlib
import json
import os
import queue
import re
import runpy
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


class Trouble(Exception):
    """A sentence for the user; ends the run with exit code 1."""


class Environment(NamedTuple):
    """A set of pinned packages: its folder, the Pythons it lives with (best first), the extras its tests need."""

    name: str
    path: Path
    pythons: tuple[str, ...]
    test_extras: tuple[str, ...]

    @property
    def python(self) -> Path:
        return in_venv(self.path, "python")

    @property
    def constraints(self) -> Path:
        return ROOT / "constraints" / f"{self.name}.txt"

    @property
    def state_file(self) -> Path:
        return self.path / "lycoris-state.json"


NEW = Environment("new", ROOT / ".venv", ("3.12", "3.11", "3.13", "3.10"), ("app", "test", "oracle"))
OLD = Environment("old", ROOT / ".venv-old", ("3.10",), ("app", "test"))
MIDDLE = Environment("middle", ROOT / ".venv-middle", ("3.11", "3.12", "3.10"), ("app", "test"))
SETS = {environment.name: environment for environment in (NEW, OLD, MIDDLE)}


def in_venv(folder: Path, program: str) -> Path:
    return folder / "Scripts" / f"{program}.exe" if os.name == "nt" else folder / "bin" / program


TRAIN, TRAIN_MB = ("app", "train"), 25
OPTIMISERS = {  # what is asked for by --optimizer_type -> the extra that has it, and MB to download
    "8bit": ("train-8bit", 45), "prodigy": ("train-prodigy", 1), "schedulefree": ("train-schedulefree", 1),
}  # fmt: skip


class Display:
    """One line that says how far a command is: rewritten on a terminal, printed every ten seconds elsewhere."""

    def __init__(self, title: str) -> None:
        self.title, self.start, self.next_at = title, time.monotonic(), 0.0
        self.text = "starting"
        self.tail = deque[str](maxlen=15)

    def feed(self, line: str) -> None:
        self.tail.append(line)
        self.text = line.strip() or self.text

    def now(self) -> str:
        """Return how far it is."""
        return self.text

    def show(self, end: str = "") -> None:
        now, live = time.monotonic(), sys.stdout.isatty()
        if now < self.next_at and not end:
            return
        self.next_at = now + (0.2 if live else 10.0)
        line = f"{self.title}: {end or self.now()}  [{now - self.start:.0f} s]"
        width = shutil.get_terminal_size().columns - 1
        print("\r" + line[:width].ljust(width) if live else line, end="" if live and not end else "\n", flush=True)


class PipDisplay(Display):
    """Display of `pip install`: what is looked up, downloaded and installed, with percent."""

    def __init__(self, title: str, folder: Path) -> None:
        super().__init__(title)
        self.folder, self.file, self.found, self.total, self.before = folder, "", 0, 0, 0

    def feed(self, line: str) -> None:
        match = re.match(r"Progress (\d+) of (\d+)", line)
        if match:
            done, whole = int(match[1]), max(int(match[2]), 1)
            self.text = f"downloading {self.file}  {done / 1e6:.0f} of {whole / 1e6:.0f} MB  {100 * done // whole} %"
            return
        self.tail.append(line)
        word, _, rest = line.strip().partition(" ")
        if word == "Collecting":
            self.found += 1
            self.text = f"looking up package {self.found}: {rest.split(' (')[0]}"
        elif word == "Downloading":
            self.file = rest.split(" (")[0].split("/")[-1].split("#")[0]
            self.text = f"downloading {self.file}"
        elif line.startswith("Installing collected packages:"):
            self.total, self.before = line.count(",") + 1, self.installed()

    def installed(self) -> int:
        """Count the finished packages: INSTALLER is what pip writes last."""
        packages = "Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages"
        return sum(1 for _ in self.folder.glob(f"{packages}/*.dist-info/INSTALLER"))

    def now(self) -> str:
        if not self.total:
            return self.text
        done = min(max(self.installed() - self.before, 0), self.total)
        return f"installing package {done} of {self.total}  {100 * done // self.total} %"


def run_shown(display: Display, command: Sequence[str]) -> list[str] | None:
    """Run a command behind a progress line; None if it went well, else its last lines."""
    lines = queue.Queue[str | None]()
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET")}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        process = subprocess.Popen(command, env={**clean, "PYTHONUNBUFFERED": "1"}, text=True, errors="replace", **pipes)
    except OSError as error:  # a program that is not there, or that this user may not run
        return [str(error)]

    def read() -> None:
        with process.stdout:
            for line in process.stdout:
                lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            display.show()
            try:
                line = lines.get(timeout=0.5)
            except queue.Empty:
                continue  # silence for a while: only the seconds go on
            if line is None:
                break
            display.feed(line)
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    display.show(end="failed" if code else "done")
    return list(display.tail) if code else None


def requirements(extras: Sequence[str]) -> list[str]:
    """Read the requirement lists of pyproject.toml (Python 3.10 has no tomllib; an array of strings reads as Python)."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = dict(re.findall(r"^([\w-]+)\s*=\s*(\[\n.*?^\])", text, re.MULTILINE | re.DOTALL))
    return [line for name in ("dependencies", *extras) for line in ast.literal_eval(lists[name])]


def fingerprint(environment: Environment, extra: str, number: str) -> str:
    parts = [environment.constraints.read_text(encoding="utf-8"), *requirements([extra]), number]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_state(environment: Environment) -> dict:
    """Say what is installed: {} when there is no environment, or one whose installation was cut off in the middle."""
    try:
        state = json.loads(environment.state_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if state["status"] == "usable" and environment.python.exists() else {}


def write_state(environment: Environment, status: str, number: str, extras: Sequence[str]) -> None:
    marks = {extra: fingerprint(environment, extra, number) for extra in extras}
    new = environment.state_file.with_suffix(".new")
    new.write_text(json.dumps({"status": status, "python": number, "extras": marks}, indent=1), encoding="utf-8")
    os.replace(new, environment.state_file)


def is_ready(environment: Environment, extras: Sequence[str]) -> bool:
    state = read_state(environment)
    return bool(state) and all(state["extras"].get(e) == fingerprint(environment, e, state["python"]) for e in extras)


def ask(*command: str) -> str:
    """Give a command's output, or "" if it cannot be run, fails or hangs."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def working_python(candidate: str, number: str) -> str:
    """Give the true path of a Python of this version, or "": a shim on the PATH may have nothing behind it."""
    report = ask(candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2]); print(sys.executable)")
    version, _, path = report.partition("\n")
    return path.strip() if version.strip() == number else ""


def candidates(number: str) -> Iterator[str]:
    """Name the places where a Python of this version may be, the quick ones first."""
    yield f"python{number}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from (str(found) for found in sorted(pyenv.glob(f"{number}.*/bin/python{number}"), reverse=True))
    yield ask("py", f"-{number}", "-c", "import sys; print(sys.executable)")
    yield ask("uv", "python", "find", "--no-project", number)


def fetch_python(number: str) -> str:
    """Download a Python with uv, which is installed into an environment of its own; "" if that does not work."""
    tools = ROOT / ".venv-tools"
    uv = shutil.which("uv") or str(in_venv(tools, "uv"))
    if not Path(uv).exists():
        make_venv(sys.executable, tools)
        if run_shown(PipDisplay("uv", tools), [str(in_venv(tools, "python")), "-m", "pip", "install", "uv"]) is not None:
            return ""
    run_shown(Display(f"Python {number}"), [uv, "python", "install", number])
    return ask(uv, "python", "find", "--no-project", number)


def find_python(environment: Environment) -> tuple[str, str]:
    """Give path and version of a Python for this set: the running one if it fits, else an installed or a downloaded one."""
    here = "%d.%d" % sys.version_info[:2]
    if here in environment.pythons:
        return sys.executable, here
    for number in environment.pythons:
        for candidate in filter(None, candidates(number)):
            python = working_python(candidate, number)
            if python:
                return python, number
    best = environment.pythons[0]
    python = working_python(fetch_python(best), best)
    if python:
        return python, best
    raise Trouble(
        f"The {environment.name} set needs Python {' or '.join(environment.pythons)}; none was found on this machine and "
        f"uv could not download one: install Python {best} and run this again."
    )


def make_venv(python: str, folder: Path) -> None:
    if folder.is_symlink():  # --clear would empty what it leads to, and then refuse the link
        raise Trouble(f"{folder} leads to {folder.resolve()}, which is not complete: complete it where it is, or remove the link.")
    lines = run_shown(Display(f"making {folder.name}"), [python, "-m", "venv", "--clear", str(folder)])
    if lines is not None:
        number = ask(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
        raise Trouble(
            "\n".join(lines) + f"\nPython {number} ({python}) cannot make a virtual environment: on Debian and Ubuntu "
            f"run `sudo apt install python{number}-venv`, elsewhere install Python from python.org; then run this again."
        )


def pip_install(environment: Environment, title: str, *arguments: str, may_lack: str = "") -> bool:
    """Install with pip; False if pip knows no such version of the package `may_lack`, Trouble for every other failure."""
    pip = [str(environment.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    lines = run_shown(PipDisplay(title, environment.path), [*pip, "-c", str(environment.constraints), *arguments])
    if lines is None:
        return True
    missing = rf"(Cannot install|No matching distribution found for) {may_lack}=="  # how it is said hangs on pip's version
    if may_lack and any(re.search(missing, line) for line in lines):
        return False
    raise Trouble(
        "\n  ".join(["pip's last lines:", *lines]) + f"\nInstalling stopped at: {title}. The lines above say why, often "
        "it is the network or a full disk; mend that and run the same command again, it goes on from here."
    )


def answers(address: str, seconds: float = 3) -> bool:
    """Tell whether a web address answers in time (in a thread, because looking up a name has no time limit)."""
    good: list[bool] = []

    def connect() -> None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=seconds):
            good.append(True)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(good)


def install_torch(environment: Environment) -> None:
    """Install the pinned torch: without an NVIDIA card a CPU build, far smaller, where one is offered."""
    pin = re.search(r"^torch==\S+", environment.constraints.read_text(encoding="utf-8"), re.MULTILINE)[0]
    raw = ("--progress-bar", "raw")
    if sys.platform != "darwin" and not ask("nvidia-smi", "-L"):  # macOS knows one build only
        index = ("--extra-index-url", CPU_WHEELS) if answers(f"{CPU_WHEELS}/torch/") else ()
        if pip_install(environment, "torch for the CPU", *raw, *index, f"{pin}+cpu", may_lack="torch"):
            return
        print("No CPU build of this torch is offered here: taking the general one, which is large.")
    pip_install(environment, "torch", *raw, pin)


def install(environment: Environment, extras: Sequence[str]) -> None:
    """Bring an environment to the wanted extras. While its state says `installing`, a cut-off leaves it to be made anew."""
    state = read_state(environment)
    number = state.get("python", "")
    extras = sorted({*extras, *state.get("extras", ())})
    if not state:
        python, number = find_python(environment)
        print(f"Installing the {environment.name} set for Python {number} into {environment.path}: minutes, but only once.")
        make_venv(python, environment.path)
    write_state(environment, "installing", number, [])
    try:
        pip_install(environment, "pip", "--progress-bar", "off", "pip")
        install_torch(environment)
        pip_install(environment, "packages", "--progress-bar", "raw", *requirements(extras))
    except Trouble:
        write_state(environment, "usable", number, [])  # pip ended by itself: nothing is half there
        raise
    write_state(environment, "usable", number, extras)


def ensure(environment: Environment, extras: Sequence[str]) -> None:
    """Install what is missing, one process at a time (the lock goes with its process; Windows does without)."""
    if is_ready(environment, extras):
        return
    with open(environment.path.with_suffix(".lock"), "w") as lock:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_ready(environment, extras):
            install(environment, extras)


def run_through(command: Sequence[str], folder: Path | None = None, **variables: str) -> int:
    """Run a command to its end and give its exit code; Ctrl-C reaches it by itself, a termination is passed on."""
    before = signal.signal(signal.SIGINT, lambda *_: None)  # an exception could come between the child's end and its code
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **variables})
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    code = process.wait()
    signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


def suite_options() -> argparse.ArgumentParser:
    """Return what `test` takes itself; pytest gets the rest."""
    parser = argparse.ArgumentParser(
        prog="run.py test",
        usage="run.py test [options] [pytest's own arguments]",
        description="Runs the test suite, or the tests that pytest's arguments choose: paths, -k, -m, -x, ...",
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: no corpora, oracles, browser, app or whole images")
    parser.add_argument("--long", action="store_true", help="also the tests that take minutes")
    parser.add_argument("--set", choices=SETS, default=NEW.name, help="the pinned packages to test with (default: %(default)s)")
    parser.add_argument("-m", dest="marks", metavar="EXPRESSION", help='tests of these marks only, such as browser or "not browser"')
    parser.add_argument("--webui", metavar="DIR", help="also test the extension in the webui of this folder")
    parser.add_argument("--webui-python", metavar="PYTHON", help="the Python that this webui runs with")
    parser.add_argument("--webui-beside", metavar="FOLDER", help="also with the extensions of other people that lie in this folder")
    return parser


CORE, BROWSER = "not browser", "browser"  # marks
ONE_PROCESS = {"-n", "--pdb", "-s"}  # pytest's arguments that say how many processes there are, or need the terminal


def whole_suite(arguments: Sequence[str], marks: str | None) -> bool:
    """Tell whether pytest's arguments leave all tests in, or all but the browser's: a few of them start sooner in one process."""
    chosen = any(not word.startswith("-") or word.startswith(("-k", "--deselect")) for word in arguments)
    return not chosen and marks in (None, CORE)


def webui_words(options: argparse.Namespace) -> list[str]:
    """Return what pytest is told of a webui to test in; each as one word: of two, it would take a folder for the tests to run."""
    words = []
    if options.webui:
        folder = Path(options.webui).absolute()
        if not (folder / "webui.py").is_file():
            raise Trouble(f"--webui wants the folder of a webui, and {folder} has no webui.py.")
        print(f"The webui of {folder} is {kind_of(folder)}.")
        words.append(f"--webui={folder}")
    if options.webui_python:
        python = shutil.which(options.webui_python)
        if not python:
            raise Trouble(f"--webui-python wants the Python that the webui runs with, and {options.webui_python} is no program.")
        words.append(f"--webui-python={os.path.abspath(python)}")
    if options.webui_beside:
        beside = Path(options.webui_beside).absolute()
        found = neighbours(beside)
        if not found or not options.webui:
            raise Trouble(
                f"--webui-beside wants --webui, and a folder with checkouts of extensions that it knows: {beside} has {len(found)}."
            )
        print(f"Beside this extension: {', '.join(found)}.")
        words.append(f"--webui-beside={beside}")
    return words


def run_tests(arguments: list[str]) -> int:
    options, rest = suite_options().parse_known_args(arguments)
    environment = SETS[options.set]
    chosen = [f"--{name}" for name in ("quick", "long") if getattr(options, name)]
    chosen += webui_words(options)
    if not options.webui and (options.quick or whole_suite(rest, options.marks)) and not ONE_PROCESS & set(rest):
        chosen += ["-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile"]  # files of tests share nothing: one process a core
    if environment is NEW:
        every = [*TRAIN, *(extra for extra, _ in OPTIMISERS.values())] if options.long else []
        return run_pytest(NEW, (*NEW.test_extras, *every), options.marks, [*chosen, *rest])
    code = 0
    if options.marks != BROWSER:
        code = run_pytest(environment, environment.test_extras, options.marks or CORE, [*chosen, *rest])
    if code == 0 and (options.marks == BROWSER or (options.marks is None and not options.quick and whole_suite(rest, None))):
        code = run_pages(environment, [*chosen, *rest])
    return code


def run_pages(environment: Environment, arguments: Sequence[str]) -> int:
    """Run the browser tests on apps that a set's own Python runs, with its Gradio; the browser's driver is the new set's."""
    ensure(environment, environment.test_extras)
    return run_pytest(NEW, NEW.test_extras, BROWSER, arguments, LYCORIS_APP_PYTHON=str(environment.python))


def run_pytest(environment: Environment, extras: Sequence[str], marks: str | None, arguments: Sequence[str], **variables: str) -> int:
    """Run pytest in an environment, which is brought to these extras first."""
    ensure(environment, extras)
    pytest = [str(environment.python), "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), *(("-m", marks) if marks else ())]
    threads = {"OMP_NUM_THREADS": "1"} if "loadfile" in arguments else {}
    return run_through([*pytest, *map(from_here, arguments)], ROOT, LYCORIS_TEST_SET=environment.name, **threads, **variables)


OPTIMISER = re.compile(r"^\s*optimizer_type\s*=\s*[\"']([^\"']*)", re.MULTILINE)


def configuration(arguments: Sequence[str]) -> str:
    """Return what stands in the file of --config_file; nothing where it is not given or cannot be read, which the training says."""
    files = [arguments[place + 1] for place, word in enumerate(arguments[:-1]) if word == "--config_file"]
    files += [word.partition("=")[2] for word in arguments if word.startswith("--config_file=")]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return Path(files[-1]).read_text(encoding="utf-8-sig") if files else ""
    return ""


def train_extras(arguments: Sequence[str]) -> tuple[list[str], int]:
    """Give the extras that a training needs, and the MB to download: an optimiser's packages only where it is asked for."""
    words = [arguments[place + 1] for place, word in enumerate(arguments[:-1]) if word == "--optimizer_type"]
    words += [word.partition("=")[2] for word in arguments if word.startswith("--optimizer_type=")]
    words += OPTIMISER.findall(configuration(arguments)) if not words else []
    chosen = [OPTIMISERS[part] for word in words for part in OPTIMISERS if part in word.lower()]
    return [*TRAIN, *(extra for extra, _ in chosen)], TRAIN_MB + sum(size for _, size in chosen)


def ensure_training(arguments: Sequence[str]) -> None:
    """Install what a training needs into our own environment, and say how much that is and where it goes."""
    extras, megabytes = train_extras(arguments)
    if not is_ready(NEW, extras):
        more = "beside" if is_ready(NEW, ["app"]) else "after"
        print(f"Training needs more packages, about {megabytes} MB, {more} those of the app, in {NEW.path}; no webui is touched.")
        ensure(NEW, extras)


def neighbours(folder: Path) -> list[str]:
    """Return which of the extensions that the tests know lie in a folder."""
    sys.path[:0] = [str(ROOT)]
    from tests.webui.neighbours import find

    return list(find(folder)) if folder.is_dir() else []


def kind_of(folder: Path) -> str:
    """Return which webui a folder holds, as the tests know them."""
    sys.path[:0] = [str(ROOT)]
    from tests.webui.kinds import recognise

    try:
        return recognise(folder).name
    except ValueError as error:
        raise Trouble(f"--webui: {error}.") from error


def from_here(argument: str) -> str:
    """Make a path absolute that is meant from the current folder; the tests run in the folder of this file."""
    name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    path = value.split("::")[0]
    here = os.sep in path and not (ROOT / path).exists() and Path(path).exists()
    return name + equals + os.path.abspath(path) + value[len(path) :] if here else argument


def run_inside(arguments: list[str]) -> int:
    """Run a verb; this is the process inside the environment."""
    sys.path[:0] = [str(ROOT)]
    try:
        if arguments[:1] not in (["bench"], ["dev"]):
            from lib_lycoris.__main__ import main as command_line

            return command_line(arguments) or 0
        folder, what = {"bench": ("benchmarks", "benchmark"), "dev": ("development", "program")}[arguments[0]]
        files = sorted((ROOT / "tests" / folder).glob("[a-z]*.py"))
        known = [path.stem for path in files if "ArgumentParser" in path.read_text("utf-8")]  # the others are parts of one
        if not arguments[1:] or arguments[1] not in known:
            raise Trouble(f"{arguments[0]} wants the name of a {what}, one of: {', '.join(known) or '(there are none yet)'}.")
        sys.argv = [f"{arguments[0]} {arguments[1]}", *arguments[2:]]
        runpy.run_module(f"tests.{folder}.{arguments[1]}", run_name="__main__", alter_sys=False)
        return 0
    except KeyboardInterrupt:
        return 130


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        if arguments[:1] == ["--inside"]:
            return run_inside(arguments[1:])
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # pip must not be left running behind our back
        if arguments[:1] == ["test"]:
            return run_tests(arguments[1:])
        if {"-h", "--help"} & set(arguments) and not is_ready(NEW, ["app"]):
            print(f"{__doc__}\nThe options of a verb are shown once the packages are installed: start `run.py` without arguments for that.")
            return 0
        ensure_training(arguments) if arguments[:1] == ["train"] else ensure(NEW, ["app"])
        return run_through([str(NEW.python), str(ROOT / "run.py"), "--inside", *arguments])
    except Trouble as trouble:
        print(trouble, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command takes it up again.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
