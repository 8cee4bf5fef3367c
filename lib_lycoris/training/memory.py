"""What takes less memory, and the sentence for a machine that has not enough: before a run as in its middle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import LONGEST_CAUSE, ToolError, readable, says_no_memory

SAVINGS = (
    ("gradient_checkpointing", "--gradient_checkpointing: the activations by more than half"),
    ("mixed_precision", "--mixed_precision bf16: the base model and the activations by half"),
    ("train_batch_size", "a smaller --train_batch_size with more --gradient_accumulation_steps: the activations in proportion"),
    ("network_train_unet_only", "--network_train_unet_only: what the text encoders' gradients take"),
    ("optimizer_type", "--optimizer_type AdamW8bit: the optimiser's numbers by three quarters"),
    ("resolution", "a smaller --resolution: the activations in proportion to the area"),
)  # fmt: skip


def savings(settings: Any) -> list[str]:
    """Return what would take less memory than these settings, each with how much."""
    used = {
        "gradient_checkpointing": settings.gradient_checkpointing, "mixed_precision": settings.mixed_precision != "no",
        "train_batch_size": settings.train_batch_size == 1, "network_train_unet_only": settings.network_train_unet_only,
        "optimizer_type": settings.optimizer_type != "AdamW", "resolution": False,
    }  # fmt: skip
    return [words for name, words in SAVINGS if not used[name]]


@contextmanager
def fitting(settings: Any, what: str) -> Iterator[None]:
    """Turn memory that runs out into a sentence: what does not fit, and what would take less. Raises ToolError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not says_no_memory(error):
            raise
        cause = readable(" ".join(str(error).split()), LONGEST_CAUSE)
        raise ToolError(f"{what} does not fit into the memory ({cause}). What takes less: {'; '.join(savings(settings))}") from error
