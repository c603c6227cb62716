"""A distillation run: from a dense checkpoint folder to an ACM checkpoint folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from acm_export.checkpoints import save_checkpoint
from acm_export.data.speech import read_vocabulary
from acm_export.distillation.checks import check_model, check_output, open_training_data
from acm_export.distillation.distil import distil
from acm_export.distillation.plan import make_plan
from acm_export.distillation.provenance import CARD, Provenance
from acm_export.distillation.result import AcmizeResult, peak_memory
from acm_export.distillation.state import remove_state
from acm_export.distillation.tasks import task_for
from acm_export.distillation.teacher import Teacher

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

    from acm_export.base.progress import Progress
    from acm_export.checkpoints import Checkpoint
    from acm_export.data.open_data import Data
    from acm_export.distillation.settings import AcmizeSettings


def run_distillation(
    checkpoint: Checkpoint,
    data: Data,
    eval_data: Data | None,
    settings: AcmizeSettings,
    output: Path,
    progress: Progress,
    *,
    processor: str | os.PathLike[str] | None = None,
    loss: Callable[..., object] | None = None,
    restart: bool = False,
) -> AcmizeResult:
    """Turn a dense checkpoint into an ACM checkpoint.

    An interrupted run resumes from its last saved state; the weights will be the same.

    Args:
        checkpoint: Dense model; converted to float32 in place.
        data: Training data, in any form that :func:`acm_export.data.open_data.open_data` takes.
        eval_data: Data for the quality curve; None to hold out one in five samples of ``data``.
        settings: Settings of the run.
        output: Folder to create; an existing folder is replaced only if it holds nothing but an earlier result.
        progress: Receives every step.
        processor: Folder or file of the tokenizer or processor, if the teacher has none.
        loss: Loss of phase 3; None for the task of the settings.
        restart: Discard an unfinished run.

    Raises:
        UsageError: The data or settings do not fit the model.
        CheckpointError: The teacher already has ACM layers, or has NaN or infinite weights.
        DistillationError: The loss became NaN or infinite, or the unfinished run has other settings.
        OutputError: The output cannot be written.
    """
    check_output(output)
    teacher = Teacher.of_checkpoint(checkpoint)
    plan = make_plan(teacher.model, teacher.interface, settings)
    task = task_for(teacher.model, teacher.interface, settings.task, read_vocabulary(checkpoint.path), loss)
    check_model(teacher.model)
    samples, held_out = open_training_data(teacher, task, data, eval_data, processor)
    run = distil(teacher, plan, task, (samples, held_out), settings, output, progress, restart=restart)
    accelerator = run.accelerator
    if accelerator.is_main_process:
        source = Provenance(
            teacher=teacher.name,
            teacher_sha256=teacher.sha256,
            plan=plan,
            settings=settings,
            task=task.name,
            data=samples.name,
            samples=len(samples),
            data_sha256=run.data_sha256,
            held_out=held_out.name,
            curve=run.curve,
            history=list(run.history),
            processes=accelerator.num_processes,
        )
        texts = {CARD: source.model_card(output.name)}
        student = cast("PreTrainedModel", run.student)
        save_checkpoint(student, output, source=source.to_json(), processor_from=checkpoint.path, texts=texts)
        remove_state(output)
    accelerator.wait_for_everyone()
    return AcmizeResult(
        output=output,
        plan=plan,
        curve=run.curve,
        history=run.history,
        tokens_per_second=run.tokens_per_second,
        peak_memory=peak_memory(accelerator.device),
        resumed=run.resumed,
        processes=accelerator.num_processes,
        is_main_process=accelerator.is_main_process,
    )
