"""The tools on the command line, built from their declarations; a tool is imported when its verb is used."""

from __future__ import annotations

import argparse
import gc
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import LycorisError, ToolError
from ..plain_json import plain
from . import bulk
from .arguments import completed, finite, whole
from .declaration import Option, Tool
from .jobs.freed_memory import keep_freed_memory, share_freed_memory
from .jobs.progress import Progress, ProgressState
from .option_names import as_flag, spelled
from .recipe_jobs import check_files, read_jobs
from .registry import VERBS, load_tools, tools_of
from .validation import missing, validated

FAILED_CHECK = 1  # exit code of a verification that found a difference
FAILED = 2  # exit code of a recipe with a job that failed
COLLECTED = 20_000  # new objects between two looks for garbage: with Python's 700 the imports and a merge spend 0.3 s on it
MOST_SHOWN = 20  # choices of an option that its help lists
OWN = (
    "run",
    "verb",
    "json",
    "dry_run",
    "recipe",
    "keep_going",
    "quiet",
    "each",
    "save_into",
)  # what every verb has beside its tool's options


def add_tool_commands(subparsers: Any) -> None:
    """Add a verb for every tool to argparse's subparsers; each sets ``run`` to what runs it."""
    for verb, summary in VERBS.items():
        parser = subparsers.add_parser(verb, help=summary, description=summary[0].upper() + summary[1:] + ".")
        parser.parse_known_args = _filled_first(parser, verb)


def _filled_first(parser: argparse.ArgumentParser, verb: str) -> Callable[..., Any]:
    """Return the parser's own method, which then knows the tool's options: importing all tools for one verb would take seconds."""
    own = parser.parse_known_args
    filled: list[bool] = []

    def parse(*args: Any, **kwargs: Any) -> Any:
        if not filled:
            filled.append(True)
            gc.set_threshold(COLLECTED)
            share_freed_memory()  # before there are threads
            keep_freed_memory()
            fill(parser, verb, tools_of(verb))
        return own(*args, **kwargs)

    return parse


def fill(parser: argparse.ArgumentParser, verb: str, tools: Sequence[Tool]) -> None:
    """Give a parser the options of the tools of a verb; what is required is checked when it is known which of them is meant."""
    known: set[str] = set()
    options = [option for tool in tools for option in tool.options]
    for option in options:
        if option.name not in known:
            known.add(option.name)
            add_option(parser, option, options)
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="tell what would be done, and what it takes; write nothing")
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE",
        help="a JSON file: a list of jobs, each a table of these options (paths from its folder on); what is given beside it holds for all",
    )  # fmt: skip
    parser.add_argument("--keep-going", action="store_true", help="go on with the next job of a recipe after one that failed")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    if any({option.name for option in tool.options} >= {bulk.INPUT, bulk.OUTPUT} for tool in tools):
        parser.add_argument(
            "--each", type=Path, nargs="+", metavar="FILE",
            help="do this for each of these files, folders or patterns; goes on past what fails, and skips what is there and equal",
        )  # fmt: skip
        parser.add_argument("--save_into", "--save-into", type=Path, metavar="FOLDER", help=f"where --each writes; {bulk.REPORT} in it")
    parser.set_defaults(run=run, verb=verb)


def add_option(parser: Any, option: Option, siblings: Sequence[Option] = ()) -> None:
    """Add an option, with its help, to a parser or a group of one; an option that is not given is not among the results."""
    text = argparse.SUPPRESS if option.ignored or option.refused else spelled(option.help, siblings, as_flag)
    if option.default not in (None, False, ()) and text != argparse.SUPPRESS:
        text += f" (default: {option.default})"
    facts: dict[str, Any] = {"help": text.replace("%", "%%") if text != argparse.SUPPRESS else text, "default": argparse.SUPPRESS}
    positional = not option.flags[0].startswith("-")
    if option.type is bool:
        facts["action"] = argparse.BooleanOptionalAction if option.default else "store_true"
    else:
        facts["type"] = {float: finite(_note), int: whole}.get(option.type, option.type)
        facts.update(choices=option.choices or None, nargs=option.nargs or ("?" if positional else None))
        facts["metavar"] = _metavar(option) if not option.choices or len(option.choices) > MOST_SHOWN else None
    if positional:
        parser.add_argument(option.name, **facts)
    else:
        parser.add_argument(*_spellings(option), dest=option.name, **facts)


def _spellings(option: Option) -> tuple[str, ...]:
    """Return the flags; one that is on by itself is turned off with --no- before it, with either kind of dash."""
    dashed = option.flags[0].replace("_", "-")
    return (*option.flags, dashed) if option.type is bool and option.default and dashed not in option.flags else option.flags


def _metavar(option: Option) -> str:
    return {Path: "FILE", int: "N", float: "X"}.get(option.type, "ID" if option.choices else "TEXT")


def run(arguments: argparse.Namespace) -> int:
    """Run the tool that arguments ask for; return the exit code. Raises LycorisError, KeyboardInterrupt on Ctrl-C and SIGTERM."""
    tools = tools_of(arguments.verb)
    try:
        return _run(tools, arguments)
    except LycorisError as error:
        error.args = (_flagged(str(error), tools), *error.args[1:])
        raise


def _run(tools: Sequence[Tool], arguments: argparse.Namespace) -> int:
    # argparse gives its mark for nothing as the value of a file that was left out
    given = {key: value for key, value in vars(arguments).items() if key not in OWN and str(value) != argparse.SUPPRESS}
    if getattr(arguments, "each", None):
        return _run_each(tools, given, arguments)
    jobs = [given] if arguments.recipe is None else read_jobs(arguments.recipe, given, tools)
    chosen = [(choose(tools, job), job) for job in jobs]
    # all of them are looked at before the first one runs
    ready = [(tool, validated(tool, completed(tool, job), partial(_note, tools=tools), "; see --help")) for tool, job in chosen]
    if arguments.recipe is None:
        return _run_one(*ready[0], arguments)
    check_files(ready)
    return _run_all(ready, arguments)


def _run_one(tool: Tool, options: Mapping[str, Any], arguments: argparse.Namespace) -> int:
    with _terminable():
        report, text = _do(tool, options, arguments)
    print(json.dumps(plain(report), indent=2, ensure_ascii=False) if arguments.json else text)
    return _code(report)


def _run_all(jobs: Sequence[tuple[Tool, Mapping[str, Any]]], arguments: argparse.Namespace) -> int:
    """Run the jobs of a recipe; what was done is reported also where one fails or the user stops."""
    reports: list[Mapping[str, Any]] = []
    try:
        with _terminable():
            for number, (tool, options) in enumerate(jobs, 1):
                try:
                    report, text = _do(tool, options, arguments)
                except LycorisError as error:
                    said = _flagged(str(error), [tool])
                    report, text = {"failure": said, "kind": type(error).__name__, "job": number}, ""
                    print(f"error: job {number} of {len(jobs)}: {said}", file=sys.stderr)
                reports.append(report)
                if text and not arguments.json:
                    print(text)
                if "failure" in report and not arguments.keep_going:
                    break
    finally:
        if arguments.json:
            print(json.dumps(plain(reports), indent=2, ensure_ascii=False))
        failed = sum("failure" in report for report in reports)
        if failed or len(reports) < len(jobs):
            rest = len(jobs) - len(reports)
            print(f"{len(reports) - failed} of {len(jobs)} jobs done, {failed} failed, {rest} not finished", file=sys.stderr)
    return max(map(_code, reports))


def _run_each(tools: Sequence[Tool], given: Mapping[str, Any], arguments: argparse.Namespace) -> int:
    """Run a tool on each of many files; what was done is kept and reported also where some fail or the user stops."""
    if arguments.save_into is None or arguments.recipe is not None:
        raise ToolError("--each takes the folder of the results with --save_into, and no --recipe")
    tool = choose(tools, {bulk.INPUT: arguments.each[0], bulk.OUTPUT: arguments.save_into, **given})
    jobs, done = bulk.jobs_of(tool, arguments.each, arguments.save_into, given), bulk.Done(arguments.save_into)
    validated(tool, completed(tool, jobs[0].options), partial(_note, tools=tools), "; see --help")  # a wrong option is one error, not many
    for sentence in bulk.left_below(arguments.each):
        _note(sentence)
    reports: list[Mapping[str, Any]] = []
    try:
        with _terminable():
            for job in jobs:
                report = _one_of_many(tool, job, done, arguments)
                reports.append(report)
    finally:
        summary = bulk.summary(reports, arguments.save_into)
        print(json.dumps(plain(summary), indent=2, ensure_ascii=False) if arguments.json else summary["text"])
    return FAILED if summary["failed"] else 0


def _one_of_many(tool: Tool, job: bulk.BulkJob, done: bulk.Done, arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Return the report of one file, with what became of it; it is said at once."""
    options = validated(tool, completed(tool, job.options), lambda sentence: None)
    facts: dict[str, Any] = {"input": str(job.source), "output": str(job.target)}
    try:
        if done.is_done(tool, replace(job, options=options)):
            return {**facts, "result": "skipped"}
        report, text = _do(tool, options, arguments)
    except LycorisError as error:
        said = _flagged(str(error), [tool])
        report, text, facts["result"] = {"failure": said, "kind": type(error).__name__}, f"error: {bulk.named(job, said)}", "failed"
    if not arguments.dry_run:
        done.remember(tool, replace(job, options=options), report)
    print(text, file=sys.stderr if arguments.json or "failure" in report else sys.stdout)
    return {"result": "done", **facts, **{key: value for key, value in report.items() if key != "output"}}


def _code(report: Mapping[str, Any]) -> int:
    if "failure" in report:
        return FAILED
    return FAILED_CHECK if report.get("ok") is False else 0


def _do(tool: Tool, options: Mapping[str, Any], arguments: argparse.Namespace) -> tuple[Mapping[str, Any], str]:
    if arguments.dry_run:
        planned = tool.plan(**options)
        return planned.as_json(), "\n".join(filter(None, [_flagged(planned.text, [tool]), planned.costs]))
    with _bar(arguments.quiet or not sys.stderr.isatty()) as callback:
        result = tool.run(progress=Progress(callback), **options)
    return result.report, _flagged(result.text, [tool])


def _note(sentence: str, tools: Sequence[Tool] = ()) -> None:
    print(f"note: {_flagged(sentence, tools)}", file=sys.stderr)


def _flagged(text: str, tools: Sequence[Tool]) -> str:
    """Return a sentence with options as they are typed: those of these tools, and of another one that it speaks of."""
    if "`" not in text:
        return text
    every = (option for tool in (*tools, *load_tools().values()) for option in tool.options)
    return spelled(text, every, as_flag)


def choose(tools: Sequence[Tool], given: Mapping[str, Any]) -> Tool:
    """Return the tool that is meant: the first that has all it requires. Raises ToolError naming what is missing."""
    for tool in tools:
        if not missing(tool, given):
            return tool
    last = tools[-1]
    lacking = ", ".join(option.flags[0] for option in missing(last, given))
    raise ToolError(f"{last.verb or last.name} needs {lacking}; see --help")


@contextmanager
def _bar(hidden: bool) -> Iterator[Callable[[ProgressState], None] | None]:
    """Give a progress callback that draws a bar with the rate and the time left."""
    try:
        from tqdm import tqdm
    except ImportError:  # the library needs torch and safetensors only
        hidden = True
    if hidden:
        yield None
        return
    bars: list[Any] = []

    def show(state: ProgressState) -> None:
        if not bars or bars[-1].total != state.total or state.step < bars[-1].n:
            for bar in bars:
                bar.close()
            scaled = state.unit == "B"
            bars[:] = [tqdm(total=state.total, desc=state.text[:32], unit=state.unit, unit_scale=scaled, unit_divisor=1000, leave=False)]
        bars[-1].update(state.step - bars[-1].n)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a request to end the process (SIGTERM) clean up as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = None
    with suppress(ValueError):  # only the main thread may say what a signal does
        before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
