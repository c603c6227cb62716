"""Speech on disk: sound files with their transcripts."""

from __future__ import annotations

import json
import wave
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.errors import UsageError
from acm_export.optional import require

if TYPE_CHECKING:
    from pathlib import Path

SOUND = "input_values"
_SUFFIXES = (".wav", ".flac")
_KINDS: dict[int, tuple[np.dtype[Any], float]] = {
    1: (np.dtype("u1"), 128.0),
    2: (np.dtype("<i2"), 32768.0),
    4: (np.dtype("<i4"), 2147483648.0),
}
"""Of samples, by their bytes: numpy's type and full scale."""


class AudioFolder:
    """Sound files, each with a transcript in a ``.txt`` of the same name, or in a ``*.trans.txt`` as LibriSpeech has.

    ``.wav`` is read with the standard library, ``.flac`` with soundfile. A sample has ``input_values`` float32
    ``[samples]``, normalised as the model's feature extractor does, and ``labels`` int64 ``[letters]``.

    Args:
        folder: With all its subfolders.
        vocabulary: From letters to labels; ``|`` or a space stands between words.
        settings: Of the feature extractor (preprocessor_config.json).

    Raises:
        UsageError: There is no sound, no transcript, or a letter that the vocabulary lacks.
    """

    def __init__(self, folder: Path, vocabulary: dict[str, int], settings: dict[str, Any]) -> None:
        self.name = str(folder)
        transcripts = _listed(folder)
        self.files: list[tuple[Path, np.ndarray[Any, Any]]] = []
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES):
            text = transcripts.get(path.stem)
            beside = path.with_suffix(".txt")
            if text is None and beside.is_file():
                text = beside.read_text(encoding="utf-8").strip()
            if not text:
                raise UsageError(f"{path} has no transcript", f"write one into {beside.name}, or into a *.trans.txt")
            self.files.append((path, _labels(text, vocabulary, path)))
        if not self.files:
            raise UsageError(f"{folder} holds no sound ({', '.join(_SUFFIXES)})")
        self._rate = int(settings.get("sampling_rate", 16000))
        self._normalize = bool(settings.get("do_normalize", True))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray[Any, Any]]:
        """One sample.

        Raises:
            UsageError: The file cannot be read, or has another sampling rate than the model takes.
        """
        path, labels = self.files[index]
        values, rate = _read(path)
        if rate != self._rate:
            raise UsageError(f"{path} has {rate} samples per second, the model takes {self._rate}", "resample it")
        if not values.size:
            raise UsageError(f"{path} is empty")
        if self._normalize:
            values = (values - values.mean()) / np.sqrt(values.var() + 1e-7)
        return {SOUND: values.astype(np.float32), "labels": labels}


def read_vocabulary(folder: Path) -> dict[str, int]:
    """The letters of a speech model, from ``vocab.json`` of its folder; empty where there is none.

    Raises:
        UsageError: The file is no vocabulary.
    """
    path = folder / "vocab.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(value, int) for value in content.values()):
        raise UsageError(f"{path} is no vocabulary: letters with a number each are expected")
    return content


def _listed(folder: Path) -> dict[str, str]:
    lines = [line for path in sorted(folder.rglob("*.trans.txt")) for line in path.read_text("utf-8").splitlines()]
    pairs = (line.strip().partition(" ") for line in lines)
    return {name: text.strip() for name, _, text in pairs if name}


def _labels(text: str, vocabulary: dict[str, int], path: Path) -> np.ndarray[Any, Any]:
    if not vocabulary:
        raise UsageError("transcripts need the model's letters", "put vocab.json into the model's folder")
    space = "|" if "|" in vocabulary else " "
    words = space.join(text.split())
    for spelled in (words, words.upper(), words.lower()):
        if all(letter in vocabulary for letter in spelled):
            return np.array([vocabulary[letter] for letter in spelled], np.int64)
    unknown = [letter for letter in words if not {letter, letter.upper(), letter.lower()} & vocabulary.keys()]
    strange = (unknown or [letter for letter in words if letter not in vocabulary])[0]
    raise UsageError(f"the transcript of {path} has {strange!r}, which the vocabulary lacks", "spell it in its letters")


def _read(path: Path) -> tuple[np.ndarray[Any, Any], int]:
    """Mono samples between -1 and 1, and their rate."""
    if path.suffix.lower() != ".wav":
        soundfile = require("soundfile")
        values, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return values.mean(1), int(rate)
    try:
        with wave.open(str(path), "rb") as sound:
            width, channels, rate = sound.getsampwidth(), sound.getnchannels(), sound.getframerate()
            content = sound.readframes(sound.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise UsageError(f"{path} is not a .wav that can be read: {error}") from error
    if width not in _KINDS:
        raise UsageError(f"{path} has {8 * width} bits per sample; 8, 16 and 32 can be read")
    kind, full_scale = _KINDS[width]
    numbers = np.frombuffer(content, kind).astype(np.float32) - (128 if width == 1 else 0)
    return numbers.reshape(-1, channels).mean(1) / full_scale, rate
