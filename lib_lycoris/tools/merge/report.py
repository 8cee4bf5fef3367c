"""What a merge would do or has done, for machines and for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...models import count_layers
from ...wording import counted
from ..declaration import Plan, Result
from ..files.networks.left_out import SHOWN, by_reason
from ..units import megabytes
from .deltas import Changes, Mixed
from .strengths import NetworkOptions

BYTES_A_SECOND, ELEMENTS_A_SECOND = 8e8, 4e8  # of a common disk, and of two processor cores
HASHED_A_SECOND = 1.2e9  # bytes, by both hashes
PACKED_A_SECOND = 1.5e8  # bytes that an undo file keeps


def as_result(changes: Changes, save_to: Path, undo: Path | None, size: int, digest: str | None, seconds: float) -> Result:
    """Return what a finished merge reports."""
    report = {**_facts(changes), "output": str(save_to), "bytes": size, "seconds": round(seconds, 3)}
    report.update({"data_sha256": digest} if digest else {}, **({"undo_file": str(undo)} if undo else {}))
    text = [*_lines(changes), f"{save_to}: {megabytes(size)} in {seconds:.1f} s"]
    return Result(report, "\n".join(text), (save_to, *([undo] if undo else [])))


def as_plan(changes: Changes, save_to: Path, size: int, undo: bool, hashed: bool) -> Plan:
    """Return what a merge would do and take."""
    entries = changes.checkpoint.entries
    touched = [entries[key] for key in changes.by_key if key in entries]
    elements = sum(_count(entry.shape) * len(changes.by_key[key]) for key, entry in entries.items() if key in changes.by_key)
    seconds = size / BYTES_A_SECOND + elements / ELEMENTS_A_SECOND + (size / HASHED_A_SECOND if hashed else 0.0)
    memory, largest = memory_of(changes), max((_count(entry.shape) for entry in touched), default=0)
    if undo:
        seconds += sum(entry.end - entry.begin for entry in touched) / PACKED_A_SECOND
        memory += largest * 12  # all of it: the old bytes, the new ones and what they are packed into
    report = {**_facts(changes), "output": str(save_to), "bytes": size}
    text = [*_lines(changes), f"would write {save_to}"]
    return Plan(report, "\n".join(text), round(seconds, 1), memory, size)


def memory_of(changes: Changes) -> int:
    """Return the bytes that computing the changed tensors takes: the networks, and the largest tensor with its sum and deltas.

    Of a tensor that is made in portions of rows, some of them.
    """
    entries = changes.checkpoint.entries
    counts = {key: _count(entries[key].shape) for key in changes.by_key if key in entries}
    whole = max((count for key, count in counts.items() if len(changes.portions(key)) == 1), default=0)
    networks = sum(mixed.asked.file.stat().st_size for mixed in changes.networks)
    return networks + max(4 * max(counts.values(), default=0), whole * (8 if len(changes.networks) == 1 else 15))


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _facts(changes: Changes) -> dict[str, Any]:
    unmatched = [[key, reason] for mixed in changes.networks for key, reason in mixed.unmatched]
    return {
        "checkpoint": str(changes.checkpoint.path),
        "family": changes.checkpoint.base.family,
        "changed_tensors": len(changes.keys),
        "tensors": len(changes.checkpoint.entries),
        "matched": sum(len(mixed.matched) for mixed in changes.networks),
        "unmatched": unmatched,
        "notes": _notes(changes),
        "networks": [_network(mixed) for mixed in changes.networks],
    }


def _notes(changes: Changes) -> list[str]:
    averaged = "the checkpoint also holds averaged weights (model_ema), which programs that make images do not use; they stay as they are"
    same = f"the networks cancel each other in {counted(len(changes.cancelled), 'tensor')}, where only rounding is left"
    ema = any(key.startswith("model_ema.") for key in changes.checkpoint.entries)
    return [*([averaged] if ema else []), *([same] if changes.cancelled else [])]


def _network(mixed: Mixed) -> dict[str, Any]:
    strengths = {"te": mixed.asked.te, "te2": mixed.asked.te2, "unet": mixed.asked.unet}
    facts: dict[str, Any] = {"name": mixed.asked.path.name, "strengths": strengths, "matched": len(mixed.matched)}
    facts.update(coverage=mixed.coverage, blocks=dict(mixed.strengths.ratios or ()), notes=list(mixed.strengths.notes))
    return {**facts, "unmatched": [list(item) for item in mixed.unmatched]}


def _lines(changes: Changes) -> list[str]:
    base = changes.checkpoint
    lines = [f"{base.path.name}: {base.base.label}, layers changed {len(changes.keys)} of {len(base.entries)}"]
    lines += _notes(changes)
    for mixed in changes.networks:
        asked = mixed.asked
        lines.append(
            f"{asked.path.stem} at {_strengths(asked)} - {mixed.coverage or counted(count_layers(mixed.matched), 'layer')}, "
            + (f"{counted(len(mixed.unmatched), 'key')} not used" if mixed.unmatched else "all keys used")
        )
        lines += [f"  {note}" for note in mixed.strengths.notes]
        left = list(by_reason(mixed.unmatched))
        lines += [f"  not used: {line}" for line in left[:SHOWN]]
        if len(left) > SHOWN:
            lines.append(f"  ... and {len(left) - SHOWN} more reasons (the report lists all)")
    return lines


def _strengths(asked: NetworkOptions) -> str:
    """Return a network's strengths in words: one number where all are the same."""
    if asked.te == asked.te2 == asked.unet:
        return f"{asked.unet:g}"
    second = "" if asked.te2 == asked.te else f", te2 {asked.te2:g}"
    return f"te {asked.te:g}{second}, unet {asked.unet:g}"
