"""The loop that every phase runs in; devices, processes and precision are accelerate's."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.data import DataLoader

from acm_export.base.errors import DistillationError
from acm_export.distillation.order import StepOrder, mixed
from acm_export.distillation.state import has_state, partial_folder, save_state

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator
    from torch import nn

    from acm_export.data.dataset import Dataset
    from acm_export.distillation.collate import Collate
    from acm_export.distillation.layerwise import GatesPhase, LearnersPhase
    from acm_export.distillation.loss import Loss
    from acm_export.distillation.settings import AcmizeSettings
    from acm_export.distillation.state import State
    from acm_export.distillation.whole import WholePhase

_LOG = logging.getLogger("acm_export")
_POINTS = 20
_CLIP = 1.0
TITLES = ("learners", "gates", "whole model")


class Progress(Protocol):
    """Is told of stages and steps."""

    def stage(self, title: str, batches: int | None) -> None:
        """A stage begins; it will take so many steps."""

    def batch(self, note: str = "") -> None:
        """One more step is done."""


class Silent:
    """Tells nobody: what the progress of all processes but one is."""

    def stage(self, title: str, batches: int | None) -> None:
        """Nothing."""

    def batch(self, note: str = "") -> None:
        """Nothing."""


@dataclass
class Speed:
    """What a run cost so far, this process alone."""

    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Trainer:
    """Everything that the phases share.

    Args:
        accelerator: Devices and processes.
        settings: Of the run.
        samples: To train with.
        collate: From samples to a batch.
        student: Whose tensors are saved.
        output: Beside which the state is kept.
        progress: Is told of every step.
        speed: Is added to.
    """

    accelerator: Accelerator
    settings: AcmizeSettings
    samples: Dataset
    collate: Collate
    student: nn.Module
    output: Path
    progress: Progress
    speed: Speed

    def batches(self, phase: int, first: int, last: int) -> Any:
        """The steps' batches, the part of this process of each, on its device."""
        steps = StepOrder(len(self.samples), self.settings.batch, mixed(self.settings.seed, phase), first, last)
        loader: Any = DataLoader(self.samples, batch_sampler=steps, collate_fn=self.collate)  # type: ignore[arg-type]
        return self.accelerator.prepare(loader)

    def save(self, state: State) -> None:
        """Let a killed run go on from here."""
        if self.accelerator.is_main_process:
            state.student = {name: tensor.detach().cpu() for name, tensor in self.student.state_dict().items()}
            broken = [name for name, tensor in state.student.items() if not bool(tensor.isfinite().all())]
            if broken:
                raise self._broken(state.phase, state.step, f"in {broken[0]}")
            save_state(state, self.output)
        self.accelerator.wait_for_everyone()

    def run(self, phase: LearnersPhase | GatesPhase | WholePhase, number: int, state: State) -> None:
        """Train a phase from where it stands to its end.

        Args:
            phase: Its losses and what they train.
            number: 1 to 3.
            state: Of the run; ends at the beginning of the next phase.

        Raises:
            DistillationError: The loss is not finite any more; the state that was saved last is kept.
        """
        last, rate = self.settings.steps[number - 1], self.settings.learning_rates[number - 1]
        if state.step < last:
            self._train(phase, number, last, rate, state)
        state.phase, state.step, state.optimizer, state.scaler = number + 1, 0, {}, {}
        self.save(state)

    def _train(self, phase: Any, number: int, last: int, rate: float, state: State) -> None:
        for parameter in self.student.parameters():
            parameter.requires_grad = False
        groups = [{"params": part, "factor": factor} for part, factor in phase.trained() if part]
        parameters = [parameter for group in groups for parameter in group["params"]]
        for parameter in parameters:
            parameter.requires_grad_()
        optimizer: Any = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
        module, optimizer = self.accelerator.prepare(phase, optimizer)
        if state.optimizer:
            optimizer.load_state_dict(state.optimizer)
        scaler: Any = self.accelerator.scaler
        if scaler is not None and state.scaler:
            scaler.load_state_dict(state.scaler)
        self.progress.stage(f"phase {number} of 3: {TITLES[number - 1]}", last - state.step)
        begun = time.perf_counter()
        for batch in self.batches(number, state.step, last):
            torch.manual_seed(mixed(self.settings.seed, number, state.step, self.accelerator.process_index))
            for group in optimizer.param_groups:
                group["lr"] = group["factor"] * rate * schedule(state.step, last)
            loss = module(batch)
            self._check(loss, number, state.step)
            self.accelerator.backward(loss.value)
            self.accelerator.clip_grad_norm_(parameters, _CLIP)
            optimizer.step()
            optimizer.zero_grad()
            if number == 3 and phase.found is not None:
                phase.dial.update(self.accelerator.reduce(phase.found, "mean"))
                state.dial = phase.dial.thresholds.cpu()
            state.step += 1
            self._tell(loss, number, last, state)
            if state.step % self.settings.checkpoint_every == 0 and state.step < last:
                state.optimizer = optimizer.state_dict()
                state.scaler = {} if scaler is None else scaler.state_dict()
                self.save(state)
        self.speed.seconds += time.perf_counter() - begun
        self.accelerator.free_memory()

    def _tell(self, loss: Loss, number: int, last: int, state: State) -> None:
        self.speed.tokens += loss.tokens
        value = float(loss.value.detach())
        budget = None if loss.budget is None else float(loss.budget)
        note = f"loss {value:.4g}" + ("" if budget is None else f", β {budget:.2f}")
        self.progress.batch(note)
        if state.step % max(last // _POINTS, 1) == 0 or state.step == last:
            state.history.append({"phase": number, "step": state.step, "loss": value, "budget": budget})
            if self.accelerator.is_main_process:
                _LOG.info("phase %d, step %d of %d: %s", number, state.step, last, note)

    def _check(self, loss: Loss, number: int, step: int) -> None:
        values: Any = self.accelerator.gather(loss.everything().unsqueeze(0))
        if bool(values.isfinite().all()):
            return
        layer = loss.broken_layer()
        raise self._broken(number, step + 1, f"in {layer}" if layer else "behind the last ACM layer")

    def _broken(self, number: int, step: int, where: str) -> DistillationError:
        title = TITLES[min(number, len(TITLES)) - 1]
        kept = f"the last good state is in {partial_folder(self.output)}; the same command with a lower --lr goes on"
        return DistillationError(
            f"phase {number} ({title}) is not finite any more at step {step}, first {where}",
            f"{kept} from there" if has_state(self.output) else "no step was taken: look at the model and the data",
        )


def schedule(step: int, steps: int) -> float:
    """Learning rate ÷ its largest: up over a tenth of the steps (100 at most), then down along a cosine."""
    warm_up = max(min(100, steps // 10), 1)
    return min((step + 1) / warm_up, 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))
