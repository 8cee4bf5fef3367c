"""What PEFT's authors measured of methods that are trained here: one subject, one base model, each method once.

Their own implementations, with alpha = dim: the files of method_comparison/image-gen/results as of August 2026.
"""

from __future__ import annotations

from ...records import dataclass

MB = 1_000_000
MEASURED_INTRO = (
    "Measured by PEFT's authors, each method once: FLUX.2 klein 4B at 512 pixels, 14 images of one subject, 750 steps of 2 images "
    "(Full: 300). Likeness is how near DINOv2 finds images of it to those that were not trained on, at most 1. All methods are at the link."
)


@dataclass(frozen=True)
class Measured:
    """One row of the comparison."""

    name: str
    setting: str
    rate: str
    likeness: float
    file: float  # bytes
    memory: float  # of the GPU at the peak, bytes
    seconds: int


MEASURED = (
    Measured("LoRA", "dim 64", "1e-4", 0.743, 306.7 * MB, 11383 * MB, 717),
    Measured("Diag-OFT", "blocks of 32", "1e-4", 0.708, 19.1 * MB, 9670 * MB, 524),
    Measured("LoKr", "dim 32, factor -1", "1e-3", 0.697, 3.2 * MB, 10846 * MB, 2095),
    Measured("LoRA", "dim 32", "1e-4", 0.697, 153.4 * MB, 10708 * MB, 759),
    Measured("DoRA", "dim 64", "1e-4", 0.668, 310.3 * MB, 13176 * MB, 1436),
    Measured("LoHa", "dim 32", "1e-4", 0.662, 306.8 * MB, 12692 * MB, 2281),
    Measured("(IA)³", "", "1e-3", 0.648, 1.2 * MB, 9586 * MB, 481),
    Measured("BOFT", "blocks of 4, 2 factors", "1e-4", 0.645, 8.5 * MB, 17369 * MB, 2524),
    Measured("Full", "", "5e-5", 0.577, 7751 * MB, 39873 * MB, 293),
)  # fmt: skip
