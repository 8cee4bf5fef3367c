"""What the images come to, said before training: buckets, sizes, missing captions, duplicates, broken files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ...wording import counted
from .items import Catalogue
from .order import repeated

SHOWN = 5  # names in a sentence


def data_report(found: Catalogue) -> dict[str, Any]:
    """Return the report as plain JSON values."""
    buckets = Counter("{}x{}".format(*item.fit.bucket) for item in repeated(found.items))
    enlarged = [item.path.name for item in found.items if item.fit.resized[0] > item.size[0] or item.fit.resized[1] > item.size[1]]
    return {
        "images": len(found.items), "seen_an_epoch": sum(buckets.values()), "validation": len(found.validation),
        "regularisation": sum(item.subset.regularisation for item in found.items), "buckets": dict(sorted(buckets.items())),
        "without_caption": found.without_caption, "duplicates": [list(pair) for pair in found.duplicates],
        "broken": [list(pair) for pair in found.broken], "enlarged": enlarged,
        "left_out": found.left_out,
    }  # fmt: skip


def as_text(report: dict[str, Any]) -> str:
    """Return the report for people."""
    lines = [f"{counted(report['images'], 'image')}, {report['seen_an_epoch']} an epoch"]
    if report["validation"]:
        lines[0] += f", {report['validation']} for validation"
    if report["regularisation"]:
        lines[0] += f", {report['regularisation']} of them for regularisation"
    lines.append("buckets: " + ", ".join(f"{size} ({count})" for size, count in report["buckets"].items()))
    lines += _named("left out, folders without a number such as 10_cat", report["left_out"])
    lines += _named("without a caption", report["without_caption"])
    lines += _named("smaller than their bucket, so enlarged", report["enlarged"])
    lines += _named("the same file twice", [f"{one} = {other}" for one, other in report["duplicates"]])
    lines += _named("broken and left out", [f"{name} ({why})" for name, why in report["broken"]])
    return "\n".join(lines)


def _named(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{what}: {', '.join(names[:SHOWN])}{more}"]
