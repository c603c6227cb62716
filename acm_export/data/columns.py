"""Turn columns of a dataset, such as images, sounds, transcripts and classes, into inputs and labels of a model."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.data.audio import SOUND, read_encoded
from acm_export.data.collate import CLASS, LABELS
from acm_export.data.images import PIXELS, ImageProcessor, find_settings
from acm_export.data.processor_files import class_number
from acm_export.data.speech import SpeechProcessor
from acm_export.data.text import text_of
from acm_export.data.tokenizer import IDS, Tokenizer, find_tokenizer

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from acm_export.data.batches import GraphInput
    from acm_export.data.tokenizer import Encoding

_IMAGES = ("image", "img")
_SOUND = "audio"
_TRANSCRIPTS = ("text", "sentence", "transcription")
_SPECTROGRAM = "input_features"
_TOKENISED_TOGETHER = 4096


class Columns:
    """Makes the inputs that a sample lacks, and leaves the others unchanged.

    ``pixel_values`` come from a PIL image, ``input_values`` from a sound, ``input_ids`` from text, ``labels`` from the
    transcript of a sound or from a class, which is a number or one of the model's names.

    Args:
        inputs: Inputs of the model.
        model_folder: Folder with the settings of processors, the tokenizer and the vocabulary.
        processor: Folder or file of the settings or the tokenizer, if they are elsewhere.
        transcribed: Whether transcripts become labels.
        classes: Names of the model's classes by number.
    """

    def __init__(
        self,
        inputs: Sequence[GraphInput],
        model_folder: Path,
        processor: Path | None,
        *,
        transcribed: bool = True,
        classes: tuple[str, ...] = (),
    ) -> None:
        self.names = tuple(value.name for value in inputs)
        self._graph_inputs, self._inputs = tuple(inputs), frozenset(self.names)
        self.model_folder, self.processor, self.classes = model_folder, processor, classes
        self.transcribed = transcribed
        self._warned = False

    def __call__(self, sample: Mapping[str, object], name: str) -> dict[str, object]:
        """All columns of a sample, and the inputs and labels made of them.

        Args:
            sample: Columns by name.
            name: Name of the sample, for errors.

        Raises:
            UsageError: A column cannot be used, or has to be processed by the user first.
        """
        found = dict(sample)
        missing = self._inputs - found.keys()
        if self.pixels in missing and (column := _image_column(found, name)) is not None:
            found[self.pixels] = self._pixels(found[column], column, name)
        if IDS in missing and (text := text_of(found, name)) is not None:
            (encoding,) = self._tokenizer([text], [name])
            found |= self._tokens(encoding)
            self._warn_once(encoding, name)
        if SOUND in missing and _SOUND in found:
            values, rate = _decoded(found[_SOUND], f"the column {_SOUND} of {name}")
            found[SOUND] = self.speech.values(values, rate, name)
            texts = (found.get(column) for column in (_TRANSCRIPTS if self.transcribed else ()))
            text = next((text for text in texts if isinstance(text, str)), None)
            if text is not None and LABELS not in found:
                found[LABELS] = self.speech.labels(text, name)
        if (label := self._label(found, name)) is not None:
            found[LABELS] = label
        _refuse_unprocessed(missing, found, name)
        return found

    def tokenized(self, rows: Sequence[Mapping[str, object]], name: str) -> list[dict[str, object]]:
        """Tokenise all rows of a text file that have no tokens yet, and warn how many were truncated.

        Args:
            rows: Columns by name.
            name: Name of the file, for errors.

        Raises:
            UsageError: A text cannot be used.
        """
        done, truncated = [dict(row) for row in rows], 0
        where = [f"sample {index} of {name}" for index in range(len(done))]
        texts = {i: text for i, row in enumerate(done) if IDS not in row and (text := text_of(row, where[i]))}
        indices = list(texts)
        for start in range(0, len(indices), _TOKENISED_TOGETHER):
            part = indices[start : start + _TOKENISED_TOGETHER]
            encodings = self._tokenizer([texts[i] for i in part], [where[i] for i in part])
            for i, encoding in zip(part, encodings, strict=True):
                done[i] |= self._tokens(encoding)
                truncated += encoding.truncated
        if truncated:
            _warn(
                f"{truncated} of the {len(done)} texts in {name} were truncated to {self._tokenizer.limit} tokens, the "
                "most that the model takes"
            )
        return done

    def padded(self, inputs: Sequence[GraphInput]) -> tuple[GraphInput, ...]:
        """The inputs with the tokenizer's padding, if text was tokenised."""
        if "_tokenizer" not in vars(self):
            return tuple(inputs)
        pad_id, left = self._tokenizer.pad_id, self._tokenizer.pad_left
        return tuple(replace(v, fill=pad_id if v.name == IDS else 0, pad_left=left) for v in inputs)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        ids = next(value for value in self._graph_inputs if value.name == IDS)
        length = ids.shape[-1]
        limit = length if isinstance(length, int) else ids.lengths.get(length, (1, None))[1]
        return Tokenizer(find_tokenizer(self.processor, self.model_folder), limit, ids.below)

    def _tokens(self, encoding: Encoding) -> dict[str, object]:
        return {name: array for name, array in encoding.arrays.items() if name in self._inputs}

    def _warn_once(self, encoding: Encoding, name: str) -> None:
        if encoding.truncated and not self._warned:
            self._warned = True
            limit = self._tokenizer.limit
            _warn(f"{name} was truncated to {limit} tokens, the most that the model takes; so are all longer texts")

    def _label(self, sample: Mapping[str, object], name: str) -> object:
        """The label of a sample that has a class or the name of one; None to leave its labels as they are."""
        label = sample.get(LABELS, sample.get(CLASS))
        if isinstance(label, str):
            return class_number(label, self.classes, name)
        return None if LABELS in sample else label

    @property
    def pixels(self) -> str:
        """Name of the input that takes images: ``pixel_values``, or the only one of that form."""
        images = [value.name for value in self._graph_inputs if value.is_image]
        return PIXELS if PIXELS in self.names or len(images) != 1 else images[0]

    @cached_property
    def _images(self) -> ImageProcessor:
        return ImageProcessor(find_settings(self.processor, self.model_folder))

    @cached_property
    def speech(self) -> SpeechProcessor:
        """The processor of sounds and transcripts."""
        return SpeechProcessor.of_model(self.model_folder, self.processor)

    def _pixels(self, image: Any, column: str, name: str) -> np.ndarray:
        if not _is_image(image):
            raise UsageError(
                f"{name} has {type(image).__name__} in the column {column}; expected a PIL image",
                f'return dataset.with_format(None).cast_column("{column}", datasets.Image())',
            )
        try:
            return self._images(image, f"the column {column} of {name}")
        except OSError as error:  # PIL reads the file only now
            raise UsageError(f"cannot read the image in the column {column} of {name}: {error}") from error


def _image_column(sample: Mapping[str, object], name: str) -> str | None:
    for column in _IMAGES:
        if column in sample:
            return column
    images = [column for column, value in sample.items() if _is_image(value)]
    if len(images) > 1:
        raise UsageError(
            f"{name} has images in the columns {', '.join(images)}",
            f'rename the right one to "image": dataset.rename_column("{images[0]}", "image")',
        )
    return images[0] if images else None


def _is_image(value: object) -> bool:
    pillow = sys.modules.get("PIL.Image")  # where it was not imported, nothing is an image of it
    return pillow is not None and isinstance(value, pillow.Image)


def _decoded(sound: Any, name: str) -> tuple[np.ndarray, int]:
    """Samples and their rate, from a mapping or a decoder that has both, or from an encoded file."""
    if isinstance(sound, Mapping) and "array" not in sound:
        content, path = sound.get("bytes"), sound.get("path")
        if content is None and path is None:
            raise UsageError(f"{name} has {', '.join(map(str, sound)) or 'nothing'}; expected array and sampling_rate")
        return read_encoded(path if content is None else io.BytesIO(content), name)
    try:
        return np.asarray(sound["array"], np.float32), int(sound["sampling_rate"])
    except Exception as error:  # a decoder may raise anything, and so may a column of another type
        raise UsageError(f"{name} is not a sound: {type(error).__name__}: {error}") from error


def _refuse_unprocessed(missing: Collection[str], sample: Mapping[str, object], name: str) -> None:
    if _SPECTROGRAM in missing and _SOUND in sample:
        raise UsageError(
            f"{name} has sound in {_SOUND} but no {_SPECTROGRAM}: acm-export does not compute spectrograms",
            'return dataset.map(lambda row: {"input_features": extractor(row["audio"]["array"], '
            "sampling_rate=16000).input_features[0]})",
        )


def _warn(text: str) -> None:
    warnings.warn(text, AcmWarning, stacklevel=3)
