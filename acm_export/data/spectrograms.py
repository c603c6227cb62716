"""Compute the spectrogram of a sound with the model's own feature extractor."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import MissingDependencyError, UsageError, first_line
from acm_export.base.optional import require
from acm_export.data.processor_files import PROCESSOR_SETTINGS, SETTINGS
from acm_export.data.speech import check_sound

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from acm_export.data.batches import Arrays

FEATURES = "input_features"

_FRAME_SECONDS, _SHIFT_SECONDS = 0.025, 0.010
"""Length and distance of the frames of Kaldi's filter banks, whose extractors limit frames (AST) and not samples."""


class SpectrogramExtractor:
    """The feature extractor of a model, run by transformers.

    Args:
        folder: Folder with ``preprocessor_config.json`` or ``processor_config.json``.
        names: Names of the model's inputs; what the extractor returns under other names is left out.

    Raises:
        UsageError: The folder has no settings, or transformers cannot make an extractor of them.
        MissingDependencyError: transformers, or a package that the extractor needs, is not installed.
    """

    def __init__(self, folder: Path, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._extractor = _load(folder)
        self._type = type(self._extractor).__name__
        self.rate = int(self._extractor.sampling_rate)

    @property
    def window(self) -> int | None:
        """Number of samples of the longest sound that is not cut; None without such a limit."""
        samples, frames = (getattr(self._extractor, name, None) for name in ("n_samples", "max_length"))
        if isinstance(samples, int):
            return samples
        if isinstance(frames, int):
            return round(self.rate * (_FRAME_SECONDS + _SHIFT_SECONDS * frames)) - 1
        return None

    def __call__(self, values: np.ndarray, rate: int, name: str) -> Arrays:
        """Compute the inputs of one sound.

        Args:
            values: Real ``[samples]``.
            rate: Samples per second.
            name: Name of the sound, for errors.

        Returns:
            The spectrogram, float32 ``[bands, frames]`` or ``[frames, bands]`` as the model takes it, and a mask of its
            frames, int64 ``[frames]``, if the extractor makes one.

        Raises:
            UsageError: The sound cannot be used, or is too short for one frame.
            MissingDependencyError: The extractor needs a package that is not installed.
        """
        check_sound(values, rate, self.rate, name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # statistics of a sound that is too short
                made = self._extractor(values.astype(np.float32), sampling_rate=rate, return_tensors="np")
        except ImportError as error:
            raise _missing(self._type, error) from error
        except Exception as error:  # extractors raise errors of many kinds for sounds that they cannot use
            raise UsageError(f"{self._type} cannot use {name} ({len(values)} samples): {first_line(error)}") from error
        arrays = {key: np.asarray(value)[0] for key, value in made.items() if key in self._names}
        if any(not array.size for array in arrays.values()):
            raise UsageError(f"{name} is too short: {len(values)} samples are less than one frame", "leave it out")
        return {key: a.astype(np.float32 if a.dtype.kind == "f" else np.int64) for key, a in arrays.items()}


def _load(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in (SETTINGS, PROCESSOR_SETTINGS)):
        raise UsageError(
            f"there is no {SETTINGS} in {folder}, which says how the spectrogram of a sound is computed",
            "name its folder with --processor: that of the checkpoint, or the .processor folder that export wrote",
        )
    try:
        transformers = require("transformers")
    except MissingDependencyError as error:
        raise MissingDependencyError(
            "spectrograms of sounds are computed by the package transformers, which is not installed",
            f"{error.hint}; or prepare an .npz where it is installed: "
            'np.savez("speech.npz", input_features=[extractor(x, sampling_rate=16000).input_features[0] for x in ...])',
        ) from error
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except ImportError as error:
        raise _missing(f"the feature extractor in {folder}", error) from error
    except Exception as error:  # transformers raises many types for files that it cannot use
        raise UsageError(
            f"transformers cannot make a feature extractor of {SETTINGS} in {folder}: {first_line(error)}",
            "copy the file again from the original model",
        ) from error
    if not isinstance(getattr(extractor, "sampling_rate", None), int):
        raise UsageError(
            f"{SETTINGS} in {folder} describes {type(extractor).__name__}, which does not take sounds",
            "name the folder of this model's own feature extractor with --processor",
        )
    return extractor


def _missing(what: str, error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(
        f"{what} needs packages that are not installed: {first_line(error)}",
        "install them, or prepare an .npz with the model's inputs on another machine",
    )
