"""Open a user's data for an exported file, with the tokenizer or processor that its manifest names."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmWarning
from acm_export.base.files import sha256_of
from acm_export.data.open_data import open_data
from acm_export.data.processor_files import processor_files
from acm_export.onnx_file.processor_record import is_plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from acm_export.base.files import StrPath
    from acm_export.data.batches import GraphInput
    from acm_export.data.dataset import Dataset
    from acm_export.data.open_data import Data
    from acm_export.onnx_file.manifest import Manifest


def open_file_data(
    data: Data,
    inputs: Sequence[GraphInput],
    *,
    path: Path,
    manifest: Manifest,
    processor: StrPath | None = None,
    limit: int | None = None,
) -> Dataset:
    """Open data for an exported file.

    Args:
        data: Samples in any form that :func:`acm_export.data.open_data.open_data` takes.
        inputs: Inputs of the model.
        path: Path of the ONNX file or engine.
        manifest: Its manifest.
        processor: Folder or file of the tokenizer or processor; by default :func:`processor_folder` finds it.
        limit: Largest number of samples.

    Raises:
        UsageError: The data or the processor cannot be read, or do not fit the model.
        MissingDependencyError: A package that reads the data is not installed.
    """
    record = manifest.processor
    if record is not None:
        inputs = [replace(value, lengths={**record.lengths, **value.lengths}) for value in inputs]
    folder = processor_folder(path, manifest) if processor is None else Path(processor)
    if not isinstance(data, (str, os.PathLike)) or Path(data).suffix != ".npz":
        _warn_about_differences(folder, manifest)
    return open_data(
        data,
        inputs,
        model_folder=folder if folder.is_dir() else folder.parent,
        processor=processor,
        limit=limit,
        classes=() if record is None else record.labels,
        decoder_start=None if record is None else record.decoder_start,
    )


def processor_folder(path: Path, manifest: Manifest) -> Path:
    """Find the processor files of an exported file.

    Candidates are the folder that ``export`` wrote beside the file, the file's own folder, and a folder beside the file
    with the name of the checkpoint. The first with the files of the manifest is chosen, else the first with any
    processor files.

    Args:
        path: Path of the ONNX file or engine.
        manifest: Its manifest.

    Returns:
        The folder; that of ``path`` if none has processor files.
    """
    beside, record = path.absolute().parent, manifest.processor
    names = [None if record is None else record.folder, manifest.source.name]
    written, checkpoint = (beside / name if name is not None and is_plain(name) else beside for name in names)
    held = [place for place in (written, beside, checkpoint) if place.is_dir() and processor_files(place)]
    same = [place for place in held if not any(_differences(place, manifest))]
    return (*same, *held, beside)[0]


def _warn_about_differences(folder: Path, manifest: Manifest) -> None:
    _, changed = _differences(folder, manifest)
    if changed:
        warnings.warn(
            f"{', '.join(changed)} in {folder} {'differs' if len(changed) == 1 else 'differ'} from what the model was "
            f"exported with ({manifest.source.name})",
            AcmWarning,
            stacklevel=3,
        )


def _differences(folder: Path, manifest: Manifest) -> tuple[list[str], list[str]]:
    """Files of the manifest that a folder lacks, and those that differ."""
    files = {} if manifest.processor is None else manifest.processor.files
    place = folder if folder.is_dir() else folder.parent
    held = {name: digest for name, digest in files.items() if (place / name).is_file()}
    changed = [name for name, digest in held.items() if sha256_of(place / name) != digest]
    return [name for name in files if name not in held], changed
