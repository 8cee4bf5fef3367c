"""What only older versions of PEFT write: their names, and limits that depended on the layer (compared with PEFT 0.15 by hand)."""

from __future__ import annotations

from math import ceil, sqrt

import pytest
import torch

from lib_lycoris.algorithms import Config, parse
from lib_lycoris.networks.spellings import split


def test_bone_is_what_miss_was_called() -> None:
    assert split("base_model.model.down_blocks.0.to_q.bone_block") == ("base_model.model.down_blocks.0.to_q", "miss_block", None)


@pytest.mark.parametrize(("size", "share"), [(4, False), (8, False), (4, True)])
def test_a_constrained_oft_of_peft_0_15_is_limited_by_the_outputs_for_each_block(size: int, share: bool) -> None:
    """PEFT 0.14 and 0.15: eps · ⌈out / r⌉² / √(stored blocks), with r blocks of the inputs: more than the block's size where out > in."""
    g, eps, (out, columns) = torch.Generator().manual_seed(1), 0.01, (48, 32)
    count = columns // size
    blocks = torch.randn(1 if share else count, size, size, generator=g)
    limit = eps * ceil(out / count) ** 2 / sqrt(len(blocks))
    assert float(blocks.flatten(1).norm(dim=1).min()) > limit
    within = blocks / blocks.flatten(1).norm(dim=1)[:, None, None] * limit
    weight, gain = torch.randn(out, columns, generator=g), torch.ones(out, 1)
    found, _ = parse({"oft_r": blocks, "oft_s": gain}, Config({"peft_type": "OFT", "coft": True, "eps": eps}))
    free, _ = parse({"oft_r": within, "oft_s": gain}, Config({"peft_type": "OFT"}))
    torch.testing.assert_close(found["weight"].delta(weight), free["weight"].delta(weight), rtol=1e-5, atol=1e-6)
