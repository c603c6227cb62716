"""Turn columns of a dataset, such as images, sounds, transcripts and classes, into inputs and labels of a model."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.audio import SOUND, read_encoded
from acm_export.data.collate import CLASS, LABELS
from acm_export.data.images import PIXELS, ImageProcessor, find_settings
from acm_export.data.speech import SpeechProcessor

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_IMAGES = ("image", "img")
_SOUND = "audio"
_TRANSCRIPTS = ("text", "sentence", "transcription")
_TOKENS, _SPECTROGRAM = "input_ids", "input_features"


class Columns:
    """Makes the inputs that a sample lacks, and leaves the others unchanged.

    ``pixel_values`` come from a PIL image, ``input_values`` from a sound, ``labels`` from its transcript or from
    the number of a class.

    Args:
        inputs: Names of the model's inputs.
        model_folder: Folder with the settings of processors and the vocabulary.
        processor: Folder or file of the image processor's settings, if they are elsewhere.
        transcribed: Whether transcripts become labels.
    """

    def __init__(
        self, inputs: Collection[str], model_folder: Path, processor: Path | None, *, transcribed: bool = True
    ) -> None:
        self.names = tuple(inputs)
        self._inputs, self._model_folder, self._processor = frozenset(inputs), model_folder, processor
        self._transcripts = _TRANSCRIPTS if transcribed else ()

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
        if PIXELS in missing and (column := _image_column(found, name)) is not None:
            found[PIXELS] = self._pixels(found[column], column, name)
        if SOUND in missing and _SOUND in found:
            values, rate = _decoded(found[_SOUND], f"the column {_SOUND} of {name}")
            found[SOUND] = self._speech.values(values, rate, name)
            texts = (found.get(column) for column in self._transcripts)
            text = next((text for text in texts if isinstance(text, str)), None)
            if text is not None and LABELS not in found:
                found[LABELS] = self._speech.labels(text, name)
        if LABELS not in found and not isinstance(found.get(CLASS), (str, type(None))):
            found[LABELS] = found[CLASS]
        _refuse_unprocessed(missing, found, name)
        return found

    @cached_property
    def _images(self) -> ImageProcessor:
        return ImageProcessor(find_settings(self._processor, self._model_folder))

    @cached_property
    def _speech(self) -> SpeechProcessor:
        return SpeechProcessor.of_model(self._model_folder, self._processor)

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
    texts = [column for column, value in sample.items() if isinstance(value, str)]
    if _TOKENS in missing and texts:
        raise UsageError(
            f"{name} has text in {', '.join(texts)} but no {_TOKENS}: acm-export does not tokenise text",
            f'return dataset.map(lambda row: tokenizer(row["{texts[0]}"], truncation=True))',
        )
    if _SPECTROGRAM in missing and _SOUND in sample:
        raise UsageError(
            f"{name} has sound in {_SOUND} but no {_SPECTROGRAM}: acm-export does not compute spectrograms",
            'return dataset.map(lambda row: {"input_features": extractor(row["audio"]["array"], '
            "sampling_rate=16000).input_features[0]})",
        )
