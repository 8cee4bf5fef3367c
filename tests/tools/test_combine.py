"""TIES and DARE against their papers' definitions (arXiv 2306.01708, 2311.03099), written out number by number."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lib_lycoris.tools.linalg.combine import PIECE, combined


@dataclass(frozen=True)
class Part:
    strength: float
    digest: str


SHAPES = ((7, 5), (4, 3, 3, 3), (2, PIECE + 3))  # the last is worked on in pieces
STRENGTHS = (0.7, -1.3, 0.4)


def parts(shape: tuple[int, ...], seed: int = 1) -> list[tuple[Part, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(Part(strength, f"{n}"), torch.randn(shape, generator=generator)) for n, strength in enumerate(STRENGTHS)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.2, 0.55, 1.0])
def test_ties_trims_elects_a_sign_and_takes_the_mean_of_those_that_agree(shape: tuple[int, ...], density: float) -> None:
    items = parts(shape)
    trimmed = []
    for part, delta in items:
        flat = delta.flatten()
        kept = flat.abs().argsort(descending=True)[: round(flat.numel() * density)]
        trimmed.append(torch.zeros_like(flat).index_copy(0, kept, flat[kept]) * part.strength)
    values = torch.stack(trimmed, 1).tolist()
    wanted = []
    for row in values:
        total = sum(row)
        agreeing = [value for value in row if value * total > 0]
        wanted.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    found = combined("ties", density, 0, "layer", items)
    torch.testing.assert_close(found.flatten(), torch.tensor(wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_dare_keeps_a_share_of_the_values_and_scales_it_up(shape: tuple[int, ...]) -> None:
    delta, density = parts(shape)[0][1], 0.25
    found = combined("dare", density, 3, "layer", [(Part(0.5, "one"), delta)])
    kept = found != 0
    torch.testing.assert_close(found[kept], delta[kept] * 0.5 / density)
    if delta.numel() > PIECE:
        assert abs(float(kept.float().mean()) - density) < 0.01
        assert abs(float(kept[0].float().mean() - kept[1].float().mean())) < 0.01, "one piece's choice is not the next one's"
        assert not torch.equal(kept[0], kept[1])
    assert torch.equal(found, combined("dare", density, 3, "layer", [(Part(0.5, "one"), delta)]))
    assert not torch.equal(found, combined("dare", density, 4, "layer", [(Part(0.5, "one"), delta)]))


def test_equal_values_at_the_edge_are_all_kept() -> None:
    delta = torch.tensor([[1.0, -1.0, 1.0, 0.5]])
    assert torch.equal(combined("ties", 0.5, 0, "layer", [(Part(1.0, ""), delta)]), torch.tensor([[1.0, -1.0, 1.0, 0.0]]))


@pytest.mark.parametrize("method", ["sum", "ties", "dare", "dare_ties"])
def test_what_is_combined_stays_as_it_is(method: str) -> None:
    items = parts((2, PIECE + 3))
    before = [delta.clone() for _, delta in items]
    combined(method, 0.5, 0, "layer", items)
    assert all(torch.equal(delta, old) for (_, delta), old in zip(items, before))


def test_a_sum_is_the_strengths_times_the_differences() -> None:
    items = parts((4, 3, 3, 3))
    wanted = sum(part.strength * delta.double() for part, delta in items)
    torch.testing.assert_close(combined("sum", 0.5, 0, "layer", items).double(), wanted, rtol=1e-5, atol=1e-6)
