"""Speech on disk: sound files with their transcripts."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.base.optional import require
from acm_export.data.collate import LABELS

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.data.speech import SpeechProcessor

SOUND = "input_values"
SOUND_SUFFIXES = (".wav", ".flac")
_KINDS: dict[int, tuple[np.dtype, float]] = {
    1: (np.dtype("u1"), 128.0),
    2: (np.dtype("<i2"), 32768.0),
    4: (np.dtype("<i4"), 2147483648.0),
}
"""dtype and full scale of .wav samples, by bytes per sample."""
_STREAMED = 0x7FFF0000
"""Programs that write into a pipe claim about 2 or 4 GiB, because they do not know the size yet."""


class AudioFolder:
    """Sound files, each with a transcript in a ``.txt`` of the same name, or in a ``*.trans.txt`` as LibriSpeech has.

    ``.wav`` of 8, 16 or 32 bits is read with the standard library, everything else with soundfile. A sample has
    ``input_values`` float32 ``[samples]``, normalised as the model's feature extractor does, and ``labels`` int64
    ``[letters]``.

    Args:
        folder: Folder to search, with all its subfolders.
        process: Processor of sounds and transcripts.
        transcribed: Whether to read transcripts; without them samples have no labels.

    Raises:
        UsageError: The folder has no sounds, a sound has no transcript, or a letter is not in the vocabulary.
    """

    def __init__(self, folder: Path, process: SpeechProcessor, *, transcribed: bool = True) -> None:
        self.name = str(folder)
        paths = sorted(path for path in folder.rglob("*") if _is_sound_file(path))
        if not paths:
            raise UsageError(f"{folder} has no sounds ({', '.join(SOUND_SUFFIXES)})")
        listed = _listed(folder) if transcribed else {}
        self._files = [(p, process.labels(_transcript(p, listed), str(p)) if transcribed else None) for p in paths]
        self._process = process

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Read one sample.

        Raises:
            UsageError: The file cannot be read, or its sampling rate is not the model's.
        """
        path, labels = self._files[index]
        values, rate = _read(path)
        sample = {SOUND: self._process.values(values, rate, str(path))}
        return sample if labels is None else {**sample, LABELS: labels}


def _is_sound_file(path: Path) -> bool:
    return path.suffix.lower() in SOUND_SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}", "write transcripts in UTF-8") from error


def _transcript(path: Path, listed: dict[str, str]) -> str:
    beside = path.with_suffix(".txt")
    text = listed.get(path.stem)
    if text is None and beside.is_file():
        text = _read_text(beside).strip()
    if not text:
        raise UsageError(f"{path} has no transcript", f"write one into {beside.name}, or into a *.trans.txt")
    return text


def _listed(folder: Path) -> dict[str, str]:
    lines = [line for path in sorted(folder.rglob("*.trans.txt")) for line in _read_text(path).splitlines()]
    pairs = (line.strip().partition(" ") for line in lines)
    return {name: text.strip() for name, _, text in pairs if name}


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


def _read(path: Path) -> tuple[np.ndarray, int]:
    """Mono samples between -1 and 1, and their rate."""
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
