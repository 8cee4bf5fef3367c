"""run.py: what it asks for, when it installs, how it recovers, and whom it starts. Nothing is downloaded here."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run

ROOT = Path(run.__file__).parent


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> run.Environment:
    """An environment in an empty folder: making it and pip are replaced by records of what would have been done."""
    made = run.Environment("new", tmp_path / "env", run.NEW.pythons, run.NEW.test_extras)

    def make(python: str, folder: Path) -> None:
        made.python.parent.mkdir(parents=True, exist_ok=True)
        made.python.touch()
        made.state_file.unlink(missing_ok=True)
        (folder / "made").write_text(python)

    monkeypatch.setattr(run, "make_venv", make)
    monkeypatch.setattr(run, "find_python", lambda _: ("python3.12", "3.12"))
    monkeypatch.setattr(run, "ask", lambda *_: "")
    monkeypatch.setattr(run, "answers", lambda *_: False)
    return made


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of every call of pip."""
    calls: list[list[str]] = []

    def install(_environment: run.Environment, title: str, *arguments: str, may_lack: str = "") -> bool:
        calls.append([title, *arguments])
        return not may_lack

    monkeypatch.setattr(run, "pip_install", install)
    return calls


# ---- what is installed, and when


def test_requirements_are_those_of_pyproject() -> None:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    expected = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    assert run.requirements(list(extras)) == expected


@pytest.mark.parametrize("environment", [run.NEW, run.OLD], ids=["new", "old"])
def test_every_requirement_is_pinned(environment: run.Environment) -> None:
    lines = environment.constraints.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    names = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    skipped = {"audioop-lts"} if environment is run.OLD else set()  # for Python 3.13, and *old* is 3.10
    wanted = {run.re.split(r"[ ;<>=]", line)[0] for line in run.requirements(environment.test_extras)}
    assert wanted - skipped <= names
    assert not {name for name in names if name.startswith(("nvidia", "triton", "cuda"))}


def test_the_first_run_installs_and_the_second_does_not(environment: run.Environment, pip: list[list[str]]) -> None:
    run.ensure(environment, ["app"])
    assert [call[0] for call in pip] == ["pip", "torch for the CPU", "torch", "packages"]
    assert pip[1][-1].endswith("+cpu")
    assert "diffusers>=0.30" in pip[3]
    pip.clear()
    run.ensure(environment, ["app"])
    assert pip == []
    run.ensure(environment, ["app", "test"])
    assert "pytest>=8" in pip[-1]
    pip.clear()
    run.ensure(environment, ["app"])
    assert pip == []


def test_a_changed_pin_is_installed_without_losing_the_other_extras(
    environment: run.Environment, pip: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run.ensure(environment, ["app", "test"])
    pip.clear()
    (tmp_path / "constraints").mkdir()
    pins = environment.constraints.read_text(encoding="utf-8")
    (tmp_path / "constraints/new.txt").write_text(pins + "another==1\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    (environment.path / "made").unlink()
    run.ensure(environment, ["app"])
    assert "pytest>=8" in pip[-1]
    assert not (environment.path / "made").exists(), "an update does not start from nothing"
    assert run.is_ready(environment, ["app", "test"])


@pytest.mark.parametrize("phase", ["pip", "torch for the CPU", "packages"])
def test_an_installation_that_was_cut_off_starts_anew(environment: run.Environment, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    def stop(_environment: run.Environment, title: str, *_arguments: str, **_options: str) -> bool:
        if title == phase:
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(run, "pip_install", stop)
    with pytest.raises(KeyboardInterrupt):
        run.ensure(environment, ["app"])
    assert not run.is_ready(environment, ["app"])
    assert run.read_state(environment) == {}
    monkeypatch.setattr(run, "pip_install", lambda *_, **__: True)
    (environment.path / "made").unlink()
    run.ensure(environment, ["app"])
    assert (environment.path / "made").exists()
    assert run.is_ready(environment, ["app"])


def test_a_failed_installation_goes_on_where_it_stopped(environment: run.Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_environment: run.Environment, title: str, *_arguments: str, **_options: str) -> bool:
        if title == "packages":
            raise run.Trouble("no network")
        return True

    monkeypatch.setattr(run, "pip_install", fail)
    with pytest.raises(run.Trouble, match="no network"):
        run.ensure(environment, ["app"])
    assert not run.is_ready(environment, ["app"])
    monkeypatch.setattr(run, "pip_install", lambda *_, **__: True)
    (environment.path / "made").unlink()
    run.ensure(environment, ["app"])
    assert not (environment.path / "made").exists()
    assert run.is_ready(environment, ["app"])


def test_a_damaged_or_foreign_folder_is_not_taken_for_an_environment(environment: run.Environment, pip: list[list[str]]) -> None:
    run.ensure(environment, ["app"])
    environment.state_file.write_text("{half a fi", encoding="utf-8")
    assert not run.is_ready(environment, ["app"])
    run.ensure(environment, ["app"])
    environment.python.unlink()
    assert not run.is_ready(environment, ["app"])


def test_a_card_from_nvidia_gets_the_general_torch(
    environment: run.Environment, pip: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ask", lambda *_: "GPU 0: a card")
    run.ensure(environment, ["app"])
    assert [call[0] for call in pip] == ["pip", "torch", "packages"]


# ---- pip's output


def script(tmp_path: Path, *lines: str) -> list[str]:
    path = tmp_path / "speaks.py"
    path.write_text("\n".join(lines), encoding="utf-8")
    return [sys.executable, str(path)]


def test_the_display_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display = run.PipDisplay("packages", tmp_path)
    display.feed("Collecting torch==2.0 (from x)")
    assert display.text == "looking up package 1: torch==2.0"
    display.feed("  Downloading https://host/torch-2.0.whl (200 MB)")
    display.feed("Progress 50000000 of 200000000")
    assert display.text == "downloading torch-2.0.whl  50 of 200 MB  25 %"
    display.feed("Installing collected packages: a, b, c, d")
    package = tmp_path / "lib/python3/site-packages/a-1.dist-info"
    package.mkdir(parents=True)
    (package / "INSTALLER").touch()
    display.show()
    assert "packages: installing package 1 of 4  25 %" in capsys.readouterr().out


def test_a_failing_command_gives_its_last_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run.run_shown(run.Display("work"), script(tmp_path, "for i in range(40): print(i)", "raise SystemExit(3)"))
    assert lines == [str(i) for i in range(25, 40)]
    assert "work: failed" in capsys.readouterr().out
    assert run.run_shown(run.Display("work"), script(tmp_path, "print('fine')")) is None


def test_a_program_that_cannot_run_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    said = run.run_shown(run.Display("x"), [str(tmp_path / "nothing")])
    assert said is not None and "nothing" in said[0]


def test_pip_failing_is_one_sentence_and_its_lines(environment: run.Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    for said in ("No matching distribution found for torch==9+cpu", "Cannot install torch==9+cpu because"):
        monkeypatch.setattr(run, "run_shown", lambda *_, said=said: [f"ERROR: {said}"])
        assert not run.pip_install(environment, "torch", "torch==9+cpu", may_lack="torch")
    with pytest.raises(run.Trouble, match=r"Cannot install[^\n]*\nInstalling stopped at: packages"):
        run.pip_install(environment, "packages", "torch==9+cpu")


# ---- finding a Python


def fake_python(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_python_that_does_not_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_python(tmp_path / "bin/python3.10", "echo 'pyenv: python3.10: command not found' >&2; exit 127")
    good = fake_python(tmp_path / "pyenv/versions/3.10.9/bin/python3.10", "printf '3.10\\n/real/python\\n'")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(run.sys, "version_info", (3, 14, 0))
    assert str(good) in list(run.candidates("3.10"))
    assert run.find_python(run.OLD) == ("/real/python", "3.10")


def test_no_python_at_all_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ask", lambda *_: "")
    monkeypatch.setattr(run, "fetch_python", lambda _: "")
    monkeypatch.setattr(run.sys, "version_info", (3, 14, 0))
    with pytest.raises(run.Trouble, match=r"The old set needs Python 3\.10; none was found on this machine"):
        run.find_python(run.OLD)


def test_a_python_without_venv_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run_shown", lambda *_: ["ensurepip is not available."])
    number = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with pytest.raises(run.Trouble, match=f"apt install python{number}-venv"):
        run.make_venv(sys.executable, tmp_path)


def test_an_environment_that_is_a_link_is_not_emptied_through_it(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "kept").touch()
    (tmp_path / ".venv").symlink_to(tmp_path / "shared", target_is_directory=True)
    with pytest.raises(run.Trouble, match="shared, which is not complete"):
        run.make_venv(sys.executable, tmp_path / ".venv")
    assert (tmp_path / "shared" / "kept").exists()


# ---- whom it starts


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    calls: list[tuple] = []
    monkeypatch.setattr(run, "ensure", lambda environment, extras: calls.append((environment.name, tuple(extras))))
    monkeypatch.setattr(run, "run_through", lambda command, *_, **__: calls.append(tuple(command[1:])) or 7)
    return calls


def test_verbs_go_to_the_command_line_and_tests_to_pytest(started: list[tuple]) -> None:
    inside = (str(ROOT / "run.py"), "--inside")
    pytest_itself = ("-m", "pytest", "-c", str(ROOT / "pyproject.toml"))  # another folder among the options would be taken for the root
    assert run.main([]) == 7
    assert run.main(["inspect", "a b.safetensors"]) == 7
    assert run.main(["test", "--long", "-k", "x"]) == 7
    assert run.main(["test", "--set", "old"]) == 7
    assert started == [
        ("new", ("app",)),
        inside,
        ("new", ("app",)),
        (*inside, "inspect", "a b.safetensors"),
        ("new", ("app", "test", "oracle", *run.TRAIN, *(extra for extra, _ in run.OPTIMISERS.values()))),  # whole trainings want them
        (*pytest_itself, "--long", "-k", "x"),
        ("old", ("app", "test")),
        (*pytest_itself, "-m", "not browser", *several_processes()),
    ]


def test_what_a_training_installs_is_said_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(run, "is_ready", lambda environment, extras: extras == ["app"])
    monkeypatch.setattr(run, "ensure", lambda environment, extras: asked.append((capsys.readouterr().out, extras)))
    run.ensure_training(["train", "--optimizer_type", "AdamW8bit"])
    ((said, extras),) = asked
    assert said == f"Training needs more packages, about 70 MB, beside those of the app, in {run.NEW.path}; no webui is touched.\n"
    assert extras == [*run.TRAIN, "train-8bit"]


def test_an_optimisers_package_is_installed_where_a_configuration_asks_for_it(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[optimizer]\noptimizer_type = "Prodigy"\n')
    prodigy = [*run.TRAIN, "train-prodigy"]
    assert run.train_extras(["--config_file", str(file)])[0] == run.train_extras([f"--config_file={file}"])[0] == prodigy
    assert run.train_extras(["--config_file", str(file), "--optimizer_type", "AdamW"])[0] == list(run.TRAIN)
    assert run.train_extras(["--config_file", str(tmp_path / "none.toml")])[0] == list(run.TRAIN)


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [((), ["old not browser", "new browser"]), (("-m", "browser"), ["new browser"]), (("-m", "not browser"), ["old not browser"]),
     (("-k", "x"), ["old not browser"]), (("--quick",), ["old not browser"])],
)  # fmt: skip
def test_another_set_runs_its_core_then_its_pages_in_the_new_sets_browser(
    arguments: tuple[str, ...], runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[str, str, str | None]] = []

    def run_through(command: list[str], *_: Path, **variables: str) -> int:
        found.append((variables["LYCORIS_TEST_SET"], command[command.index("-m", 3) + 1], variables.get("LYCORIS_APP_PYTHON")))
        return 0

    monkeypatch.setattr(run, "ensure", lambda *_: None)
    monkeypatch.setattr(run, "run_through", run_through)
    assert run.main(["test", "--set", "old", *arguments]) == 0
    assert [f"{name} {marks}" for name, marks, _ in found] == runs
    assert [python for name, _, python in found if name == "new"] == [str(run.OLD.python)] * sum("new" in one for one in runs)


def several_processes() -> tuple[str, ...]:
    return ("-n", str(min(run.os.cpu_count() or 1, 4)), "--dist", "loadfile")


@pytest.mark.parametrize(
    ("arguments", "several"),
    [((), True), (("-v", "--color=no"), True), (("--quick", "-k", "x"), True), (("-k", "x"), False), (("-mbrowser",), False),
     (("-m", "not browser"), True),
     (("tests/tools",), False), (("--pdb",), False), (("-n", "3"), False)],
)  # fmt: skip
def test_only_the_whole_suite_and_the_quick_one_run_in_a_process_a_core(
    arguments: tuple[str, ...], several: bool, started: list[tuple]
) -> None:
    assert run.main(["test", *arguments]) == 7
    assert ("loadfile" in started[-1]) == several


def test_paths_are_meant_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some/webui").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert run.from_here("some/webui") == str(tmp_path / "some/webui")
    assert run.from_here("--webui=some/webui") == f"--webui={tmp_path / 'some/webui'}"
    for untouched in ("--long", "patching", "tests/test_run.py::test_x", "no/such/folder"):
        assert run.from_here(untouched) == untouched


def test_the_exit_code_is_passed_on_and_help_needs_no_environment(tmp_path: Path) -> None:
    assert run.run_through(script(tmp_path, "raise SystemExit(5)")) == 5
    alone = tmp_path / "run.py"
    alone.write_bytes((ROOT / "run.py").read_bytes())
    done = subprocess.run([sys.executable, str(alone), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert "python3 run.py test" in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_ctrl_c_waits_for_the_child_and_takes_its_exit_code(tmp_path: Path) -> None:
    child = script(
        tmp_path,
        "import time",
        "print('up', flush=True)",
        "try: time.sleep(60)",
        "except KeyboardInterrupt: raise SystemExit(9)",
    )
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import run; sys.exit(run.run_through({child!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) == 9
    process.stdout.close()


def test_an_unknown_benchmark_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--inside", "bench", "no_such"]) == 1
    assert "bench wants the name of a benchmark, one of:" in capsys.readouterr().err


def test_the_state_file_is_written_in_one_piece(environment: run.Environment, pip: list[list[str]]) -> None:
    run.ensure(environment, ["app"])
    assert json.loads(environment.state_file.read_text(encoding="utf-8"))["status"] == "usable"
    assert not environment.state_file.with_suffix(".new").exists()


# ---- what `test` takes


DRIVER = """
import sys
import run
run.ensure = lambda *_: None
run.Environment.python = property(lambda _: sys.executable)
sys.exit(run.main(sys.argv[1:]))
"""


def documented_command(start: str) -> list[str]:
    """Return the words of the one command line of README.md that begins so."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if line.startswith(f"python3 run.py {start}")]
    assert len(found) == 1, f"README.md has {len(found)} lines that begin with: python3 run.py {start}"
    return found[0].split("#")[0].split()[2:]


def make_webui(folder: Path) -> None:
    """Write what a folder of AUTOMATIC1111's webui is recognised by."""
    (folder / "modules").mkdir()
    for name in ("webui.py", "modules/sd_hijack.py"):
        (folder / name).touch()


@pytest.mark.slow
def test_the_documented_command_for_a_webui_collects_its_tests(tmp_path: Path) -> None:
    """pytest once took the folder behind --webui for tests to run, and never saw our options."""
    webui = tmp_path / "web ui"
    webui.mkdir()
    make_webui(webui)
    (webui / "conftest.py").write_text("raise RuntimeError('this folder was taken for tests')", encoding="utf-8")
    command = [{"DIR": "web ui", "PYTHON": sys.executable}.get(word, word) for word in documented_command("test --webui")]
    others = [f"--ignore={folder}" for folder in (ROOT / "tests").iterdir() if folder.is_dir() and folder.name != "webui"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", DRIVER, *command, "--collect-only", "-q", "-p", "no:cacheprovider", *others]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests/webui/test_webui_api.py::" in done.stdout
    assert "tests/test_run.py::" in done.stdout, "without a path the whole suite runs"


def test_options_of_pytest_pass_and_ours_are_checked(started: list[tuple], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_webui(tmp_path)
    assert run.main(["test", "--webui", str(tmp_path), "--webui-python", sys.executable, "-x", "-k", "a or b"]) == 7
    assert started[-1][-5:] == (f"--webui={tmp_path}", f"--webui-python={sys.executable}", "-x", "-k", "a or b")
    (tmp_path / "others" / "one" / "scripts").mkdir(parents=True)
    beside = ["test", "--webui", str(tmp_path), "--webui-beside", str(tmp_path / "others")]
    assert run.main(beside) == 1 and "others has 0" in capsys.readouterr().err
    (tmp_path / "others" / "one" / "scripts" / "rp.py").touch()
    assert run.main(beside) == 7 and started[-1][-1] == f"--webui-beside={tmp_path / 'others'}"
    assert run.main(["test", "--quick"]) == 7
    assert started[-1][4:7] == ("--quick", "-n", str(min(run.os.cpu_count() or 1, 4)))
    started.clear()
    assert run.main(["test", "--webui", str(tmp_path / "nowhere")]) == 1
    assert run.main(["test", "--webui", str(tmp_path), "--webui-python", "no-such-program"]) == 1
    said = capsys.readouterr().err
    assert "nowhere has no webui.py" in said
    assert "no-such-program is no program" in said
    with pytest.raises(SystemExit):
        run.main(["test", "--set", "newest"])
    assert started == []


@pytest.mark.parametrize("arguments", [["test", "--help"], ["test", "-h"], ["merge", "--help"]], ids=" ".join)
def test_help_of_a_verb_installs_nothing(
    arguments: list[str], started: list[tuple], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "is_ready", lambda *_: False)
    with contextlib.suppress(SystemExit):  # argparse ends so
        run.main(arguments)
    assert started == []
    assert ("--webui-python" if arguments[0] == "test" else "once the packages are installed") in capsys.readouterr().out
