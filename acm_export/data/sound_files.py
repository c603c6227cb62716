"""Decode sound files."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.base.optional import require

if TYPE_CHECKING:
    from pathlib import Path

_KINDS: dict[int, tuple[np.dtype, float]] = {
    1: (np.dtype("u1"), 128.0),
    2: (np.dtype("<i2"), 32768.0),
    4: (np.dtype("<i4"), 2147483648.0),
}
"""dtype and full scale of .wav samples, by bytes per sample."""
_STREAMED = 0x7FFF0000
"""Programs that write into a pipe claim about 2 or 4 GiB, because they do not know the size yet."""


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """Read a sound; ``.wav`` of 8, 16 or 32 bits needs the standard library alone, everything else soundfile.

    Args:
        path: Path of the sound.

    Returns:
        Mono samples between -1 and 1, float32 ``[samples]``, and their rate.

    Raises:
        UsageError: The file cannot be read.
        MissingDependencyError: soundfile is needed and not installed.
    """
    if path.suffix.lower() != ".wav":
        return read_encoded(path, str(path))
    try:
        with wave.open(str(path), "rb") as sound:
            width, channels, rate = sound.getsampwidth(), sound.getnchannels(), sound.getframerate()
            expected = sound.getnframes() * channels * width
            content = sound.readframes(sound.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        if str(error).startswith("unknown"):  # floats, compressed samples
            return read_encoded(path, str(path))
        raise UsageError(f"cannot read {path} as a .wav file: {str(error) or 'it is truncated'}") from error
    if len(content) != expected < _STREAMED:
        raise UsageError(f"{path} is truncated: it has {len(content)} of {expected} bytes")
    if width not in _KINDS:
        return read_encoded(path, str(path))
    kind, full_scale = _KINDS[width]
    numbers = np.frombuffer(content[: len(content) // (width * channels) * (width * channels)], kind).astype(
        np.float32
    ) - (128 if width == 1 else 0)
    return numbers.reshape(-1, channels).mean(1) / full_scale, rate


def sound_length(path: Path) -> int:
    """Number of samples by the header of a sound; 0 if it has no readable header, which is an error once it is read.

    Args:
        path: Path of the sound.
    """
    try:
        if path.suffix.lower() != ".wav":
            return int(require("soundfile").info(str(path)).frames)
        with wave.open(str(path), "rb") as sound:
            frame = sound.getsampwidth() * sound.getnchannels()
            return min(sound.getnframes(), path.stat().st_size // frame)
    except (wave.Error, EOFError, OSError, RuntimeError):  # soundfile's errors are RuntimeErrors
        return 0


def read_encoded(file: object, name: str) -> tuple[np.ndarray, int]:
    """Decode a sound in any format that soundfile reads.

    Args:
        file: Path of the sound, or an open file.
        name: Name of the sound, for errors.

    Returns:
        Mono samples between -1 and 1, float32 ``[samples]``, and their rate.

    Raises:
        UsageError: The sound cannot be decoded.
        MissingDependencyError: soundfile is not installed.
    """
    soundfile = require("soundfile")
    try:
        values, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UsageError(f"cannot read the sound {name}: {error}") from error
    return values.mean(1), int(rate)
