"""``acmize``: turn a pre-trained transformer into an ACM model. docs/acmize.md describes the phases."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.files import check_apart
from acm_export.base.optional import EXPORT, require
from acm_export.base.progress import Silent
from acm_export.distillation.settings import ANY_BUDGET, AcmizeSettings

if TYPE_CHECKING:
    from acm_export.base.progress import Progress
    from acm_export.data.open_data import Data
    from acm_export.distillation.plan import AcmizePlan
    from acm_export.distillation.result import AcmizeResult


def acmize(
    model: str | PathLike[str],
    data: Data,
    output: str | PathLike[str],
    *,
    eval_data: Data | None = None,
    processor: str | PathLike[str] | None = None,
    task: str | None = None,
    part: str | None = None,
    sites: str = "ffn",
    learners: int = 4,
    flops_factor: float = 1.0,
    min_learners: int | None = None,
    recipe: str = ANY_BUDGET,
    budget: float | None = None,
    init: str | None = None,
    steps: tuple[int, int, int] = (1000, 500, 2000),
    batch: int = 32,
    lr: tuple[float, float, float] = (1e-3, 1e-3, 1e-4),
    seed: int = 0,
    mixed_precision: str = "no",
    checkpoint_every: int = 200,
    restart: bool = False,
    progress: Progress | None = None,
) -> AcmizeResult:
    """Turn a dense transformer into an ACM model in the paper's three training phases.

    Call it again with the same arguments to resume an interrupted run; the weights will be the same.

    Args:
        model: Dense checkpoint folder.
        data: Training data: an ``.npz`` file, a folder of images or sounds, a dataset folder saved by Hugging Face
            ``datasets``, ``module:function``, or the samples themselves.
        output: Checkpoint folder to create; an existing folder is replaced only if it contains nothing but an earlier
            result.
        eval_data: Data for the quality curve; by default one in five samples of ``data`` is held out.
        processor: Folder or file with the settings of the image processor, if ``model`` has none.
        task: ``classification``, ``ctc``, ``distil`` (no labels), or a loss as ``module:function``; by default the
            task of the architecture.
        part: Part of the model to replace modules in, as for :func:`acm_export.checkpoints.load_checkpoint`.
        sites: Modules to replace: ``ffn``, ``qkvo``, ``q_proj``, or patterns, separated by commas.
        learners: N, learners per layer.
        flops_factor: FLOPs of all learners ÷ FLOPs of the modules that they replace.
        min_learners: Learners that always run; by default 0 under a residual connection and 1 elsewhere.
        recipe: ``any-budget`` trains a model for all thresholds; ``paper`` trains one for ``budget``, as published.
        budget: Target β of the recipe ``paper``.
        init: Initial learners: ``teacher`` (the teacher's neurons) or ``random``; by default ``teacher`` for
            ``any-budget`` and ``random`` for ``paper``.
        steps: Steps of the three phases: learners, gates, whole model; 0 skips a phase.
        batch: Samples per step, in all processes together.
        lr: Peak learning rates of the three phases.
        seed: Seed of all random numbers.
        mixed_precision: ``no``, ``fp16`` or ``bf16``.
        checkpoint_every: Steps between saved states; an interrupted run resumes from the last one.
        restart: Discard the state of an unfinished run.
        progress: Receives stages and steps; silent by default.

    Returns:
        The plan, the quality curve and the losses of the run.

    Raises:
        UsageError: The data or settings do not fit the model.
        CheckpointError: The model cannot be read, or already has ACM layers.
        DistillationError: The loss became NaN or infinite, or the unfinished run has other settings.
        OutputError: The output cannot be written.
        MissingDependencyError: A package of the extras ``export`` or ``train`` is not installed.
    """
    settings = AcmizeSettings(
        sites=sites,
        num_learners=learners,
        flops_factor=flops_factor,
        min_learners=min_learners,
        recipe=recipe,
        init=init,
        budget=budget,
        steps=steps,
        batch=batch,
        learning_rates=lr,
        task=task,
        seed=seed,
        checkpoint_every=checkpoint_every,
        mixed_precision=mixed_precision,
    )
    folder, target = Path(model), Path(output)
    read = (path for path in (processor, data, eval_data) if isinstance(path, (str, PathLike)))
    check_apart((folder, *map(Path, read)), {"-o": target})
    if target.is_symlink() or not target.name:
        target = target.resolve()
    require(*EXPORT)
    from acm_export.checkpoints import load_checkpoint
    from acm_export.distillation.run import run_distillation

    teacher, shown = load_checkpoint(folder, part), progress or Silent()
    return run_distillation(teacher, data, eval_data, settings, target, shown, processor=processor, restart=restart)


def plan_acmize(
    model: str | PathLike[str],
    *,
    part: str | None = None,
    sites: str = "ffn",
    learners: int = 4,
    flops_factor: float = 1.0,
    min_learners: int | None = None,
    recipe: str = ANY_BUDGET,
    budget: float | None = None,
    init: str | None = None,
) -> AcmizePlan:
    """Find the sites, sizes, parameters and FLOPs of a run without training: ``acmize --dry-run``.

    Args:
        model: Dense checkpoint folder.
        part: As for :func:`acmize`.
        sites: As for :func:`acmize`.
        learners: As for :func:`acmize`.
        flops_factor: As for :func:`acmize`.
        min_learners: As for :func:`acmize`.
        recipe: As for :func:`acmize`.
        budget: As for :func:`acmize`.
        init: As for :func:`acmize`.

    Raises:
        UsageError: The settings do not fit the model.
        CheckpointError: The model cannot be read, or already has ACM layers.
    """
    settings = AcmizeSettings(sites, learners, flops_factor, min_learners, recipe, init, budget)
    require(*EXPORT)
    from acm_export.checkpoints import load_checkpoint
    from acm_export.distillation.plan import make_plan

    teacher = load_checkpoint(Path(model), part)
    return make_plan(teacher.model, teacher.interface, settings)
