"""What is measured of the running loader in this process: changes, steps, images, schedules."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from lib_lycoris import Patcher

from . import loader_networks
from .loader_models import Model
from .loader_sides import STEPS, Hosts, Ours, Side
from .loader_steps import Steps, Times, share, step
from .loader_timing import Result, added, of, ratio, seconds
from .memory import at_hand

EVENTS = ("first_use", "new_file", "strength_only", "off")
CHANGE_LIMITS = {"functional": 0.10, "merged": 1 / 3}
STEADY_LIMITS = {"lora": 1.08, "locon": 1.12, "lokr": 1.12, "lokr_rank": 1.12, "oft": 1.12}
MERGED_LIMIT, PICTURE_LIMIT, SCHEDULE_LIMIT = 1.01, 1.10, 1.02


@dataclass(frozen=True)
class Rising:
    """A strength that is another one at every step."""

    def value(self, step: int, steps: int) -> float:
        """Return it at a 0-based step."""
        return 0.5 + 0.5 * step / steps


@dataclass(frozen=True)
class Plan:
    """How much is measured: repeats of each change, and times that ours is measured in each; rounds of steps by way, pairs of
    a schedule's steps, networks in a row.
    """

    repeats: int = 3
    passes: int = 3  # ours adds less than one step differs from the next, so that one measurement of it says little
    rounds: dict[str, int] = field(default_factory=lambda: {"functional": 3, "merged": 7, "recompute": 1, "auto": 3})
    pairs: int = 10
    row: int = 100
    size: int = 64  # of a step's latents
    ways: tuple[str, ...] = ("functional", "merged", "auto")


QUICK = Plan(1, 1, {"functional": 1, "merged": 1, "recompute": 1, "auto": 1}, 3, 12)


class Stages:
    """The measurements on one model; each method yields its results."""

    def __init__(self, model: Model, folder: Path, kinds: tuple[str, ...], plan: Plan) -> None:
        self.model, self.folder, self.kinds, self.plan = model, folder, kinds, plan
        self.base = Patcher(model.parts).base
        self.dtype = next(model.parts["unet"].parameters()).dtype

    def file(self, kind: str, seed: int = 0) -> Path:
        """Return the path of a network."""
        return loader_networks.write(kind, self.base, self.folder, self.dtype, seed)

    def events(self, side: Side, kind: str) -> dict[str, float]:
        """Return what each kind of change adds, from a fresh start."""
        one, other, found = self.file(kind, 0), self.file(kind, 1), {}
        self.at_hand(one, other)
        for name, path, strength in (("first_use", one, 0.8), ("new_file", other, 0.8), ("strength_only", other, 0.5)):
            found[name] = added(partial(side.use, path, strength), side.model.probe)
        found["off"] = added(side.off, side.model.probe)
        side.reset()
        return found

    def middle_events(self, side: Side, kind: str) -> dict[str, float]:
        """Return the same; for ours the median of several, each from a fresh start."""
        measured = [self.events(side, kind) for _ in range(1 if isinstance(side, Hosts) else self.plan.passes)]
        return {event: median(found[event] for found in measured) for event in EVENTS}

    def at_hand(self, *files: Path) -> None:
        """Have the system hold memory of the model's size, and files in its cache."""
        at_hand(sum(tensor.numel() * tensor.element_size() for part in self.model.parts.values() for tensor in part.parameters()))
        for path in files:
            path.read_bytes()

    def changes(self) -> Iterator[Result]:
        """Yield what changes add, ours of the host's, and each in seconds."""
        ways: list[Any] = [way for way in self.plan.ways if way in CHANGE_LIMITS]
        sides: dict[str, Side] = {"host": Hosts(self.model), **{way: Ours(self.model, way) for way in ways}}
        for side in sides.values():  # the first time torch itself prepares something
            self.events(side, self.kinds[0])
        for kind in self.kinds:  # and a disk that writes is a disturbance
            self.file(kind, 0), self.file(kind, 1)
        os.sync()
        for kind in self.kinds:
            times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
            for _ in range(self.plan.repeats):
                for name, side in sides.items():
                    times[name].append(self.middle_events(side, kind))
            for event in EVENTS:
                series = {name: [found[event] for found in measured] for name, measured in times.items()}
                for name, values in series.items():
                    yield of(f"{event}_{kind}_{name}_seconds", values, unit="s")
                for way in ways:
                    yield ratio(f"{event}_{kind}_{way}", series[way], series["host"], CHANGE_LIMITS[way])
        del side, sides
        gc.collect()  # the host's copy of the model goes

    def steady(self) -> Iterator[Result]:
        """Yield what a step costs with a network, of a plain step in the same round; and what an image costs on the way chosen by us."""
        sides: dict[str, Ours] = {way: Ours(self.model, way) for way in self.plan.ways}  # type: ignore[arg-type]
        steps, plain = Steps(self.model, self.plan.size), self.model.copied()
        for kind in self.kinds:
            for side in sides.values():
                side.use(self.file(kind), 0.8)
                side.model.probe()
            changes = self.change(sides["auto"], kind) if "auto" in sides else []
            rounds: list[Times] = []
            for number in range(max(self.plan.rounds[way] for way in sides)):
                turn = [way for way in sides if number < self.plan.rounds[way]]
                rounds.append(steps.take({"plain": plain, **{way: sides[way].model for way in turn}}, number))
            for way in sides:
                limit = {"merged": MERGED_LIMIT, "functional": STEADY_LIMITS.get(kind)}.get(way)
                yield share(f"steady_{kind}_{way}", rounds, way, "plain", limit)
            if "auto" in sides:
                change = of(f"change_{kind}_auto_seconds", changes, unit="s")
                yield change
                whole = (max(change.value, 0.0) + STEPS * step(rounds, "auto")) / (STEPS * step(rounds, "plain"))
                yield Result(f"picture_{kind}", whole, PICTURE_LIMIT)
            yield Result(f"step_{kind}_plain_seconds", step(rounds, "plain"), unit="s")
            for side in sides.values():
                side.reset()

    def change(self, side: Ours, kind: str) -> list[float]:
        """Return the seconds that a change to another file adds to an image's first step, each from two steps one after the other."""
        found = []
        for seed in (1, 0):
            path = self.file(kind, seed)

            def first(path: Path = path) -> None:
                side.use(path, 0.8)
                side.model.probe()  # the text encoder's part
                side.model.step(self.plan.size)

            def again() -> None:
                side.model.probe()
                side.model.step(self.plan.size)

            found.append(seconds(first) - seconds(again))
        return found

    def schedule(self) -> Iterator[Result]:
        """Yield what a step costs when the strength changes at every step; at a quarter of the tokens, where a fixed cost weighs more."""
        constant, changing = Ours(self.model, "functional"), Ours(self.model, "functional")
        path = self.file(self.kinds[0])
        constant.use(path, 0.8)
        changing.use(path, Rising())
        times: dict[str, list[float]] = {"constant": [], "changing": []}
        for number in range(self.plan.pairs + 1):
            pair = [("constant", constant), ("changing", changing)]
            for name, side in pair if number % 2 else reversed(pair):
                assert side.patcher is not None
                side.patcher.step(number % STEPS, STEPS)
                taken = seconds(lambda model=side.model: model.step(self.plan.size // 2))  # type: ignore[misc]
                if number:
                    times[name].append(taken)
        pairs = [new / old for new, old in zip(times["changing"], times["constant"], strict=True)]
        yield of(f"schedule_{self.kinds[0]}", pairs, SCHEDULE_LIMIT)
