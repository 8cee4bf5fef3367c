"""Which words a network reacts to most: what becomes of each word of the vocabulary in the text encoders and in the cross-attention.

No images are needed. A word's score is how far the network moves it beyond what it moves every word, in parts of how far words lie apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ToolError
from ...networks import Network, load
from ...wording import counted
from ..declaration import FASTEST, FilePath, Option, Plan, Result, Texts, Tool, as_list
from ..extract.difference import Reader
from ..files.checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..files.checkpoints.vocabulary import BOS, END, vocabulary
from ..files.networks.network_file import patches
from ..jobs.progress import Progress
from ..validation import at_least
from .clip import Both, Encoder, Weights, encoders, hidden_states, normed

COUNT = 30
CROSS = (".attn2.to_k", ".attn2.to_v")  # of the UNet: what it reads of the text
SHORTEST = 2  # letters of a word
COMPARED = 2000  # other words that asked ones are compared with
SECONDS = 4e-11  # for a number of a text encoder and a word, on two cores


def run(
    model: FilePath, base_model: FilePath, *, words: Texts | None = None, count: int = COUNT, device: str = "cpu",
    progress: Progress | None = None,
) -> Result:  # fmt: skip
    """List the words that a network of any algorithm reacts to most, through the text encoders and the cross-attention.

    The report holds for each word its score and the scores of the text encoders alone (`text`) and of the cross-attention (`cross`).

    Raises:
        ToolError: the base model has no text encoder of CLIP's kind, its words are not known, or the network changes nothing of both.
        ModelMismatchError: the network is for another base model.
        NetworkFormatError: a file cannot be read.
    """
    progress = progress or Progress()
    network, checkpoint, towers = _opened(model, base_model)
    chosen = _chosen(checkpoint, towers[0].tokens, [str(word) for word in as_list(words)])
    reader = Reader(checkpoint)
    try:
        weights = Weights(reader, patches(network, checkpoint.base), device)
        with torch.inference_mode():
            text, cross = _scores(checkpoint, weights, towers, torch.tensor([0, *chosen.values()]), _start(checkpoint, towers[0]), progress)
    finally:
        reader.close()
    asked = len({str(word).lower() for word in as_list(words)})
    report = _report(list(chosen), text, cross, asked or len(chosen), count)
    return Result(report, _text(network.name, report))


def plan(**options: Any) -> Plan:
    """Say how many words would be looked at."""
    _, checkpoint, towers = _opened(options["model"], options["base_model"])
    chosen = _chosen(checkpoint, towers[0].tokens, [str(word) for word in as_list(options.get("words"))])
    numbers = sum(12 * tower.width**2 * tower.layers for tower in towers)
    report = {"matched": [tower.component.key for tower in towers], "unmatched": [], "words": len(chosen)}
    memory = 24 * len(chosen) * sum(tower.width for tower in towers) + 8 * max(tower.width * tower.tokens for tower in towers)
    return Plan(report, f"looks at {counted(len(chosen), 'word')}; nothing is written", 1 + SECONDS * numbers * len(chosen), memory, 0)


def _opened(model: FilePath, base_model: FilePath) -> tuple[Network, Checkpoint, list[Encoder]]:
    checkpoint = open_checkpoint(base_model)
    network, towers = load(model, checkpoint.base), encoders(checkpoint.base)
    if not towers:
        raise ToolError(
            f"{checkpoint.path.name} holds no text encoder of CLIP's kind, the only ones whose words can be looked at; "
            "give a whole checkpoint of a model that has one"
        )
    touched = [
        name for name in network.patches if any(name.startswith(t.component.prefix) for t in towers) or any(c in name for c in CROSS)
    ]
    if not touched:
        raise ToolError(
            f"{network.path.name} changes neither a text encoder nor what the UNet reads of the text: it reacts to no word by itself"
        )
    return network, checkpoint, towers


def _start(checkpoint: Checkpoint, tower: Encoder) -> int:
    return vocabulary(checkpoint.path, tower.tokens).index(BOS)


def _chosen(checkpoint: Checkpoint, size: int, words: Sequence[str]) -> dict[str, int]:
    """Return word -> token of the words that are looked at: those that are asked for come first, beside others to compare them with.

    Raises:
        ToolError: a word is no single token.
    """
    known = {
        piece.removesuffix(END): number
        for number, piece in enumerate(vocabulary(checkpoint.path, size))
        if piece.endswith(END) and len(piece) - len(END) >= SHORTEST and any(letter.isalnum() for letter in piece.removesuffix(END))
    }
    if not words:
        return known
    lost = [word for word in words if word.lower() not in known]
    if lost:
        raise ToolError(
            f"{', '.join(lost)}: the text encoder has no token for that alone, it is spelled in several; give words that are one"
        )
    others = list(known.items())[:: max(1, len(known) // COMPARED)]
    return {**{word.lower(): known[word.lower()] for word in words}, **dict(others)}


def _scores(
    checkpoint: Checkpoint, weights: Weights, towers: Sequence[Encoder], tokens: Tensor, start: int, progress: Progress
) -> tuple[Tensor, Tensor | None]:
    """Return each word's score (words,) in the text encoders, and in the cross-attention where there is one."""
    tokens[0] = start
    layers = [name for name in checkpoint.base.layers if name.endswith(CROSS)]
    width = checkpoint.base.layers[layers[0]].shape[1] if layers else 0
    joined = width == sum(tower.width for tower in towers) and len(towers) > 1
    progress.start(sum(tower.layers for tower in towers) + len(layers), "reading words", "layers")
    found = []
    for tower in towers:
        # SDXL and SD2 read the last layer but one, SDXL without the last norm
        last = _last(tower, weights, tokens, 1 if joined or tower.is_open_clip else 0, progress)
        last = last if joined else normed(tower, weights, last)
        found.append((last[0][1:], last[1][1:]))
    text = torch.stack([_moved(*both) for both in found]).mean(0).sqrt()
    states = tuple(torch.cat([both[side] for both in found], 1) for side in (0, 1)) if joined else found[0]
    if not layers or states[0].shape[1] != width:
        return text, None
    total = torch.zeros(len(tokens) - 1, device=text.device)
    for name in layers:
        plain, changed = weights.both(f"{name}.weight")
        total += _moved(states[0] @ plain.T, states[1] @ changed.T)
        progress.advance(text=name)
    return text, (total / len(layers)).sqrt()


def _last(tower: Encoder, weights: Weights, tokens: Tensor, stop: int, progress: Progress) -> Both:
    found: list[Both] = []
    for states in hidden_states(tower, weights, tokens, stop):
        found[:] = [states]
        progress.advance()
    return found[0]


def _moved(before: Tensor, after: Tensor) -> Tensor:
    """Return how far each word is moved beyond what all are, squared, in parts of how far words lie from their mean."""
    moved = after - before
    moved = moved - moved.mean(0)
    spread = (before - before.mean(0)).square().sum(1).mean()
    return moved.square().sum(1) / spread.clamp_min(torch.finfo(torch.float32).tiny)


def _report(words: Sequence[str], text: Tensor, cross: Tensor | None, asked: int, count: int) -> dict[str, Any]:
    score = text if cross is None else cross  # what the UNet reads holds what the text encoders did
    order = score[:asked].argsort(descending=True)[:count].tolist()
    middle = float(score.median())
    rows = [
        {
            "word": words[index], "score": round(float(score[index]), 6), "text": round(float(text[index]), 6),
            "cross": None if cross is None else round(float(cross[index]), 6),
        }
        for index in order
    ]  # fmt: skip
    return {"words": rows, "median": round(middle, 6), "looked_at": len(words), "clear": bool(middle) and rows[0]["score"] > 3 * middle}


def _text(name: str, report: Mapping[str, Any]) -> str:
    unclear = "no word stands out, the network changes all of them alike or was trained without words of its own"
    lines = [] if report["clear"] else [f"{name}: {unclear}"]
    lines.append(f"how far {name} moves words, of {report['looked_at']} (median {report['median']:.4f}):")
    for row in report["words"]:
        cross = "" if row["cross"] is None else f", cross-attention {row['cross']:.4f}"
        lines.append(f"  {row['word']:20} {row['score']:.4f} (text encoders {row['text']:.4f}{cross})")
    return "\n".join(lines)


TOOL = Tool(
    "interrogate", "Interrogate", "tell which words a network reacts to most", run, plan,
    (
        Option("model", "the network file", Path, required=True, kind="network"),
        Option("base_model", "the checkpoint that it is for, with its text encoders", Path, required=True, kind="checkpoint",
               aliases=("--sd_model",)),
        Option("words", "look at these words only (default: all that are one token)", nargs="+"),
        Option("count", "how many words are listed", int, COUNT, check=at_least(1, "count")),
        FASTEST,
    ),
)  # fmt: skip
