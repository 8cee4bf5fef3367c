"""Blocks of GGML's quantised types -> numbers, by the layout of each block as llama.cpp describes it (ggml-common.h, ggml-quants.c).

A block holds 32 or 256 numbers x. Names as there: d, m (or dmin) are float16 factors, q are whole numbers of 2 to 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# What a 4-bit number of the IQ4 types stands for.
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def unpack(kind: str, blocks: Tensor) -> Tensor:
    """Return (blocks, numbers of a block) in float32 for blocks of bytes (blocks, bytes of a block)."""
    return KINDS[kind][2](blocks)


def _half(part: Tensor) -> Tensor:
    """Return float16 numbers, (blocks, 1), of two bytes each."""
    return part.contiguous().view(torch.float16).float()


def _signed(part: Tensor) -> Tensor:
    return part.contiguous().view(torch.int8).float()


def _nibbles(part: Tensor) -> Tensor:
    """Return all lower halves of the bytes, then all upper ones."""
    return torch.cat([part & 15, part >> 4], dim=-1)


def _bits(part: Tensor, count: int) -> Tensor:
    """Return bit 0, 1, .. of each byte on a new axis before the bytes: (..., count, bytes)."""
    return (part.unsqueeze(-2) >> torch.arange(count, dtype=torch.uint8).unsqueeze(-1)) & 1


def _pairs(part: Tensor) -> Tensor:
    """Return the four two-bit numbers of each byte, on a new axis before the bytes: (..., 4, bytes)."""
    return (part.unsqueeze(-2) >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8).unsqueeze(-1)) & 3


def _q4_0(b: Tensor) -> Tensor:
    return _half(b[:, :2]) * (_nibbles(b[:, 2:]).float() - 8)


def _q4_1(b: Tensor) -> Tensor:
    return _half(b[:, :2]) * _nibbles(b[:, 4:]).float() + _half(b[:, 2:4])


def _fifth(part: Tensor) -> Tensor:
    """Return the fifth bits of 32 numbers, from four bytes: bit j is of number j."""
    return _bits(part, 8).transpose(-1, -2).reshape(len(part), 32) << 4


def _q5_0(b: Tensor) -> Tensor:
    return _half(b[:, :2]) * ((_nibbles(b[:, 6:]) | _fifth(b[:, 2:6])).float() - 16)


def _q5_1(b: Tensor) -> Tensor:
    return _half(b[:, :2]) * (_nibbles(b[:, 8:]) | _fifth(b[:, 4:8])).float() + _half(b[:, 2:4])


def _q8_0(b: Tensor) -> Tensor:
    return _half(b[:, :2]) * _signed(b[:, 2:])


def _q2_k(b: Tensor) -> Tensor:
    scales = b[:, :16].reshape(-1, 16, 1)
    q = _pairs(b[:, 16:80].reshape(-1, 2, 32)).reshape(-1, 16, 16).float()
    d, m = _half(b[:, 80:82]).unsqueeze(-1), _half(b[:, 82:84]).unsqueeze(-1)
    return (d * (scales & 15).float() * q - m * (scales >> 4).float()).reshape(-1, 256)


def _q3_k(b: Tensor) -> Tensor:
    scales = _nibbles(b[:, 96:104]) | (_pairs(b[:, 104:108]).reshape(-1, 16) << 4)
    high = _bits(b[:, :32], 8).reshape(-1, 16, 16)
    q = _pairs(b[:, 32:96].reshape(-1, 2, 32)).reshape(-1, 16, 16).float() - 4 * (1 - high.float())
    return (_half(b[:, 108:110]).unsqueeze(-1) * (scales.float() - 32).unsqueeze(-1) * q).reshape(-1, 256)


def _eight_scales(part: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eight scales and eight minima of six bits that are kept in twelve bytes, each (blocks, 8, 1)."""
    first, second, mixed = part[:, :4], part[:, 4:8], part[:, 8:12]
    scale = torch.cat([first & 63, (mixed & 15) | (first >> 6 << 4)], dim=-1)
    least = torch.cat([second & 63, (mixed >> 4) | (second >> 6 << 4)], dim=-1)
    return scale.float().unsqueeze(-1), least.float().unsqueeze(-1)


def _q4_k(b: Tensor) -> Tensor:
    scale, least = _eight_scales(b[:, 4:16])
    q = _nibbles(b[:, 16:144].reshape(-1, 4, 32)).reshape(-1, 8, 32).float()
    return (_half(b[:, :2]).unsqueeze(-1) * scale * q - _half(b[:, 2:4]).unsqueeze(-1) * least).reshape(-1, 256)


def _q5_k(b: Tensor) -> Tensor:
    scale, least = _eight_scales(b[:, 4:16])
    q = (_nibbles(b[:, 48:176].reshape(-1, 4, 32)).reshape(-1, 8, 32) | (_bits(b[:, 16:48], 8) << 4)).float()
    return (_half(b[:, :2]).unsqueeze(-1) * scale * q - _half(b[:, 2:4]).unsqueeze(-1) * least).reshape(-1, 256)


def _q6_k(b: Tensor) -> Tensor:
    low = _nibbles(b[:, :128].reshape(-1, 2, 64)).reshape(-1, 16, 16)
    high = _pairs(b[:, 128:192].reshape(-1, 2, 32)).reshape(-1, 16, 16)
    q = (low | (high << 4)).float() - 32
    return (_half(b[:, 208:210]).unsqueeze(-1) * _signed(b[:, 192:208]).unsqueeze(-1) * q).reshape(-1, 256)


def _iq4_nl(b: Tensor) -> Tensor:
    return _half(b[:, :2]) * torch.tensor(_IQ4, dtype=torch.float32)[_nibbles(b[:, 2:]).long()]


def _iq4_xs(b: Tensor) -> Tensor:
    low = torch.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], dim=-1).reshape(-1, 8)
    high = _pairs(b[:, 2:4]).transpose(-1, -2).reshape(-1, 8)
    scale = (low | (high << 4)).float() - 32
    q = torch.tensor(_IQ4, dtype=torch.float32)[_nibbles(b[:, 8:136].reshape(-1, 8, 16)).long()]
    return (_half(b[:, :2]).unsqueeze(-1) * scale.unsqueeze(-1) * q).reshape(-1, 256)


# type -> (numbers of a block, bytes of a block, blocks -> numbers)
KINDS: dict[str, tuple[int, int, Callable[[Tensor], Tensor]]] = {
    "Q4_0": (32, 18, _q4_0),
    "Q4_1": (32, 20, _q4_1),
    "Q5_0": (32, 22, _q5_0),
    "Q5_1": (32, 24, _q5_1),
    "Q8_0": (32, 34, _q8_0),
    "Q2_K": (256, 84, _q2_k),
    "Q3_K": (256, 110, _q3_k),
    "Q4_K": (256, 144, _q4_k),
    "Q5_K": (256, 176, _q5_k),
    "Q6_K": (256, 210, _q6_k),
    "IQ4_NL": (32, 18, _iq4_nl),
    "IQ4_XS": (256, 136, _iq4_xs),
}
