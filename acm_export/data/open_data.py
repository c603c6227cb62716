"""Open the data that a user gives: a file, a folder, a function, or the samples themselves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sized
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.base.file_kinds import NPZ, file_kind
from acm_export.base.files import check_input
from acm_export.base.optional import require
from acm_export.data.audio import SOUND_SUFFIXES, AudioFolder
from acm_export.data.checks import missing_inputs
from acm_export.data.collate import CLASS, LABELS
from acm_export.data.columns import Columns
from acm_export.data.dataset import Dataset
from acm_export.data.decoder_tokens import read_decoder_start
from acm_export.data.images import IMAGE_SUFFIXES, PIXELS, ImageFolder, takes_raw_pixels
from acm_export.data.npz import open_npz
from acm_export.data.processor_files import read_class_names
from acm_export.data.rows import ArrayRows, SequenceRows, decoding_failed
from acm_export.data.sounds import SOUND
from acm_export.data.text import TEXT_SUFFIXES, read_texts
from acm_export.data.tokenizer import IDS
from acm_export.data.user_function import import_function

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from acm_export.data.batches import GraphInput
    from acm_export.data.dataset import Reader


class Samples(Protocol):
    """Samples by index: a Hugging Face or PyTorch dataset, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> object: ...


Data = str | os.PathLike[str] | Samples | Iterable[object]
"""What a user may give as data: the text of ``--data``, or samples: a dataset, an iterable, or a mapping of arrays."""

GRAMMAR = (
    "an .npz file, a text file (.txt, .jsonl, .csv, .tsv), a folder of images or sounds, a dataset folder from "
    "save_to_disk, or module:function"
)


def open_data(
    data: Data,
    inputs: Sequence[GraphInput],
    *,
    model_folder: Path,
    processor: str | os.PathLike[str] | None = None,
    option: str = "--data",
    limit: int | None = None,
    transcripts: bool = False,
    classes: Sequence[str] = (),
    decoder_start: int | None = None,
) -> Dataset:
    """Open data for a model.

    Args:
        data: An ``.npz`` file with arrays named as the model's inputs; a text file; a folder of images or sounds; a
            dataset folder saved by Hugging Face ``datasets``; ``module:function``, a function that returns or yields
            samples; or the samples themselves: a dataset, an iterable of mappings, or a mapping of arrays with one row
            per sample.
        inputs: Inputs of the model.
        model_folder: Folder with the settings of processors, the tokenizer and the vocabulary.
        processor: Folder or file of the tokenizer, or of the settings of the image or sound processor, if they are
            elsewhere.
        option: Option that names the data, for errors.
        limit: Largest number of samples; the first ones are used, and no more are read from an iterable.
        transcripts: Whether sounds need transcripts, as labels.
        classes: Names of the model's classes by number; by default those in the model folder's ``config.json``.
        decoder_start: Token that the model's decoder starts with; by default that of the model folder's configs.

    Raises:
        UsageError: The data are of another kind, broken, or empty.
        MissingDependencyError: A package that reads the data is not installed.
    """
    if isinstance(data, Dataset):
        return data
    if limit is not None and limit < 1:
        raise UsageError(f"the number of samples is {limit}; expected at least 1")
    if isinstance(data, str) and not data:
        raise UsageError(f"{option} is empty", f"{option} takes {GRAMMAR}")
    settings = None if processor is None else Path(processor)
    if settings is not None:
        check_input(settings, "file or folder", "--processor takes the folder of the model's tokenizer or processor")
    named = tuple(classes) or read_class_names(model_folder)
    start = read_decoder_start(model_folder) if decoder_start is None else decoder_start
    columns = Columns(inputs, model_folder, settings, transcribed=transcripts, classes=named, decoder_start=start)
    reader = _open_reader(data, columns, option, limit)
    if not len(reader):
        raise UsageError(f"{reader.name} has no samples", "give at least one sample")
    indices = None if limit is None else np.arange(min(limit, len(reader)))
    raw_pixels = any(value.is_image for value in inputs) and takes_raw_pixels(settings, model_folder)
    if (IDS in columns.names or columns.answered) and isinstance(reader, SequenceRows):
        reader[0]  # loads the tokenizer if there is text, whose padding the inputs take
    return Dataset(reader, columns.padded(inputs), indices, raw_pixels=raw_pixels)


def _open_reader(data: Data, columns: Columns, option: str, limit: int | None) -> Reader:
    """Choose the reader by what the data are."""
    names = [*columns.names, LABELS, CLASS]
    if not isinstance(data, (str, os.PathLike)):
        given = getattr(data, "name", None)
        name = given if isinstance(given, str) else f"the {type(data).__name__} given as {option}"
        return _samples(name, data, names, columns, limit)
    path, text = Path(data), os.fspath(data)
    if path.is_dir():
        return _folder(path, columns)
    if path.is_file():
        is_text = path.suffix.lower() in TEXT_SUFFIXES
        return _texts(path, columns, limit) if is_text else _file(path, names, columns.names, option)
    if ":" in text:
        return _samples(text, _call(text, option), names, columns, limit)
    raise UsageError(f"there is no file or folder {text}", f"{option} takes {GRAMMAR}")


def _texts(path: Path, columns: Columns, limit: int | None) -> Reader:
    if IDS not in columns.names:
        kinds = [
            kind
            for name, kind in ((columns.pixels, "images"), (columns.sounds.input, "sounds"))
            if name in columns.names
        ]
        raise UsageError(
            f"{path} is a text file; the model takes {', '.join(columns.names)}",
            f"give a folder of {kinds[0]}" if kinds else f"text is for models that take {IDS}",
        )
    return SequenceRows(str(path), columns.tokenized(read_texts(path, limit), str(path)), columns)


def _file(path: Path, names: Collection[str], needed: Collection[str], option: str) -> Reader:
    if (kind := file_kind(path)) not in (None, NPZ):
        raise UsageError(f"{path} is {kind.description}; {option} takes {GRAMMAR}", kind.hint)
    return ArrayRows(str(path), *open_npz(path, names), needed)


def _folder(path: Path, columns: Columns) -> Reader:
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in path.iterdir() if (p / "state.json").is_file())
        raise UsageError(
            f"{path} has the splits {', '.join(splits)}; expected a single split",
            f"name one of them: {path / (splits or ['train'])[0]}",
        )
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return SequenceRows(str(path), _saved_dataset(path), columns)
    suffixes = {p.suffix.lower() for p in path.rglob("*")}
    if suffixes & set(SOUND_SUFFIXES):
        if columns.sounds.input is None:
            raise missing_inputs(f"{path} is a folder of sounds, which", [SOUND], columns.names)
        return AudioFolder(path, columns)
    if not suffixes & IMAGE_SUFFIXES:
        raise UsageError(
            f"{path} has no data that can be read: no images ({', '.join(sorted(IMAGE_SUFFIXES))}), no sounds "
            f"({', '.join(SOUND_SUFFIXES)}), and no dataset saved by save_to_disk"
        )
    if columns.pixels not in columns.names:
        raise missing_inputs(f"{path} is a folder of images, which", [PIXELS], columns.names)
    return ImageFolder(path, columns.processor, columns.model_folder, columns.classes, columns.pixels)


def _saved_dataset(path: Path) -> Any:
    """A dataset as it was saved, without its format; sounds stay encoded, so that no decoder is needed."""
    datasets = require("datasets")
    try:
        dataset = datasets.load_from_disk(str(path)).with_format(None)
        for name, feature in dataset.features.items():
            if isinstance(feature, datasets.Audio):
                dataset = dataset.cast_column(name, datasets.Audio(decode=False))
    except Exception as error:  # pyarrow, JSON and datasets raise errors of many kinds for broken files
        raise UsageError(
            f"cannot read the dataset {path}: {type(error).__name__}: {error}",
            "write it again with save_to_disk",
        ) from error
    return dataset


def _call(text: str, option: str) -> object:
    function = import_function(text, option)
    try:
        return function()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise decoding_failed(f"{text} failed", error) from error


def _samples(name: str, content: object, names: Collection[str], columns: Columns, limit: int | None) -> Reader:
    if isinstance(content, Mapping):
        return _from_mapping(name, content, names)
    if isinstance(content, Sized) and hasattr(content, "__getitem__") and not isinstance(content, str):
        return SequenceRows(name, content, columns)
    if isinstance(content, Iterable) and not isinstance(content, str):
        return SequenceRows(name, _read_whole(name, content, limit), columns)
    raise UsageError(
        f"{name} returned {type(content).__name__}; expected samples",
        "return a dataset or a list of mappings, or yield one mapping per sample",
    )


def _from_mapping(name: str, content: Mapping[Any, Any], names: Collection[str]) -> Reader:
    splits = [str(key) for key, value in content.items() if hasattr(value, "column_names")]
    if splits:
        raise UsageError(
            f"{name} returned the splits {', '.join(splits)}; expected a single split",
            f'return dataset["{splits[0]}"], or load_dataset(..., split="{splits[0]}")',
        )
    try:
        arrays = {key: np.asarray(value) for key, value in content.items() if key in names}
    except ValueError as error:  # rows of different lengths
        raise UsageError(
            f"{name} returned a mapping whose values are not arrays: {error}",
            "return a list of mappings, one per sample",
        ) from error
    return ArrayRows(name, arrays, [str(key) for key in content], [n for n in names if n not in (LABELS, CLASS)])


def _read_whole(name: str, content: Iterable[object], limit: int | None) -> list[object]:
    items: list[object] = []
    try:
        items.extend(islice(content, limit))
    except Exception as error:  # runs the user's transforms, and decoders
        raise decoding_failed(f"{name} failed at sample {len(items)}", error) from error
    return items
