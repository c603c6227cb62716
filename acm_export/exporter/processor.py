"""Copy the tokenizer or processor of a checkpoint beside the exported file, and describe it for the manifest."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from acm_export.base.errors import OutputError
from acm_export.base.files import sha256_of
from acm_export.data.collate import DECODER_IDS
from acm_export.data.decoder_tokens import read_decoder_start
from acm_export.data.processor_files import PROCESSOR_FILES, SETTINGS, processor_files, read_class_names
from acm_export.data.timm_settings import write_timm_settings
from acm_export.data.tokenizer import complete_tokenizer
from acm_export.onnx_file.processor_record import ProcessorRecord

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.checkpoints import Checkpoint


def processor_path(target: Path) -> Path:
    """Folder beside an exported file that holds its processor files."""
    return target.with_name(f"{target.stem}.processor")


def check_processor_path(target: Path) -> None:
    """Check that the processor files of a file replace nothing but those of an earlier export.

    Raises:
        OutputError: The folder contains something else.
    """
    folder = processor_path(target)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} exists and is not a folder", "choose another name with -o")
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in PROCESSOR_FILES) if folder.exists() else []
    if foreign:
        raise OutputError(
            f"{folder}, the folder for the model's tokenizer or processor, contains other files: "
            f"{', '.join(foreign[:5])}",
            "choose another name with -o",
        )


def stage_processor(checkpoint: Checkpoint, staging: Path, target: Path) -> ProcessorRecord | None:
    """Copy the processor files of a checkpoint into a staging folder.

    Args:
        checkpoint: Checkpoint that is exported.
        staging: Folder in which a folder with the name of :func:`processor_path` is made, if there are files.
        target: Path of the file to export.

    Returns:
        The description for the manifest, or None if there is nothing to describe.
    """
    folder = staging / processor_path(target).name
    folder.mkdir()
    for path in processor_files(checkpoint.path):
        shutil.copyfile(path, folder / path.name)
    complete_tokenizer(folder)
    if not (folder / SETTINGS).exists():
        write_timm_settings(checkpoint.path, folder)
    labels = read_class_names(checkpoint.path)
    lengths = dict(checkpoint.interface.bounds)
    digests = {path.name: sha256_of(path) for path in processor_files(folder)}
    if not (digests or labels or lengths):
        return None
    takes_answers = any(spec.name == DECODER_IDS for spec in checkpoint.interface.inputs)
    start = read_decoder_start(checkpoint.path) if takes_answers else None
    return ProcessorRecord(folder.name if digests else None, digests, labels, lengths, start)
