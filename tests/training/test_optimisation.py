"""Optimisers, schedules, precisions and what is done with the weights between steps, each in a whole training of a tiny Flux.1."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

from lib_lycoris.tools.training import runs
from lib_lycoris.training.__main__ import main
from lib_lycoris.training.loop import Loop
from lib_lycoris.training.settings import read_settings
from lib_lycoris.training.setup import Run, prepare
from lib_lycoris.training.steps.average import Average
from lib_lycoris.training.steps.step import Stepper
from tests.training import pictures
from tests.training.conftest import Words

REQUIRES = ("lycoris",)
HERE = {"AdamW": "3e-3", "AdaFactor": "1e-2", "SGDNesterov": "3"}  # with their rates
ASKED_FOR = {  # those whose packages are installed when they are asked for, as `run.py test --long` does
    "AdamW8bit": "3e-3", "PagedAdamW8bit": "3e-3", "Prodigy": "1", "AdamWScheduleFree": "1e-2", "RAdamScheduleFree": "0.3",
    "SGDScheduleFree": "20",
}  # fmt: skip
STEPS = 12


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return pictures.folder(tmp_path_factory.mktemp("images"), 6)


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    """Let each training of this process choose its precision, which accelerate fixes once for a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def asked(on_flux: Words) -> Words:
    """What returns the command line of a training of the tiny Flux.1."""
    always = ("--train_batch_size", "2", "--save_precision", "float", "--max_train_steps", str(STEPS))
    return lambda name, *more: on_flux(name, *always, *more)


def losses(out: Path, name: str) -> list[float]:
    """Return the loss on what was left out, after each step at which it was measured."""
    return [loss for _, loss in runs.facts_of(out / f"{name}.training").validation]


def same(one: Path, other: Path) -> None:
    first, second = load_file(str(one)), load_file(str(other))
    assert first.keys() == second.keys() and len(first) > 0
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def interrupted(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have the next run stop after a step."""
    monkeypatch.setattr(Loop, "_wished", lambda loop: loop.step == step)


@pytest.mark.parametrize("name", [*HERE, *(pytest.param(name, marks=pytest.mark.long) for name in ASKED_FOR)])
def test_every_optimiser_learns_and_goes_on_to_the_same_bits(name: str, asked: Words, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = {**HERE, **ASKED_FOR}[name]
    more = ("--optimizer_type", name, "--learning_rate", rate, "--validation_split", "0.2", "--validate_every_n_steps", "1")
    if name.endswith("8bit"):
        more = (*more, "--optimizer_args", "min_8bit_size=16")  # smaller tensors would be kept in 32
    if name == "Prodigy":
        more = (*more, "--optimizer_args", "d0=1e-3")  # its first guess of the rate grows too slowly for a dozen steps
    assert main(asked(name, *more)) == 0
    found = losses(out, name)
    assert len(found) == STEPS and min(found[-3:]) < 0.98 * found[0]
    with monkeypatch.context() as patched:
        interrupted(patched, 5)
        assert main(asked(f"{name}-again", *more)) == 130
    assert main(asked(f"{name}-again", *more, "--resume")) == 0
    same(out / f"{name}.safetensors", out / f"{name}-again.safetensors")


@pytest.mark.long  # where bitsandbytes is installed
def test_what_eight_bits_do_not_need_is_not_said() -> None:
    code = "import lib_lycoris.hosts.embedded, bitsandbytes; print('imported')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=runs.environment())
    assert (done.stdout, done.stderr) == ("imported\n", "")


def test_a_package_that_is_missing_is_named_before_anything_starts(
    asked: Words, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    assert main(asked("missing", "--optimizer_type", "Prodigy", "--learning_rate", "1")) == 2
    said = capsys.readouterr().err
    assert "--optimizer_type Prodigy needs the package prodigyopt" in said and "sd-webui-lycoris[train-prodigy]" in said


WARM, REST = 3, STEPS - 3


def _part(cycles: float) -> float:
    """Return how far the last begun cycle is; the third is the last."""
    return 1.0 if cycles >= 3 else cycles % 1


RATES = {
    "constant": lambda step: 1.0,
    "constant_with_warmup": lambda step: min(1.0, step / WARM),
    "linear": lambda step: step / WARM if step < WARM else (STEPS - step) / REST,
    "cosine": lambda step: step / WARM if step < WARM else 0.5 * (1 + cos(pi * (step - WARM) / REST)),
    "cosine_with_restarts": lambda step: step / WARM if step < WARM else 0.5 * (1 + cos(pi * _part(3 * (step - WARM) / REST))),
    "polynomial": lambda step: step / WARM if step < WARM else 1e-4 + (1 - 1e-4) * ((STEPS - step) / REST) ** 2,  # to 1e-7, diffusers' last
}


@pytest.mark.parametrize("name", RATES)
def test_schedules(name: str, asked: Words, out: Path) -> None:
    more = ("--lr_scheduler_num_cycles", "3", "--lr_scheduler_power", "2", "--learning_rate", "1e-3")
    warm = () if name == "constant" else ("--lr_warmup_steps", str(WARM))
    assert main(asked(f"rate-{name}", "--lr_scheduler", name, *more, *warm, "--no-self_check")) == 0
    (found,) = runs.facts_of(out / f"rate-{name}.training").rates.values()
    assert [rate for _, rate in found] == pytest.approx([1e-3 * RATES[name](step) for step in range(1, STEPS + 1)], abs=1e-9)


def test_rates_of_each_factor(asked: Words, out: Path) -> None:
    more = ("--network_args", "loraplus_lr_ratio=16", "--unet_lr", "1e-4", "--learning_rate", "5e-4", "--max_train_steps", "1")
    assert main([*asked("plus"), *more]) == 0
    found = runs.facts_of(out / "plus.training").rates
    assert {name: pytest.approx(rates[0][1]) for name, rates in found.items()} == {"transformer": 1e-4, "transformer up": 16e-4}


def test_bfloat16_learns_and_float16_is_for_gpus(asked: Words, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--learning_rate", "1e-2", "--validation_split", "0.2", "--validate_every_n_steps", "1")
    assert main(asked("bf16", *more, "--mixed_precision", "bf16")) == 0
    found = losses(out, "bf16")
    assert found[-1] < 0.97 * found[0]
    assert all(tensor.dtype == torch.float32 for tensor in load_file(str(out / "bf16.safetensors")).values())
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main(asked("fp16", "--mixed_precision", "fp16")) == 2
    assert "fp16 is for GPUs; on the CPU give bf16 or no" in capsys.readouterr().err


def test_activations_that_are_computed_twice_come_to_the_same(asked: Words, out: Path) -> None:
    rate = ("--learning_rate", "1e-2", "--max_train_steps", "3")
    assert main([*asked("kept"), *rate]) == 0 and main([*asked("twice"), *rate, "--gradient_checkpointing"]) == 0
    kept, twice = (load_file(str(out / f"{name}.safetensors")) for name in ("kept", "twice"))
    for name, tensor in kept.items():
        torch.testing.assert_close(twice[name], tensor, rtol=1e-4, atol=1e-6)


def prepared(words: list[str]) -> Run:
    return prepare(read_settings(words))


def gradients(run: Run) -> dict[str, Tensor]:
    return {name: weight.grad.clone() for name, weight in run.network.weights().items() if weight.grad is not None}


def test_accumulated_gradients_are_the_mean_of_their_batches(asked: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(asked("mean", "--gradient_accumulation_steps", "3", "--max_grad_norm", "0"))
    batches = [run.order.batch(number) for number in range(3)]
    each = []
    for batch in batches:
        run.optimiser.zero_grad()
        run.stepper.loss(batch).backward()
        each.append(gradients(run))
    monkeypatch.setattr(run.optimiser, "step", lambda: None)
    monkeypatch.setattr(run.schedule, "step", lambda: None)
    taken = run.stepper.take(batches, run.optimiser, run.schedule)
    together = gradients(run)
    assert len(together) == len(each[0]) > 0
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, sum(one[name] for one in each) / 3, rtol=1e-4, atol=1e-7)
    assert taken.norm == pytest.approx(float(torch.stack([g.norm() for g in together.values()]).norm()), rel=1e-4)


def test_long_gradients_are_cut(asked: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(asked("cut", "--max_grad_norm", "0.01"))
    monkeypatch.setattr(run.optimiser, "step", lambda: None)
    monkeypatch.setattr(run.schedule, "step", lambda: None)
    taken = run.stepper.take([run.order.batch(0)], run.optimiser, run.schedule)
    cut = float(torch.stack([gradient.norm() for gradient in gradients(run).values()]).norm())
    assert taken.norm > 0.02 and cut == pytest.approx(0.01, rel=1e-3)


def test_the_average_is_what_is_saved(asked: Words, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected: dict[str, Tensor] = {}
    own = Average.follow

    def follow(average: Average, step: int) -> None:
        if step == 1:
            expected.update({name: weight.clone() for name, weight in average.weights.items()})
        keep = min(0.5, (1 + step) / (10 + step))
        for name, weight in average.network.weights().items():
            expected[name] = keep * expected[name] + (1 - keep) * weight.detach()
        own(average, step)

    monkeypatch.setattr(Average, "follow", follow)
    assert main(asked("average", "--ema_decay", "0.5", "--learning_rate", "1e-2")) == 0
    tensors = load_file(str(out / "average.safetensors"))
    assert len(expected) == sum(not name.endswith("alpha") for name in tensors)
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-5, atol=1e-7)


def test_no_module_changes_more_than_it_may(asked: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[bool, float] = {}
    own = Stepper._scale_down

    def watched(stepper: Stepper) -> None:
        for after in (False, True):
            seen[after] = max(
                seen.get(after, 0.0), *(float(one.module.get_diff_weight()[0].detach().norm()) for one in stepper.network.entries)
            )
            own(stepper)

    monkeypatch.setattr(Stepper, "_scale_down", watched)
    assert main(asked("norms", "--scale_weight_norms", "0.05", "--learning_rate", "2e-2")) == 0
    assert seen[True] <= 0.05 * (1 + 1e-4) < seen[False]
