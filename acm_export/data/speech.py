"""Convert sounds and transcripts to inputs and labels of a speech model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.processor_files import PROCESSOR_SETTINGS, SETTINGS, read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FILES = (SETTINGS, PROCESSOR_SETTINGS)


@dataclass(frozen=True)
class SpeechProcessor:
    """Converts sounds and transcripts for a speech model.

    Args:
        vocabulary: From letters to labels; ``|`` or a space separates words. Empty if the model has none.
        rate: Samples per second.
        normalize: Whether sounds are normalised to mean 0 and variance 1.
    """

    vocabulary: Mapping[str, int]
    rate: int
    normalize: bool

    @classmethod
    def of_model(cls, folder: Path, processor: Path | None = None) -> SpeechProcessor:
        """The processor that ``vocab.json`` and ``preprocessor_config.json`` of a model's folder describe.

        Args:
            folder: Folder of the model.
            processor: Folder or file of the settings, if they are elsewhere.

        Raises:
            UsageError: One of the files is broken.
        """
        settings = _settings(folder if processor is None else processor)
        rate, normalize = settings.get("sampling_rate", 16000), settings.get("do_normalize", True)
        return cls(read_vocabulary(folder), int(rate), bool(normalize))

    def values(self, values: np.ndarray, rate: int, name: str) -> np.ndarray:
        """Convert a sound to the model's input.

        Args:
            values: Real ``[samples]``.
            rate: Samples per second.
            name: Name of the sound, for errors.

        Returns:
            float32 ``[samples]``.

        Raises:
            UsageError: The sound is empty, has several channels, or does not have the model's sampling rate.
        """
        check_sound(values, rate, self.rate, name)
        if self.normalize:
            values = (values - values.mean()) / np.sqrt(values.var() + 1e-7)
        return values.astype(np.float32)

    def labels(self, text: str, name: str) -> np.ndarray:
        """Convert a transcript to labels, int64 ``[letters]``.

        Args:
            text: Transcript; also tried in upper and in lower case.
            name: Name of the sound, for errors.

        Raises:
            UsageError: The transcript or the vocabulary is empty, or a letter is not in the vocabulary.
        """
        if not text.strip():
            raise UsageError(f"the transcript of {name} is empty", "leave those sounds out")
        if not self.vocabulary:
            raise UsageError(
                f"the transcript of {name} cannot be encoded: the model has no vocabulary of letters",
                "put vocab.json into the model's folder",
            )
        space = "|" if "|" in self.vocabulary else " "
        words = space.join(text.split())
        for spelled in (words, words.upper(), words.lower()):
            if all(letter in self.vocabulary for letter in spelled):
                return np.array([self.vocabulary[letter] for letter in spelled], np.int64)
        unknown = [c for c in words if not {c, c.upper(), c.lower()} & self.vocabulary.keys()]
        strange = (unknown or [c for c in words if c not in self.vocabulary])[0]
        raise UsageError(
            f"the transcript of {name} has {strange!r}, which is not in the vocabulary",
            "write it with the letters of vocab.json",
        )


def check_sound(values: np.ndarray, rate: int, expected: int, name: str) -> None:
    """Check that a model takes a sound.

    Args:
        values: Real ``[samples]``.
        rate: Samples per second.
        expected: Samples per second that the model takes.
        name: Name of the sound, for errors.

    Raises:
        UsageError: The sound is empty, has several channels, or does not have the model's sampling rate.
    """
    if rate != expected:
        raise UsageError(f"{name} has {rate} samples per second; the model takes {expected}", "resample it")
    if values.ndim != 1:
        raise UsageError(f"{name} has the shape {list(values.shape)}; expected one channel", "take their mean")
    if not values.size:
        raise UsageError(f"{name} is empty")


def read_vocabulary(folder: Path) -> dict[str, int]:
    """Read the letters of a speech model from ``vocab.json`` in its folder; empty if there is no such file.

    Raises:
        UsageError: The file is not a vocabulary.
    """
    path = folder / "vocab.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(value, int) for value in content.values()):
        raise UsageError(f"{path} is not a vocabulary: expected a number for each letter")
    return content


def _settings(place: Path) -> dict[str, Any]:
    places = (place, *(place / name for name in _FILES))
    content = read_settings(next((path for path in places if path.is_file()), place))
    nested = content.get("feature_extractor")
    return nested if isinstance(nested, dict) else content
