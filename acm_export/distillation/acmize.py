"""From a dense checkpoint and data to an ACM checkpoint: plan, three phases, curve, folder."""

from __future__ import annotations

import copy
import resource
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs

from acm_export.base.errors import UsageError
from acm_export.checkpoints import save_checkpoint
from acm_export.data.collate import model_inputs
from acm_export.data.speech import read_vocabulary
from acm_export.distillation.card import model_card
from acm_export.distillation.collate import Collate
from acm_export.distillation.dial import Dial
from acm_export.distillation.evaluate import Curve, Evaluation
from acm_export.distillation.initialise import learners_from_ffn, learners_from_linear
from acm_export.distillation.layerwise import GatesPhase, LearnersPhase
from acm_export.distillation.order import StepOrder, mixed
from acm_export.distillation.plan import AcmizePlan, make_plan
from acm_export.distillation.prepare import (
    CARD,
    check_loss,
    check_model,
    check_output,
    in_order,
    open_training_data,
)
from acm_export.distillation.provenance import provenance
from acm_export.distillation.record import Recorder
from acm_export.distillation.settings import ANY_BUDGET, TEACHER, AcmizeSettings
from acm_export.distillation.state import State, fingerprint, load_state, remove_state
from acm_export.distillation.statistics import error_weights, gather_statistics
from acm_export.distillation.tasks import task_for
from acm_export.distillation.train import Silent, Speed, Trainer
from acm_export.distillation.whole import WholePhase
from acm_export.modules import acm_layers
from acm_export.surgery import install_acm_layers

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

    from acm_export.checkpoints import Checkpoint
    from acm_export.data.open_data import Data
    from acm_export.distillation.tasks import AnyTask
    from acm_export.distillation.train import Progress

_STATISTICS_BATCHES = 16
_THRESHOLD_SAMPLES = 256


@dataclass(frozen=True)
class Acmized:
    """What came of a run.

    Args:
        output: The checkpoint folder.
        plan: What was replaced.
        curve: Quality against budget on held-out data.
        history: Losses of the three phases on their way.
        tokens_per_second: Through ACM layers, in this process, since the run was started or went on; None where no
            step was left to do.
        peak_memory: Of this process, bytes.
        resumed: Phase and step that the run went on from, or None.
        processes: That trained.
        is_main_process: Whether this process is the one that wrote the output.
    """

    output: Path
    plan: AcmizePlan
    curve: Curve
    history: tuple[dict[str, Any], ...]
    tokens_per_second: float | None
    peak_memory: int
    resumed: tuple[int, int] | None
    processes: int = 1
    is_main_process: bool = True


def acmize(
    teacher: Checkpoint,
    data: Data,
    eval_data: Data | None,
    settings: AcmizeSettings,
    output: Path,
    progress: Progress,
    *,
    processor: str | os.PathLike[str] | None = None,
    restart: bool = False,
) -> Acmized:
    """Turn a dense transformer into an ACM model.

    A run that was killed goes on where its last state was saved, and ends with the same weights.

    Args:
        teacher: Dense at the sites to be replaced.
        data: Samples to train with, as :func:`acm_export.data.open_data.open_data` takes them.
        eval_data: Samples to measure the curve on; None to hold out one in five of ``data``.
        settings: Of the run.
        output: Folder to make; replaced where it holds nothing but an earlier checkpoint.
        progress: Is told of every step.
        processor: Folder or file of the image processor's settings, where they are elsewhere.
        restart: Forget an unfinished run.

    Returns:
        What was written and how good it is.

    Raises:
        UsageError: Data or settings do not fit the model.
        DistillationError: Training broke down, or an unfinished run is another one.
        OutputError: The output cannot be written.
    """
    check_output(output)
    plan = make_plan(teacher.model, teacher.family, settings)
    task = task_for(teacher.model, teacher.family, settings.task, read_vocabulary(teacher.path))
    check_model(teacher.model)
    samples, held_out = open_training_data(teacher, task, data, eval_data, processor)
    collate = Collate(samples.inputs, task)
    accelerator = _accelerator(settings, len(samples))
    if not accelerator.is_main_process:
        progress = Silent()
    digest = samples.digest()
    identity = fingerprint(settings, teacher.sha256, digest, accelerator.num_processes)
    if restart and accelerator.is_main_process:
        remove_state(output)
    accelerator.wait_for_everyone()
    dtype = next(teacher.model.parameters()).dtype
    dense = teacher.model.float().to(accelerator.device).eval()
    dense.requires_grad_(requires_grad=False)
    check_loss(dense, samples, collate, task)
    torch.manual_seed(settings.seed)
    student = copy.deepcopy(dense)
    install_acm_layers(student, teacher.family, plan.specs)
    student.to(accelerator.device)
    speed = Speed()
    trainer = Trainer(accelerator, settings, samples, collate, student, output, progress, speed)
    state = load_state(output, identity)
    accelerator.wait_for_everyone()  # before the first one writes a new state
    resumed = None if state is None else (state.phase, state.step)
    if state is None:
        state = _begin(trainer, teacher, dense, plan, identity)
    else:
        student.load_state_dict(state.student)
    _train(trainer, teacher, dense, plan, task, state)
    progress.stage("measuring the curve", None)
    evaluation = Evaluation(student, dense, teacher.family, task, plan.costs)
    some = samples.spread(_THRESHOLD_SAMPLES)
    feed = partial(in_order, collate=collate, size=settings.batch, device=accelerator.device, progress=progress)
    curve = evaluation.curve(partial(feed, some), partial(feed, held_out), len(held_out))
    student.to(dtype)
    if accelerator.is_main_process:
        source = provenance(teacher, settings, task, samples, digest, curve, state, accelerator.num_processes)
        card = model_card(output.name, teacher.path.name, plan, settings, curve, samples.name, held_out.name, digest)
        save_checkpoint(student, output, source=source, processor_from=teacher.path, texts={CARD: card})
        remove_state(output)
    accelerator.wait_for_everyone()
    rate = speed.tokens / speed.seconds if speed.seconds else None
    peak = _peak_memory(accelerator.device)
    history, processes = tuple(state.history), accelerator.num_processes
    return Acmized(output, plan, curve, history, rate, peak, resumed, processes, accelerator.is_main_process)


def _accelerator(settings: AcmizeSettings, samples: int) -> Accelerator:
    """Of this process; the batches are divided among all.

    Raises:
        UsageError: They cannot be.
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
            "choose another --batch",
        )
    return accelerator


def _begin(trainer: Trainer, teacher: Checkpoint, dense: PreTrainedModel, plan: AcmizePlan, identity: str) -> State:
    """Learners before any training, and what is known about the teacher; the same in every process."""
    settings, samples = trainer.settings, trainer.samples
    trainer.progress.stage("looking at the teacher", _STATISTICS_BATCHES)
    sites = tuple(item.site for item in plan.replacements)
    steps = StepOrder(len(samples), settings.batch, mixed(settings.seed, 0), 0, _STATISTICS_BATCHES)
    torch.manual_seed(mixed(settings.seed, 0))
    found = gather_statistics(dense, teacher.family, sites, _feed(trainer, steps))
    if settings.origin == TEACHER:
        for (_, layer), site in zip(_in_order_of(trainer.student, plan), sites, strict=True):
            modules: Any = [dense.get_submodule(name) for name in site.modules]
            if len(modules) > 1:
                learners_from_ffn(layer, modules[0], modules[-1], found[site.place])
            else:
                learners_from_linear(layer, modules[0], found[site.place])
    state = State(identity, {place: s.output_variance for place, s in found.items()}, error_weights(found))
    trainer.save(state)
    return state


def _feed(trainer: Trainer, steps: StepOrder) -> Iterator[dict[str, torch.Tensor]]:
    for indices in steps:
        batch = trainer.collate([trainer.samples[i] for i in indices])
        trainer.progress.batch()
        yield {name: value.to(trainer.accelerator.device) for name, value in model_inputs(batch).items()}


def _in_order_of(student: Any, plan: AcmizePlan) -> Iterable[tuple[str, Any]]:
    layers = dict(acm_layers(student))
    return [(item.site.place, layers[item.site.place]) for item in plan.replacements]


def _train(
    trainer: Trainer, teacher: Checkpoint, dense: PreTrainedModel, plan: AcmizePlan, task: AnyTask, state: State
) -> None:
    any_budget = trainer.settings.recipe == ANY_BUDGET
    layers = dict(_in_order_of(trainer.student, plan))
    sites = [item.site for item in plan.replacements]
    recorder = Recorder(dense, teacher.family, sites)
    with recorder:
        if state.phase == 1:
            trainer.run(LearnersPhase(layers, state.variances, recorder), 1, state)
        if state.phase == 2:
            trainer.run(GatesPhase(layers, recorder, state.weights if any_budget else None, plan.costs), 2, state)
    if state.phase == 3:
        student: Any = trainer.student
        whole = WholePhase(student, dense, teacher.family, task, plan.costs, trainer.settings.budget, Dial(state.dial))
        trainer.run(whole, 3, state)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
