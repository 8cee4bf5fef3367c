"""Sizes in sentences."""

from __future__ import annotations

import pytest

from lib_lycoris.tools.units import MB, megabytes, too_little


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0.0 MB"), (812, "under 0.1 MB"),
        (437_123, "0.4 MB"), (5_700_000, "5.7 MB"), (999_900_000, "999.9 MB"), (999_960_000, "1.0 GB"),
        (6_900_000_000, "6.9 GB"), (-437_123, "-0.4 MB"),
    ],
)  # fmt: skip
def test_sizes_have_one_decimal(count: float, text: str) -> None:
    assert megabytes(count) == text


@pytest.mark.parametrize("needed", [73_449, 5_712_345, 1_000_000, 999, 123_456_789])
def test_the_size_that_is_said_to_be_needed_can_be_given(needed: int) -> None:
    said = str(too_little(1, needed)).partition("alone take ")[2].removesuffix(" MB")
    assert needed <= float(said) * MB + 1e-6 <= needed * 1.011
