"""Train a student of a dense model in the three phases, and measure its quality at each budget."""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs

from acm_export.base import interrupts
from acm_export.base.errors import AcmWarning, UsageError
from acm_export.base.progress import Silent
from acm_export.data.collate import model_inputs
from acm_export.distillation.batches import Collate, StepOrder, batches_in_order, mix_seeds
from acm_export.distillation.check_surgery import check_surgery
from acm_export.distillation.checks import check_loss
from acm_export.distillation.evaluate import Evaluation
from acm_export.distillation.initialise import learners_from_ffn, learners_from_linear
from acm_export.distillation.layerwise import GatesPhase, LearnersPhase
from acm_export.distillation.phase import describe_step
from acm_export.distillation.record import SiteRecorder
from acm_export.distillation.settings import ANY_BUDGET, TEACHER, AcmizeSettings
from acm_export.distillation.state import State, fingerprint, load_state, remove_state
from acm_export.distillation.statistics import error_weights, gather_statistics
from acm_export.distillation.threshold_table import ThresholdTable
from acm_export.distillation.train import Throughput, Trainer
from acm_export.distillation.unskipped import COMPARED_SAMPLES, warn_of_unskipped_padding
from acm_export.distillation.whole_phase import WholePhase
from acm_export.modules import acm_layers
from acm_export.surgery import install_acm_layers
from acm_export.surgery.sites import FFN, ffn_weights, replaced_activations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch import nn

    from acm_export.base.json_fields import JsonObject
    from acm_export.base.progress import Progress
    from acm_export.data.dataset import Dataset
    from acm_export.distillation.evaluate import Curve
    from acm_export.distillation.plan import AcmizePlan
    from acm_export.distillation.tasks import AnyTask
    from acm_export.distillation.teacher import Teacher
    from acm_export.modules import ACMLayer

_LOG = logging.getLogger("acm_export")
_STATISTICS_BATCHES = 16
_THRESHOLD_SAMPLES = 256


@dataclass(frozen=True)
class Distilled:
    """A trained student, and how its training went.

    Args:
        student: Model with ACM layers, in the dtype of the teacher and in evaluation mode.
        curve: Quality against budget on held-out data.
        history: Losses during the three phases.
        data_sha256: SHA-256 of the training data.
        tokens_per_second: Tokens through ACM layers per second in this process; None if no step was left.
        resumed: Phase and step at which the run resumed, or None.
        accelerator: Accelerator of the run.
    """

    student: nn.Module
    curve: Curve
    history: tuple[JsonObject, ...]
    data_sha256: str
    tokens_per_second: float | None
    resumed: tuple[int, int] | None
    accelerator: Accelerator


def distil(
    teacher: Teacher,
    plan: AcmizePlan,
    task: AnyTask,
    data: tuple[Dataset, Dataset],
    settings: AcmizeSettings,
    output: Path | None,
    progress: Progress,
    *,
    restart: bool = False,
) -> Distilled:
    """Train a student in the three phases, and measure its quality at each budget.

    Args:
        teacher: Dense model; converted to float32 in place.
        plan: Sites to replace.
        task: Task of phase 3.
        data: Training samples and held-out samples.
        settings: Settings of the run.
        output: Folder beside which the state of an unfinished run is saved; None to save none.
        progress: Receives every step.
        restart: Discard an unfinished run.

    Raises:
        UsageError: The data or settings do not fit the model.
        DistillationError: The loss became NaN or infinite, or the unfinished run has other settings.
        OutputError: The state cannot be written.
    """
    samples, held_out = data
    collate = Collate(samples.inputs, task)
    accelerator = _accelerator(settings, len(samples))
    replaced = replaced_activations(item.site for item in plan.replacements)
    if replaced is not None and accelerator.is_main_process:
        warnings.warn(replaced, AcmWarning, stacklevel=2)
    if not accelerator.is_main_process:
        progress = Silent()
    data_sha256 = samples.digest()
    if restart and output is not None and accelerator.is_main_process:
        remove_state(output)
    accelerator.wait_for_everyone()
    dtype = next(teacher.model.parameters()).dtype
    dense = teacher.model.float().to(accelerator.device).eval()
    dense.requires_grad_(requires_grad=False)
    check_loss(dense, samples, collate, task)
    student = _untrained_student(teacher, dense, plan, settings.seed).to(accelerator.device)
    trainer = Trainer(accelerator, settings, samples, collate, student, output, progress, Throughput())
    run = _Run(teacher, dense, student, plan, task, trainer)
    identity = fingerprint(settings, teacher, data_sha256, accelerator.num_processes)
    try:
        state = run.resume(identity)
        resumed = trainer.saved
        if state is None:
            state = run.start(identity)
        run.train(state)
        curve = run.measure(held_out)
    except BaseException as error:
        if accelerator.is_main_process and (interrupts.received() or isinstance(error, KeyboardInterrupt)):
            _log_interrupt(trainer.saved)
        raise
    rate = trainer.throughput.tokens_per_second
    return Distilled(student.to(dtype), curve, tuple(state.history), data_sha256, rate, resumed, accelerator)


@dataclass(frozen=True)
class _Run:
    """The models of a run, and its stages."""

    teacher: Teacher
    dense: nn.Module
    student: nn.Module
    plan: AcmizePlan
    task: AnyTask
    trainer: Trainer

    def resume(self, identity: str) -> State | None:
        """Load the weights of an unfinished run into the student; returns its state, or None if there is none."""
        if self.trainer.output is None:
            return None
        state = load_state(self.trainer.output, identity)
        self.trainer.accelerator.wait_for_everyone()  # before the main process writes a new state
        if state is not None:
            self.student.load_state_dict(state.student)
            self.trainer.saved = state.phase, state.step
            if self.trainer.accelerator.is_main_process:
                _LOG.info("resuming at %s", describe_step(state.phase, state.step))
        return state

    def start(self, identity: str) -> State:
        """Gather statistics of the teacher and initialise the learners, identically in every process."""
        settings, samples = self.trainer.settings, self.trainer.samples
        if self.trainer.collate.takes_mask and self.trainer.accelerator.is_main_process:
            warn_of_unskipped_padding(self.student, self._inputs(range(min(len(samples), COMPARED_SAMPLES))))
        self.trainer.progress.stage("gathering statistics of the teacher", _STATISTICS_BATCHES)
        sites = tuple(item.site for item in self.plan.replacements)
        steps = StepOrder(len(samples), settings.batch, mix_seeds(settings.seed, 0), 0, _STATISTICS_BATCHES)
        torch.manual_seed(mix_seeds(settings.seed, 0))
        found = gather_statistics(self.dense, self.teacher.interface, sites, self._batches(steps))
        if settings.origin == TEACHER:
            layers = self._layers()
            for site in sites:
                layer, statistics = layers[site.place], found[site.place]
                if site.kind == FFN:
                    learners_from_ffn(layer, ffn_weights(self.dense, site), statistics)
                else:
                    learners_from_linear(layer, *site.up.weights(self.dense), statistics)
            check_surgery(self.dense, self.teacher.interface, sites, layers)
        variances = {place: statistics.output_variance for place, statistics in found.items()}
        state = State(identity, variances, error_weights(found))
        self.trainer.save(state)
        return state

    def train(self, state: State) -> None:
        """Run the remaining phases."""
        settings, interface, costs = self.trainer.settings, self.teacher.interface, self.plan.costs
        sites = [item.site for item in self.plan.replacements]
        with SiteRecorder(self.dense, interface, sites) as recorder:
            if state.phase == LearnersPhase.number:
                self.trainer.run(LearnersPhase(self._layers(), state.variances, recorder), state)
            if state.phase == GatesPhase.number:
                weights = state.weights if settings.recipe == ANY_BUDGET else None
                self.trainer.run(GatesPhase(self._layers(), recorder, weights, costs), state)
        if state.phase == WholePhase.number:
            table = ThresholdTable(state.thresholds)
            phase = WholePhase(self.student, self.dense, interface, self.task, costs, settings.budget, table)
            self.trainer.run(phase, state)

    def measure(self, held_out: Dataset) -> Curve:
        """Measure quality against budget."""
        trainer, samples = self.trainer, self.trainer.samples
        trainer.progress.stage("measuring quality at each budget", None)
        evaluation = Evaluation(self.student, self.dense, self.teacher.interface, self.task, self.plan.costs)
        few = samples.spread(_THRESHOLD_SAMPLES)
        batches = partial(
            batches_in_order,
            collate=trainer.collate,
            size=trainer.settings.batch,
            device=trainer.accelerator.device,
            progress=trainer.progress,
        )
        return evaluation.curve(partial(batches, few), partial(batches, held_out), len(held_out))

    def _batches(self, steps: StepOrder) -> Iterator[dict[str, torch.Tensor]]:
        for indices in steps:
            inputs = self._inputs(indices)
            self.trainer.progress.batch()
            yield inputs

    def _inputs(self, indices: Iterable[int]) -> dict[str, torch.Tensor]:
        trainer = self.trainer
        batch = trainer.collate([trainer.samples[i] for i in indices])
        return {name: value.to(trainer.accelerator.device) for name, value in model_inputs(batch).items()}

    def _layers(self) -> dict[str, ACMLayer]:
        """ACM layers of the student by place, in the order of the plan."""
        layers = dict(acm_layers(self.student))
        return {item.site.place: layers[item.site.place] for item in self.plan.replacements}


def _untrained_student(teacher: Teacher, dense: nn.Module, plan: AcmizePlan, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    replaced = {id(p): p for name, p in dense.named_parameters() if _is_replaced(name, plan)}
    student = copy.deepcopy(dense, dict[int, Any](replaced))  # without copies of weights that are dropped at once
    install_acm_layers(student, teacher.interface, plan.layers)
    return student


def _is_replaced(parameter: str, plan: AcmizePlan) -> bool:
    modules = [module for place, layer in plan.layers.items() for module in (place, *layer.emptied)]
    return any(parameter.startswith(f"{module}.") for module in modules)


def _accelerator(settings: AcmizeSettings, samples: int) -> Accelerator:
    """Create the accelerator of this process; batches are divided among all processes.

    Raises:
        UsageError: A batch cannot be divided evenly.
    """
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    batch = min(settings.batch, samples)
    if batch % accelerator.num_processes:
        raise UsageError(
            f"a batch of {batch} samples cannot be divided among {accelerator.num_processes} processes",
            f"make --batch a multiple of {accelerator.num_processes}",
        )
    return accelerator


def _log_interrupt(saved: tuple[int, int] | None) -> None:
    if saved is None:
        _LOG.warning("interrupted before a state was saved; the same command will start from the beginning")
    else:
        _LOG.warning("interrupted; the same command will resume at %s", describe_step(*saved))
