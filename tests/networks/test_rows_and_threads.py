"""A sum has the same bits whole and in portions of rows, with any number of threads: a merged file equals the live model on any machine."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import pytest
import torch

from lib_lycoris.algorithms import Algorithm
from lib_lycoris.algorithms.loha import LoHa
from lib_lycoris.algorithms.lora import LoRA
from lib_lycoris.algorithms.products import FEW, FEW_ADDED, stretches
from lib_lycoris.networks.summing import Term, add_terms, portions

# of layers of SD 1.5, SDXL and Flux, whose rows do not come out even in blocks
SHAPES = [
    (768, 768),
    (3072, 768),
    (1280, 5120),
    (2560, 1280),
    (3072, 15360),
    (320, 320, 3, 3),
    (1280, 1280, 3, 3),
    (640, 2560, 3, 3),
    (1280, 2560, 3, 3),
    (3, 9),
]
LARGE = 6_000_000  # values, from which a layer takes a second
PARAMETERS = [pytest.param(shape, marks=[pytest.mark.slow] if prod(shape) > LARGE else [], id=str(shape)) for shape in SHAPES]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def summed(base: torch.Tensor, network: Algorithm) -> torch.Tensor:
    out = torch.empty_like(base)
    add_terms(out, base, [Term(network, 0.7, ("a",), lambda: base)])
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", PARAMETERS)
def test_bits_do_not_depend_on_portions_and_threads(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    made, ones = torch.Generator().manual_seed(0), (1,) * (len(shape) - 2)
    base = (torch.randn(shape, generator=made) * 0.02).to(dtype)
    up, down = (torch.randn(size, generator=made) * 0.1 for size in ((shape[0], 16, *ones), (16, *shape[1:])))
    network, found = LoRA(up=up, down=down, alpha=torch.tensor(8.0)), []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        found.append(summed(base, network))
        parts = [summed(base[rows], network.rows(rows)) for rows in portions(shape)]  # type: ignore[arg-type]
        found.append(torch.cat(parts))
    exact = base.double() + 0.7 * 0.5 * (up.double().flatten(1) @ down.double().flatten(1)).reshape(shape)
    torch.testing.assert_close(found[0].double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("shape", PARAMETERS)
def test_bits_of_a_product_of_two_changes_do_not_depend_on_threads(shape: tuple[int, ...]) -> None:
    made, cols = torch.Generator().manual_seed(0), prod(shape[1:])
    base = torch.randn(shape, generator=made) * 0.02
    a, b, c, d = (torch.randn(size, generator=made) * 0.1 for size in ((shape[0], 8), (8, cols), (shape[0], 8), (8, cols)))
    network, found = LoHa(w1_a=a, w1_b=b, w2_a=c, w2_b=d, alpha=torch.tensor(4.0)), []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        found.append(summed(base, network))
    exact = base.double() + 0.7 * 0.5 * ((a.double() @ b.double()) * (c.double() @ d.double())).reshape(shape)
    torch.testing.assert_close(found[0].double(), exact, rtol=1e-6, atol=1e-7)
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("count", [0, 1, 7, FEW, 341, 342, 1000, 3072])
@pytest.mark.parametrize("step", [1, 5, 341])
def test_stretches_cover_all_rows_and_none_is_much_shorter(count: int, step: int) -> None:
    found = list(stretches(count, step))
    assert [row for part in found for row in range(part.start, part.stop)] == list(range(count))
    lengths = {part.stop - part.start for part in found} or {0}
    assert max(lengths) <= step and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("count", [1, 255, 256, 300, 511, 512, 3072])
def test_stretches_have_as_many_rows_as_they_need(count: int) -> None:
    found = list(stretches(count, 64, few=256))
    assert [row for part in found for row in range(part.start, part.stop)] == list(range(count))
    assert all(min(count, 256) <= part.stop - part.start < 512 for part in found)


def test_a_portion_of_a_wide_layer_has_no_few_rows() -> None:
    assert all(rows.stop - rows.start >= FEW_ADDED for shape in SHAPES[:-1] for rows in portions(shape))
    assert prod(SHAPES[4]) > max((rows.stop - rows.start) * SHAPES[4][1] for rows in portions(SHAPES[4]))
