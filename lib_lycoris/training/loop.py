"""The run: step after step, with files, images and states between, until the end, a wish to stop, or numbers that are none."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from ..atomic import removed_leftovers
from ..errors import LycorisError
from ..tools.training.runs import STATE
from ..tools.units import megabytes
from ..wording import counted
from .check import check_file
from .files import between, dtype_of, final_file, thin_out, write_network
from .reporting.board import draw_step, open_board
from .reporting.samples import Samples
from .reporting.spectra import spectra
from .reporting.validation import validation_loss
from .setup import Run, mark_facts
from .state import RunState, mark_of, read_state, write_state
from .steps.average import Average
from .steps.optimisers import told
from .steps.step import Taken, without_mask

RECENT = 100  # steps in the loss that is shown
EXPLODED = 1000.0  # times the recent loss


class Diverged(LycorisError):
    """The numbers of a run are of no use any more."""


class Loop:
    """Does a prepared run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.settings, self.network, self.events = run.settings, run.network, run.events
        self.mark = mark_of(*mark_facts(run))
        self.average = Average(run.network, run.settings.ema_decay) if run.settings.ema_decay else None
        self.samples = Samples(run)
        self.board = open_board(run.settings.logging_dir, run.settings.output_name) if run.main else None
        self.losses: deque[float] = deque(maxlen=RECENT)
        self.step = 0

    @property
    def final(self) -> Path:
        """The file that the run is for."""
        return final_file(self.settings, self.run.output)

    def go(self) -> Path | None:
        """Train to the end and return the network's file; None when it was stopped before."""
        self._begin()
        run, settings = self.run, self.settings
        if self.step == 0 and settings.sample_at_first:
            self._draw()
        self.network.train()
        accumulated = settings.gradient_accumulation_steps
        while self.step < run.steps:
            if self._wished():
                self._stop()
                return None
            batches = [run.order.batch(self.step * accumulated + number) for number in range(accumulated)]
            started = time.monotonic()
            taken = run.stepper.take(batches, run.optimiser, run.schedule)
            self._guard(taken)
            self.step += 1
            if self.average is not None:
                self.average.follow(self.step)
            self._tell(taken, time.monotonic() - started)
            self._between()
        return self._finish()

    def _begin(self) -> None:
        """Find the place to begin at: the kept state's, or the start. Raises ToolError for a state of another run."""
        run, settings = self.run, self.settings
        state = read_state(run.folder, self.mark) if settings.resume else None
        if settings.overwrite and run.main and not settings.resume:
            (run.folder / STATE).unlink(missing_ok=True)
            self.samples.forget()
        if state is not None:
            self._restore(state)
        run.accelerator.wait_for_everyone()  # what the first process writes now is not what the others looked for
        if run.main:
            for folder in (run.folder, run.output):
                removed_leftovers(folder)  # of processes that were killed while they wrote
            self.events.begin(self.step)
            facts = {"steps": run.steps, "name": settings.output_name, "seed": settings.seed, "layers": len(self.network.entries)}
            layers, steps = counted(len(self.network.entries), "layer"), counted(run.steps, "step")
            words = f"{settings.output_name}: {layers}, {steps}, {counted(run.order.length, 'batch', 'batches')} an epoch"
            self.events.tell("start", words + (f"; going on after step {self.step}" if self.step else ""), step=self.step, **facts)
        run.lessons.fill(run.found.items + run.found.validation, self._caching)
        if state is None and run.main:
            self._keep()

    def _caching(self, done: int, total: int) -> None:
        if self.run.main and (done == total or done % 20 == 0):
            self.events.tell("caching", f"latents: {done} of {total}", done=done, total=total)

    def _restore(self, state: RunState) -> None:
        run = self.run
        self.network.restore(state.network)
        run.optimiser.load_state_dict(state.optimiser)
        run.schedule.load_state_dict(state.schedule)
        if state.scaler is not None and run.accelerator.scaler is not None:
            run.accelerator.scaler.load_state_dict(state.scaler)
        if state.average is not None and self.average is not None:
            self.average.take(state.average)
        self.step = state.step

    def _keep(self) -> None:
        """Write the state."""
        run = self.run
        scaler = run.accelerator.scaler
        average = self.average.weights if self.average else None
        state = RunState(
            self.step, {name: tensor.detach() for name, tensor in self.network.whole_state().items()}, run.optimiser.state_dict(),
            run.schedule.state_dict(), scaler.state_dict() if scaler is not None else None, average, self.mark,
        )  # fmt: skip
        write_state(run.folder, state)

    def _guard(self, taken: Taken) -> None:
        """Go back to the last good state and end the run when a step came to nothing usable."""
        if not self.settings.guard:
            return
        usual = sum(self.losses) / len(self.losses) if len(self.losses) >= 10 else None
        fine = isfinite(taken.loss) and (isfinite(taken.norm) or taken.skipped or self.run.accelerator.scaler is not None)
        if fine and (usual is None or taken.loss <= EXPLODED * max(usual, 1e-6)):
            self.losses.append(taken.loss)
            return
        state = read_state(self.run.folder, self.mark)
        back = ""
        if state is not None:
            failed, self.step = self.step + 1, state.step
            self._restore(state)
            back = f"; the network is as it was after step {self.step}"
            if self.step:
                self._save(self.final)
        else:
            failed = self.step + 1
        hint = "a rate of a half or a third, a longer --lr_warmup_steps, or a smaller --max_grad_norm"
        if self.settings.mixed_precision == "fp16":
            hint += ", or --mixed_precision bf16"
        raise Diverged(f"step {failed} came to a loss of {taken.loss:.3g} and a gradient of {taken.norm:.3g}{back}; begin anew with {hint}")

    def _tell(self, taken: Taken, seconds: float) -> None:
        if not self.run.main:
            return
        rates = {str(group.get("name", number)): group["lr"] for number, group in enumerate(self.run.optimiser.param_groups)}
        recent = sum(self.losses) / max(len(self.losses), 1)
        words = f"step {self.step} of {self.run.steps}, loss {recent:.4f}, {seconds:.2f} s a step"
        self.events.step(
            words, step=self.step, steps=self.run.steps, epoch=self.run.epoch_after(self.step), loss=taken.loss, recent=recent,
            norm=taken.norm, rates=rates, seconds=seconds,
        )  # fmt: skip
        if self.board is not None:
            draw_step(self.board, self.step, {"loss": taken.loss, "loss/recent": recent, "norm": taken.norm, **_with_prefix("lr", rates)})

    def _between(self) -> None:
        """Do what is due after this step."""
        run, settings, step = self.run, self.settings, self.step
        epoch = run.epoch_after(step) if run.epoch_after(step) > run.epoch_after(step - 1) else None
        last = step == run.steps
        if _due(settings.validate_every_n_steps, step) or (not settings.validate_every_n_steps and epoch is not None) or last:
            self._validate()
        if _due(settings.spectra_every_n_steps, step) and run.main:
            self.events.tell("spectra", step=step, **spectra(run.network, run.model.family))
        if _due(settings.sample_every_n_steps, step) or (epoch is not None and _due(settings.sample_every_n_epochs, epoch)) or last:
            self._draw()
        if not last and _due(settings.save_every_n_steps, step):
            self._save(between(settings, run.output, step, None))
        if not last and epoch is not None and _due(settings.save_every_n_epochs, epoch):
            self._save(between(settings, run.output, step, epoch))
        if run.main and (_due(settings.state_every_n_steps, step) or last):
            self._keep()

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Let the network be for a while what a file of it is."""
        told(self.settings, self.run.optimiser, training=False)
        without_mask()
        self.network.eval()
        try:
            if self.average is not None:
                with self.average.put_in():
                    yield
            else:
                yield
        finally:
            self.network.train()
            told(self.settings, self.run.optimiser, training=True)

    def _validate(self) -> None:
        if self.run.found.validation:
            with self._in_use():
                loss = validation_loss(self.run)
            if self.run.main:
                self.events.tell("validation", f"validation loss {loss:.4f} after step {self.step}", step=self.step, loss=loss)

    def _draw(self) -> None:
        if self.run.main and self.samples.prompts:
            with self._in_use():
                for path in self.samples.make(self.step):
                    self.events.tell("sample", f"image {path.name}", step=self.step, file=path.name)

    def _save(self, path: Path) -> None:
        run = self.run
        if not run.main:
            return
        with self._in_use():
            write_network(path, run.network, self.settings, run.recorded, self.step, run.epoch_after(self.step))
            facts: dict[str, Any] = {}
            if self.settings.self_check:
                facts = check_file(path, run.model, run.network, dtype_of(self.settings))
        gone = [] if path == self.final else thin_out(self.settings, run.output, self.step, run.epoch_after(self.step))
        size = path.stat().st_size
        words = f"{path.name}: {megabytes(size)}" + (", read again and found equal to what was trained" if facts else "")
        self.events.tell("saved", words, step=self.step, file=path.name, bytes=size, removed=gone, **facts)

    def _wished(self) -> bool:
        """Tell whether the run is to stop; all processes agree, whichever of them was told."""
        accelerator = self.run.accelerator
        if accelerator.num_processes == 1:
            return self.events.stopped
        told = torch.tensor(float(self.events.stopped), device=self.run.model.device)
        return float(accelerator.reduce(told, "sum")) > 0

    def _stop(self) -> None:
        if self.run.main:
            self._keep()
            words = f"stopped after step {self.step} of {self.run.steps}; --resume goes on from there"
            self.events.tell("stopped", words, step=self.step)

    def _finish(self) -> Path:
        run, path = self.run, self.final
        self._save(path)
        if run.main:
            with self._in_use(), torch.no_grad():
                found = spectra(run.network, run.model.family)
            self.events.tell("spectra", step=self.step, **found)
            for hint in found["hints"]:
                self.events.tell("hint", hint, step=self.step, text=hint)
            self.events.tell("done", f"{path}", step=self.step, file=path.name)
        return path


def _with_prefix(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _due(every: int | None, count: int) -> bool:
    return bool(every) and count % int(every or 1) == 0
