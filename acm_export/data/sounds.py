"""Turn decoded sounds into the input of a model: a waveform or a spectrogram."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.sound_files import read_encoded
from acm_export.data.spectrograms import FEATURES, SpectrogramExtractor
from acm_export.data.speech import SpeechProcessor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from acm_export.data.batches import Arrays, GraphInput

SOUND = "input_values"
_SPECTROGRAM = ("batch", "frames", "bands")


class Sounds:
    """Makes inputs of sounds.

    Args:
        inputs: Inputs of the model.
        model_folder: Folder with the settings of the feature extractor, and the vocabulary.
        processor: Folder or file of the settings, if they are elsewhere.
    """

    def __init__(self, inputs: Sequence[GraphInput], model_folder: Path, processor: Path | None) -> None:
        names = [value.name for value in inputs]
        self.input = next((name for name in (FEATURES, SOUND) if name in names), None)
        """Name of the input that is made of sounds, or None."""
        self._inputs, self._model_folder, self._processor = tuple(inputs), model_folder, processor

    def __call__(self, values: np.ndarray, rate: int, name: str) -> Arrays:
        """The inputs that are made of a sound.

        Args:
            values: Real ``[samples]``.
            rate: Samples per second.
            name: Name of the sound, for errors.

        Raises:
            UsageError: The sound cannot be used.
            MissingDependencyError: A package that computes the spectrogram is not installed.
        """
        if self._spectrograms is not None:
            return self._spectrograms(values, rate, name)
        return {SOUND: self.speech.values(values, rate, name)}

    @property
    def window(self) -> int | None:
        """Number of samples of the longest sound that is not cut, or None."""
        return None if self._spectrograms is None else self._spectrograms.window

    @property
    def longest(self) -> str:
        """The duration of the longest sound that is not cut, for warnings."""
        extractor = self._spectrograms
        return "" if extractor is None else f"{(extractor.window or 0) / extractor.rate:.4g} s"

    @cached_property
    def speech(self) -> SpeechProcessor:
        """The processor of waveforms and transcripts."""
        return SpeechProcessor.of_model(self._model_folder, self._processor)

    @cached_property
    def _spectrograms(self) -> SpectrogramExtractor | None:
        value = next(value for value in self._inputs if value.name == self.input)
        if value.name == SOUND and len(value.shape) < len(_SPECTROGRAM):
            return None
        place = self._model_folder if self._processor is None else self._processor
        return SpectrogramExtractor(place if place.is_dir() else place.parent, [value.name for value in self._inputs])


def decoded(sound: Any, name: str) -> tuple[np.ndarray, int]:
    """Samples and their rate, from a mapping or a decoder that has both, or from an encoded file.

    Args:
        sound: What a column of sounds has.
        name: Name of the sound, for errors.

    Raises:
        UsageError: It is not a sound.
        MissingDependencyError: The package that decodes it is not installed.
    """
    if isinstance(sound, Mapping) and "array" not in sound:
        content, path = sound.get("bytes"), sound.get("path")
        if content is None and path is None:
            raise UsageError(f"{name} has {', '.join(map(str, sound)) or 'nothing'}; expected array and sampling_rate")
        return read_encoded(path if content is None else io.BytesIO(content), name)
    try:
        return np.asarray(sound["array"], np.float32), int(sound["sampling_rate"])
    except Exception as error:  # a decoder may raise anything, and so may a column of another type
        raise UsageError(f"{name} is not a sound: {type(error).__name__}: {error}") from error
