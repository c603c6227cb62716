"""Where the samples of a distillation come from."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sized
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.audio import SOUND_SUFFIXES, AudioFolder
from acm_export.data.collate import LABELS
from acm_export.data.columns import Columns
from acm_export.data.images import ImageFolder
from acm_export.data.speech import SpeechProcessor
from acm_export.data.user_function import failed, import_function

HOLD_OUT_EVERY = 10
"""Every tenth sample is held out for the model card where no other data are given for that."""

_DIGESTED = 256


class Samples(Protocol):
    """Samples by number: arrays of one sample by name, labels under ``labels``; the same each time."""

    @property
    def name(self) -> str:
        """Where they come from, for errors."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class _Arrays:
    """Arrays with one row per sample."""

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        lengths = {key: len(value) if value.ndim else 0 for key, value in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise UsageError(f"{name}: the arrays have different lengths: {lengths}")
        self.name, self._arrays, self._length = name, dict(arrays), next(iter(lengths.values()), 0)
        self.labels = self._arrays.get(LABELS)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return {name: array[index] for name, array in self._arrays.items()}


class _Sequence:
    """What a function of the user's returned: a dataset of Hugging Face or PyTorch, or a list of mappings."""

    def __init__(self, name: str, items: Any, columns: Columns) -> None:
        self.name, self._items, self._columns = name, items, columns

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        try:
            sample = self._items[index]
        except Exception as error:  # the user's own transforms run here, and decoders
            raise _failed(f"{self.name} failed at sample {index}", error) from error
        if not isinstance(sample, Mapping):
            raise UsageError(f"{self.name} gives {type(sample).__name__} as a sample, expected a mapping of arrays")
        return self._columns({str(key): value for key, value in sample.items()}, f"sample {index} of {self.name}")


class Part:
    """Some samples of others.

    Args:
        whole: All of them.
        indices: Which.
    """

    def __init__(self, whole: Samples, indices: list[int]) -> None:
        self.name, self._whole, self._indices = whole.name, whole, indices
        labels = getattr(whole, "labels", None)
        self.labels = None if labels is None else labels[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._whole[self._indices[index]]


def open_samples(
    text: str,
    model_folder: Path,
    processor: Path | None = None,
    option: str = "--data",
    inputs: Collection[str] = (),
    *,
    transcribed: bool = True,
) -> Samples:
    """The data that a user names.

    Args:
        text: A ``.npz`` file, a folder of images or sounds, or ``module:function`` that returns samples.
        model_folder: Where the settings of processors and the vocabulary are.
        processor: Folder or file of the image processor's settings, where they are elsewhere.
        option: That names the data; for errors.
        inputs: Names of what the model takes; columns of a dataset become these (:class:`Columns`).
        transcribed: Whether transcripts of sounds are of use; if not, they may be missing.

    Raises:
        UsageError: It is none of them, is broken, or holds no samples.
    """
    path = Path(text)
    samples: Samples
    if path.is_dir() and any(p.suffix.lower() in SOUND_SUFFIXES for p in path.rglob("*")):
        samples = AudioFolder(path, SpeechProcessor.of_model(model_folder), transcribed=transcribed)
    elif path.is_dir():
        samples = ImageFolder(path, processor, model_folder)
    elif path.is_file():
        samples = _Arrays(str(path), _read_npz(path))
    elif ":" in text:
        samples = _from_function(text, option, Columns(inputs, model_folder, processor, transcribed=transcribed))
    else:
        raise UsageError(
            f"there is no file or folder {text}",
            f"{option} takes an .npz file, a folder of images or sounds, or module:function",
        )
    if not len(samples):
        raise UsageError(f"{text} has no samples")
    return samples


def split(samples: Samples) -> tuple[Samples, Samples]:
    """Samples to train with, and every tenth one, held out.

    Raises:
        UsageError: There are fewer than ten.
    """
    if len(samples) < HOLD_OUT_EVERY:
        raise UsageError(f"{samples.name} has {len(samples)} samples; {HOLD_OUT_EVERY} are the least", "give more")
    held_out = [i for i in range(len(samples)) if i % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1]
    kept = [i for i in range(len(samples)) if i % HOLD_OUT_EVERY != HOLD_OUT_EVERY - 1]
    return Part(samples, kept), Part(samples, held_out)


def digest(samples: Samples, names: Collection[str]) -> str:
    """Hex SHA-256 of the number of samples and of 256 of them, spread evenly.

    Args:
        samples: Any.
        names: Of the entries that count; others are never looked at.
    """
    found = hashlib.sha256(str(len(samples)).encode())
    for index in sorted({i * len(samples) // _DIGESTED for i in range(_DIGESTED)}):
        sample = samples[index]
        for name in sorted(sample.keys() & set(names)):
            array = np.asarray(sample[name])
            found.update(f"{name}:{array.dtype}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).tobytes() if array.dtype.kind in "fiub" else str(array).encode())
    return found.hexdigest()


def _from_function(text: str, option: str, columns: Columns) -> Samples:
    function = import_function(text, option)
    try:
        content = function()
    except Exception as error:  # whatever the user's own code raises
        raise _failed(f"{text} failed", error) from error
    if isinstance(content, Mapping):
        return _from_mapping(text, content)
    if isinstance(content, Sized) and hasattr(content, "__getitem__"):
        return _Sequence(text, content, columns)
    if isinstance(content, Iterable):
        return _Sequence(text, _read_whole(text, content), columns)
    raise UsageError(f"{text} returned {type(content).__name__}, expected samples: a dataset, a list, or arrays")


def _from_mapping(text: str, content: Mapping[Any, Any]) -> Samples:
    splits = [str(key) for key, value in content.items() if hasattr(value, "column_names")]
    if splits:
        raise UsageError(
            f"{text} returned the splits {', '.join(splits)}, expected the samples of one",
            f'return dataset["{splits[0]}"], or load_dataset(..., split="{splits[0]}"); '
            "--eval-data takes a function for another",
        )
    try:
        return _Arrays(text, {str(key): np.asarray(value) for key, value in content.items()})
    except ValueError as error:  # rows of different lengths
        raise UsageError(
            f"{text} returned a mapping whose values are no arrays: {error}",
            "return a list of mappings, one for each sample",
        ) from error


def _read_whole(text: str, content: Iterable[Any]) -> list[Any]:
    items: list[Any] = []
    try:
        items.extend(content)
    except Exception as error:  # the user's own transforms run here, and decoders
        raise _failed(f"{text} failed at sample {len(items)}", error) from error
    return items


def _failed(what: str, error: Exception) -> UsageError:
    if any(decoder in str(error) for decoder in ("torchcodec", "librosa")):  # missing, or broken
        hint = 'return dataset.cast_column("audio", datasets.Audio(decode=False)): soundfile then decodes it'
        return failed(what, error, hint)
    return failed(what, error)


def _read_npz(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise UsageError(f"{path} is not an .npz file of plain arrays: {error}") from error
