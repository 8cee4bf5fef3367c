"""Jobs: one after another, stopped within a second without a trace, errors as sentences, results kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib_lycoris.errors import ToolError
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.declaration import Option, Plan, Result, Tool
from lib_lycoris.tools.files.output import Output
from lib_lycoris.tools.jobs.places import Taken, free_for_several, inside, known_file, new_file
from lib_lycoris.tools.jobs.progress import Progress
from lib_lycoris.tools.jobs.queue import KEPT, Jobs, NoSuchThing, shared

OPTIONS = (
    Option("count", "how often", int, required=True),
    Option("pause", "seconds between two steps", float, default=0.0),
    Option("kind", "how", choices=("plain", "odd"), default="plain"),
    Option("names", "some names", nargs="*", default=()),
    Option("loud", "whether", bool, default=False),
    Option("save_to", "the file to write", Path, kind="output"),
    Option("old", "", ignored="--old has no meaning here: it never had"),
    Option("bad", "", refused="--bad would change the result; use --count"),
)


def count_up(progress: Progress, count: int, pause: float, kind: str, names: Any, loud: bool, save_to: Path | None) -> Result:
    """Count; writes a line each step where there is a file to write; odd: fail at the end."""
    progress.start(count, "counting")
    if save_to is None:
        for _ in range(count):
            time.sleep(pause)
            progress.advance()
    else:
        with Output(save_to) as output:
            for _ in range(count):
                output.write(b"line\n")
                time.sleep(pause)
                progress.advance()
    if kind == "odd":
        raise ZeroDivisionError("an odd end")
    if loud:
        raise ToolError("style.safetensors is too loud; turn it down")
    return Result({"count": count}, f"counted to {count}", (save_to,) if save_to else ())


COUNT = Tool("count", "Count", "count to a number", count_up, lambda **_: Plan({}, ""), OPTIONS)


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs({"count": COUNT})
    yield made
    made.close()


def test_jobs_run_one_after_another_in_their_order(jobs: Jobs) -> None:
    first = jobs.start("count", {"count": 5, "pause": 0.05})
    others = [jobs.start("count", {"count": 1}) for _ in range(3)]
    assert [jobs.before(job) for job in others] == [1, 2, 3]
    assert [job.status for job in others] == ["waiting"] * 3
    for job in (first, *others):
        assert job.wait(10)
    assert [job.status for job in (first, *others)] == ["done"] * 4
    assert first.result is not None and first.result.report["count"] == 5 and first.result.text == "counted to 5"
    assert first.progress is not None and (first.progress.step, first.progress.total) == (5, 5)


def test_a_running_job_stops_within_a_second_and_leaves_no_file(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs.start("count", {"count": 10_000, "pause": 0.02, "save_to": str(tmp_path / "out.safetensors")})
    while job.progress is None or job.progress.step < 3:
        assert not job.ended, job.error
        time.sleep(0.01)
    assert [path.name for path in tmp_path.iterdir()] != []  # it is being written, beside its place
    began = time.monotonic()
    job.cancel()
    assert job.wait(1.0), "it did not stop within a second"
    assert time.monotonic() - began < 1.0
    assert (job.status, job.result) == ("cancelled", None) and list(tmp_path.iterdir()) == []


def test_a_waiting_job_is_stopped_at_once_and_never_runs(jobs: Jobs) -> None:
    first = jobs.start("count", {"count": 20, "pause": 0.02})
    second, third = (jobs.start("count", {"count": 1}) for _ in range(2))
    second.cancel()
    assert (second.status, second.ended, second.result) == ("cancelled", True, None)
    assert jobs.before(third) == 1
    assert first.wait(10) and third.wait(10) and third.status == "done" and second.status == "cancelled"


def test_what_goes_wrong_is_a_sentence_and_the_next_job_runs(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    odd = jobs.start("count", {"count": 1, "kind": "odd"})
    loud = jobs.start("count", {"count": 1, "loud": True})
    fine = jobs.start("count", {"count": 1})
    assert fine.wait(10)
    assert (odd.status, odd.error) == ("failed", "Count failed: ZeroDivisionError: an odd end")
    assert "an odd end" in capsys.readouterr().err  # the trace is for whoever mends it
    assert (loud.status, loud.error) == ("failed", "style.safetensors is too loud; turn it down")
    assert fine.status == "done"


def test_who_listens_hears_of_the_end_first_and_his_faults_hold_nothing_up(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[tuple[str, bool]] = []

    def listen(job: Any) -> None:
        heard.append((job.status, job.ended))
        raise RuntimeError("a fault of the listener")

    jobs.on_end = listen
    for kind in ("plain", "odd"):
        assert jobs.start("count", {"count": 1, "kind": kind}).wait(10)
    assert heard == [("done", False), ("failed", False)]
    assert capsys.readouterr().err.count("RuntimeError: a fault of the listener") == 2


@pytest.mark.parametrize(
    "given, words",
    [
        ({}, "Count needs count"),
        ({"count": 1, "cuont": 2}, '"cuont" is no option of count; did you mean "count"?'),
        ({"count": "1"}, "count is '1', but a whole number is expected"),
        ({"count": True}, "count is True, but a whole number is expected"),
        ({"count": 1.5}, "count is 1.5, but a whole number is expected"),
        ({"count": [1]}, "count is a list, but one value is expected"),
        ({"count": 1, "pause": float("nan")}, "pause is nan, but a number is expected"),
        ({"count": 1, "kind": "round"}, "kind is 'round', but one of plain, odd is expected"),
        ({"count": 1, "loud": 1}, "loud is 1, but true or false is expected"),
        ({"count": 1, "names": [1]}, "names is 1, but a text is expected"),
        ({"count": 1, "save_to": {}}, "save_to is a table, but the name of a file is expected"),
        ({"count": 1, "bad": "x"}, "--bad would change the result; use --count"),
    ],
)
def test_options_are_checked_before_anything_runs(jobs: Jobs, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolError) as caught:
        jobs.start("count", given)
    assert str(caught.value) == words and jobs.all() == []


def test_values_are_read_as_declared(jobs: Jobs) -> None:
    job = jobs.start("count", {"count": 1, "pause": 0, "names": "one", "save_to": None, "old": "x"})
    assert job.options == {"count": 1, "pause": 0.0, "kind": "plain", "names": ["one"], "loud": False, "save_to": None}
    assert isinstance(job.options["pause"], float)
    assert job.notes == ("--old has no meaning here: it never had",)


def test_unknown_tools_and_jobs_are_named(jobs: Jobs) -> None:
    with pytest.raises(NoSuchThing, match='there is no tool "cuont"; there are count'):
        jobs.start("cuont", {})
    with pytest.raises(NoSuchThing, match='there is no job "abc"'):
        jobs.get("abc")


def test_only_the_last_results_are_kept(jobs: Jobs) -> None:
    made = [jobs.start("count", {"count": 0}) for _ in range(KEPT + 5)]
    assert made[-1].wait(20)
    last = jobs.start("count", {"count": 0}, owner="page")
    assert last.wait(10) and len(jobs.all()) == KEPT + 1
    assert jobs.latest("page") is last and jobs.latest("other") is None
    with pytest.raises(NoSuchThing):
        jobs.get(made[0].id)


def test_closing_stops_everything(tmp_path: Path) -> None:
    jobs = Jobs({"count": COUNT})
    running = jobs.start("count", {"count": 10_000, "pause": 0.02, "save_to": tmp_path / "out.safetensors"})
    waiting = jobs.start("count", {"count": 1})
    while running.progress is None:
        assert not running.ended, running.error
        time.sleep(0.01)
    jobs.close()
    assert (running.status, waiting.status) == ("cancelled", "cancelled") and list(tmp_path.iterdir()) == []
    assert not any(thread.name == "lycoris-jobs" and thread.is_alive() for thread in threading.enumerate())


def test_the_real_tools_are_there_and_there_is_one_queue_for_a_process() -> None:
    assert set(Jobs().tools) == set(TOOLS) >= {"merge", "networks_merge", "extract", "resize", "convert", "undo"}
    assert shared() is shared()


# --- where files may lie


def test_names_of_results_stay_in_their_folder(tmp_path: Path) -> None:
    folder, other = tmp_path / "results", tmp_path / "other"
    (folder / "sub").mkdir(parents=True)
    other.mkdir()
    (folder / "out").symlink_to(other)
    assert new_file(folder, "style") == folder / "style.safetensors"
    assert new_file(folder, " a.b ") == folder / "a.b.safetensors"
    assert new_file(folder, "sub/style.safetensors") == folder / "sub" / "style.safetensors"
    assert new_file(folder, "sub\\style") == folder / "sub" / "style.safetensors"
    assert new_file(folder, str(folder / "x")) == folder / "x.safetensors"
    assert new_file(folder, "a folder", "") == folder / "a folder"
    outside = ["../x", "sub/../../x", "..\\x", str(other / "x"), "/x", "C:\\x", "C:x", "out/x", ".", "..", "sub/.."]
    for name in [*outside, "", "  ", "a\nb", "a\0b", "nul", "sub/CON.safetensors", ".hidden", "x" * 300, "nowhere/x"]:
        with pytest.raises(ToolError):
            new_file(folder, name)
    assert list(other.iterdir()) == []


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "style.safetensors").touch()
    (tmp_path / "dy-0004.safetensors").touch()
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nothing")
    for name in ("style", "gone"):
        with pytest.raises(Taken, match=f"{name}.safetensors is there already; choose another name"):
            new_file(tmp_path, name)
    assert new_file(tmp_path, "style", replace=True) == tmp_path / "style.safetensors"
    free_for_several(tmp_path / "dye.safetensors")
    with pytest.raises(Taken, match="dy-0004"):
        free_for_several(tmp_path / "dy.safetensors")


def test_files_are_found_by_offered_names_and_inside_of_the_folders_only(tmp_path: Path) -> None:
    folder, other = tmp_path / "models", tmp_path / "private"
    folder.mkdir()
    other.mkdir()
    (folder / "a.undo").touch()
    (other / "secret").touch()
    (folder / "link").symlink_to(other / "secret")
    linked = folder / "style.safetensors"
    linked.symlink_to(other / "secret")
    offered = {"style": linked}  # the user has put a link to a model into the folder: it is offered, so it may be read
    assert known_file("style", offered, [folder], "network") == linked
    assert known_file(str(linked), offered, [folder], "network") == linked
    assert known_file("a.undo", {}, [folder], "file") == folder / "a.undo"
    assert known_file(str(folder / "a.undo"), {}, [folder], "file") == folder / "a.undo"
    for name in ("link", "../private/secret", str(other / "secret"), "a.undo\0", "..\\private\\secret", ".", "", "none", "/etc/passwd"):
        with pytest.raises(ToolError, match="there is no file"):
            known_file(name, {}, [folder], "file")
    assert not inside(folder, [folder]) and not inside(Path("a\0b"), [folder]) and inside(folder / "x", [folder])
