"""The training loop of every phase; accelerate handles devices, processes and precision."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from acm_export.base.errors import DistillationError
from acm_export.distillation.batches import StepOrder, mix_seeds
from acm_export.distillation.phase import PHASE_TITLES
from acm_export.distillation.state import has_state, partial_folder, save_state

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator
    from torch import nn

    from acm_export.base.progress import Progress
    from acm_export.data.dataset import Dataset
    from acm_export.distillation.batches import Collate
    from acm_export.distillation.phase import Phase, StepLoss
    from acm_export.distillation.settings import AcmizeSettings
    from acm_export.distillation.state import State

_LOG = logging.getLogger("acm_export")
_HISTORY_POINTS = 20
_MAX_GRADIENT_NORM = 1.0


@dataclass
class Throughput:
    """Tokens through ACM layers, and seconds of training, so far in this process."""

    tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second; None before the first step."""
        return self.tokens / self.seconds if self.seconds else None


@dataclass
class Trainer:
    """Trains the phases of a run.

    Args:
        accelerator: Accelerator, which manages devices and processes.
        settings: Settings of the run.
        samples: Training samples.
        collate: Makes a batch from samples.
        student: Model in training, whose tensors are saved.
        output: Output folder; the state is saved beside it. None to save no state.
        progress: Receives every step.
        throughput: Counts tokens and seconds.
        saved: Phase and step of the last saved state, or None.
    """

    accelerator: Accelerator
    settings: AcmizeSettings
    samples: Dataset
    collate: Collate
    student: nn.Module
    output: Path | None
    progress: Progress
    throughput: Throughput
    saved: tuple[int, int] | None = None

    def run(self, phase: Phase, state: State) -> None:
        """Train a phase to its end.

        Args:
            phase: Loss and parameters of the phase.
            state: State of the run, changed in place; in this phase before, at the start of the next phase afterwards.

        Raises:
            DistillationError: The loss or a weight became NaN or infinite; the last saved state is kept.
        """
        if state.step < self.settings.steps[phase.number - 1]:
            self._train(phase, state)
        self._collect_student(state)
        state.phase, state.step, state.optimizer, state.scaler = phase.number + 1, 0, {}, {}
        self._write(state)

    def save(self, state: State) -> None:
        """Save the state, so that an interrupted run resumes here.

        Raises:
            DistillationError: A weight is not finite; the last saved state is kept.
        """
        self._collect_student(state)
        self._write(state)

    def _collect_student(self, state: State) -> None:
        if self.accelerator.is_main_process:
            state.student = {name: tensor.detach().cpu() for name, tensor in self.student.state_dict().items()}
            parameters = [name for name, _ in self.student.named_parameters()]
            broken = [name for name in parameters if not bool(state.student[name].isfinite().all())]
            if broken:
                raise self._not_finite(state.phase, state.step, f"in {broken[0]}")

    def _write(self, state: State) -> None:
        if self.output is None:
            return
        if self.accelerator.is_main_process:
            save_state(state, self.output)
        self.saved = state.phase, state.step
        self.accelerator.wait_for_everyone()

    def _train(self, phase: Phase, state: State) -> None:
        last, rate = self.settings.steps[phase.number - 1], self.settings.learning_rates[phase.number - 1]
        optimizer, parameters = self._optimizer(phase, rate)
        module, optimizer = self.accelerator.prepare(phase, optimizer)
        scaler: Any = self.accelerator.scaler  # accelerate does not annotate it
        if state.optimizer:
            optimizer.load_state_dict(state.optimizer)
        if scaler is not None and state.scaler:
            scaler.load_state_dict(state.scaler)
        self.progress.stage(self._stage_title(phase, state), last - state.step)
        started = time.perf_counter()
        for batch in self._batches(phase, state.step, last):
            torch.manual_seed(mix_seeds(self.settings.seed, phase.number, state.step, self.accelerator.process_index))
            for group in optimizer.param_groups:
                group["lr"] = group["rate_factor"] * rate * schedule(state.step, last)
            loss = module(batch)
            self._check_finite(loss, phase, state.step)
            self.accelerator.backward(loss.value)
            self.accelerator.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
            optimizer.step()
            optimizer.zero_grad()
            phase.after_step(state, partial(self.accelerator.reduce, reduction="mean"))
            state.step += 1
            self._log_step(loss, phase, state)
            if state.step % self.settings.checkpoint_every == 0 and state.step < last:
                state.optimizer = optimizer.state_dict()
                state.scaler = {} if scaler is None else scaler.state_dict()
                self.save(state)
        self.throughput.seconds += time.perf_counter() - started
        self.accelerator.free_memory()

    def _optimizer(self, phase: Phase, rate: float) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
        """An optimizer for the phase's parameters; no other parameters get gradients."""
        for parameter in self.student.parameters():
            parameter.requires_grad = False
        groups = [group for group in phase.parameter_groups() if group.parameters]
        parameters = [parameter for group in groups for parameter in group.parameters]
        for parameter in parameters:
            parameter.requires_grad_()
        optimizer = torch.optim.AdamW(
            [{"params": group.parameters, "rate_factor": group.rate_factor} for group in groups],
            lr=rate,
            weight_decay=0.0,
        )
        return optimizer, parameters

    def _batches(self, phase: Phase, first: int, last: int) -> Any:  # accelerate's results are not annotated
        """This process's part of each step's batch, on its device."""
        seed = mix_seeds(self.settings.seed, phase.number)
        steps = StepOrder(len(self.samples), self.settings.batch, seed, first, last)
        loader: Any = DataLoader(self.samples, batch_sampler=steps, collate_fn=self.collate)  # type: ignore[arg-type]
        return self.accelerator.prepare(loader)

    def _stage_title(self, phase: Phase, state: State) -> str:
        left = sum(self.settings.steps[phase.number - 1 :]) - state.step
        return f"phase {phase.number} of {len(PHASE_TITLES)}: {phase.title} ({left:,} steps left in all phases)"

    def _log_step(self, loss: StepLoss, phase: Phase, state: State) -> None:
        self.throughput.tokens += loss.tokens
        last = self.settings.steps[phase.number - 1]
        value = float(loss.value.detach())
        budget = None if loss.budget is None else float(loss.budget)
        note = f"loss {value:.4g}" + ("" if budget is None else f", β {budget:.2f}")
        self.progress.batch(note)
        if state.step % max(last // _HISTORY_POINTS, 1) == 0 or state.step == last:
            state.history.append({"phase": phase.number, "step": state.step, "loss": value, "budget": budget})
            if self.accelerator.is_main_process:
                _LOG.info("phase %d, step %d of %d: %s", phase.number, state.step, last, note)

    def _check_finite(self, loss: StepLoss, phase: Phase, step: int) -> None:
        values = self.accelerator.gather(loss.finite_checks().unsqueeze(0))
        if not bool(values.isfinite().all()):
            layer = loss.broken_layer()
            raise self._not_finite(phase.number, step + 1, f"in {layer}" if layer else "after the last ACM layer")

    def _not_finite(self, phase: int, step: int, where: str) -> DistillationError:
        hint = "no step was completed: check the model and the data"
        if self.output is not None and has_state(self.output):
            hint = (
                f"the last good state is in {partial_folder(self.output)}; "
                "the same command with a lower --lr resumes from there"
            )
        return DistillationError(
            f"NaN or infinity in phase {phase} ({PHASE_TITLES[phase - 1]}) at step {step}, first {where}", hint
        )


def schedule(step: int, steps: int) -> float:
    """Learning rate ÷ its peak: linear warm-up over a tenth of the steps (at most 100), then cosine decay."""
    warm_up = max(min(100, steps // 10), 1)
    return min((step + 1) / warm_up, 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))
