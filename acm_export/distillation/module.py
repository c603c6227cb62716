"""``acmize`` for a module in memory."""

from __future__ import annotations

import copy
import inspect
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from acm_export.base.errors import UsageError
from acm_export.data.module_samples import module_samples
from acm_export.distillation.checks import check_model, open_training_data
from acm_export.distillation.distil import distil
from acm_export.distillation.plan import make_plan
from acm_export.distillation.tasks import task_for
from acm_export.distillation.teacher import Teacher
from acm_export.surgery.interface import InputSpec, ModelInterface
from acm_export.surgery.padding import MASK
from acm_export.surgery.prepare import prepare_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from acm_export.base.progress import Progress
    from acm_export.data.batches import GraphInput
    from acm_export.data.open_data import Data
    from acm_export.distillation.settings import AcmizeSettings

_LOG = logging.getLogger("acm_export")


def acmize_module(
    model: nn.Module,
    data: Data,
    eval_data: Data | None,
    settings: AcmizeSettings,
    progress: Progress,
    *,
    loss: Callable[..., object] | None = None,
) -> nn.Module:
    """Make a copy of a module with trained ACM layers.

    Args:
        model: Dense module; unchanged.
        data: Training data, as :func:`acm_export.data.module_samples.module_samples` takes it.
        eval_data: Data for the quality curve; None to hold out one in five samples of ``data``.
        settings: Settings of the run.
        progress: Receives every step.
        loss: Loss of phase 3; None to imitate the module's outputs.

    Returns:
        The module with ACM layers, in evaluation mode, on the device and in the dtype of ``model``. Its attribute
        ``acm_curve`` is the quality curve, a :class:`acm_export.distillation.evaluate.Curve`.

    Raises:
        UsageError: The data or settings do not fit the module.
        CheckpointError: The module has ACM layers, no sites, or NaN or infinite weights.
        DistillationError: The loss became NaN or infinite.
    """
    first = next(model.parameters(), None)
    if first is None:
        raise UsageError(f"the {type(model).__name__} has no parameters", "give a trained model")
    _check_tensors(model)
    given, inputs = module_samples(data, *_parameters(model))
    _check_mask(inputs)
    interface = ModelInterface(
        inputs=tuple(_spec(value) for value in inputs),
        outputs=(),
        masked="" if any(value.name == MASK for value in inputs) else None,
    )
    teacher = Teacher(copy.deepcopy(model), interface, type(model).__name__)
    prepare_model(teacher.model)
    default = "distil" if loss is None else None
    task = task_for(teacher.model, interface, settings.task or default, {}, loss)
    check_model(teacher.model)
    held_out = None if eval_data is None else module_samples(eval_data, *_parameters(model))[0]
    samples = open_training_data(teacher, task, given, held_out)
    sample = {name: torch.from_numpy(array) for name, array in next(samples[0].batches(1)).feeds.items()}
    teacher = replace(teacher, interface=replace(interface, sample=sample))
    plan = make_plan(teacher.model, teacher.interface, settings)
    run = distil(teacher, plan, task, samples, settings, None, progress)
    student: Any = run.student.to(first.device).eval().requires_grad_(requires_grad=False)
    student.acm_curve = run.curve
    for point in run.curve.thresholds:
        _LOG.info("%s: β %.3f, %s %.4f", point.setting, point.budget, run.curve.quality_name, point.quality)
    trained: nn.Module = student
    return trained


def _check_tensors(model: nn.Module) -> None:
    for name, value in model.named_parameters():
        if value.is_meta:
            raise UsageError(
                f"{name} is on the device meta, where tensors have no values", "load the weights before acmize"
            )
        if value.dtype == torch.float64:
            raise UsageError(
                f"{name} is float64; ACM models are trained in float32, and their files are fp32, fp16 or bf16",
                "convert the module with .float(), and its data too",
            )


def _check_mask(inputs: Sequence[GraphInput]) -> None:
    for value in inputs:
        if value.name == MASK and value.dtype.kind == "f":
            raise UsageError(
                f"{MASK} is {value.dtype.name}; expected integers or booleans, 1 for tokens and 0 for padding",
                "convert it; if it is added to attention scores, give the parameter of forward another name",
            )


def _parameters(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of all parameters of ``forward``, and of those without a default."""
    parameters = [
        p
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    return [p.name for p in parameters], [p.name for p in parameters if p.default is p.empty]


def _spec(value: GraphInput) -> InputSpec:
    return InputSpec(value.name, value.shape, value.dtype.name)
