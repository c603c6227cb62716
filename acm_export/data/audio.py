"""Speech on disk: sound files with their transcripts."""

from __future__ import annotations

import warnings
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.data.collate import DECODER_IDS, LABELS
from acm_export.data.decoder_tokens import no_answer
from acm_export.data.sound_files import read_sound, sound_length

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from acm_export.data.batches import Arrays
    from acm_export.data.columns import Columns

SOUND_SUFFIXES = (".wav", ".flac")


class AudioFolder:
    """Sound files, with the transcripts or classes that the model needs.

    ``.wav`` of 8, 16 or 32 bits is read with the standard library, everything else with soundfile. A transcript is in a
    ``.txt`` of the same name, or in a ``*.trans.txt`` as LibriSpeech has. Without transcripts, subfolders that all have
    names of the model's classes are classes; they alternate, so that the first n samples hold all.

    A sample has the model's inputs and, if there are transcripts or classes, ``labels``: int64 ``[letters]`` or ``[]``.

    Args:
        folder: Folder to search, with all its subfolders.
        columns: Makes inputs and labels of sounds and transcripts.

    Raises:
        UsageError: The folder has no sounds, a sound has no transcript, or a letter is not in the vocabulary.
    """

    def __init__(self, folder: Path, columns: Columns) -> None:
        self.name, self._sounds = str(folder), columns.sounds
        self._paths = sorted(path for path in folder.rglob("*") if _is_sound_file(path))
        if not self._paths:
            raise UsageError(f"{folder} has no sounds ({', '.join(SOUND_SUFFIXES)})")
        self._extra: list[Arrays] = [{} for _ in self._paths]
        if columns.transcribed or columns.answered:
            self._read_transcripts(folder, columns)
        elif classes := _classes(folder, self._paths, columns.classes):
            self._paths = [path for path, _ in classes]
            self._extra = [{LABELS: np.array(number, np.int64)} for _, number in classes]
        self._warn_about_long_sounds()

    @property
    def labels(self) -> np.ndarray | None:
        """Classes of all sounds, int64 ``[sounds]``; None without classes."""
        labels = [extra[LABELS] for extra in self._extra if LABELS in extra]
        return np.stack(labels) if labels and not labels[0].ndim else None

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Arrays:
        """Read one sample.

        Raises:
            UsageError: The file cannot be read, or its sampling rate is not the model's.
        """
        path = self._paths[index]
        return {**self._sounds(*read_sound(path), str(path)), **self._extra[index]}

    def _read_transcripts(self, folder: Path, columns: Columns) -> None:
        listed = _listed(folder)
        texts = [_transcript(path, listed, needed=columns.answered) for path in self._paths]
        names = list(map(str, self._paths))
        if columns.transcribed:
            for extra, text, name in zip(self._extra, texts, names, strict=True):
                extra[LABELS] = self._sounds.speech.labels(text, name)
        if columns.answered:
            for extra, tokens in zip(self._extra, columns.answers(texts, names), strict=True):
                extra[DECODER_IDS] = tokens

    def _warn_about_long_sounds(self) -> None:
        window = self._sounds.window
        long = 0 if window is None else sum(sound_length(path) > window for path in self._paths)
        if long:
            warnings.warn(
                f"{long} of the {len(self._paths)} sounds in {self.name} were cut to {self._sounds.longest}, the most "
                "that the model takes",
                AcmWarning,
                stacklevel=3,
            )


def _classes(folder: Path, paths: Sequence[Path], names: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Sounds with the numbers of their classes, one of each in turn; empty if a subfolder is not named as a class."""
    places = [path.relative_to(folder).parts[0] for path in paths]
    if any(path.parent == folder or place not in names for path, place in zip(paths, places, strict=True)):
        return []
    grouped: dict[str, list[tuple[Path, int]]] = {}
    for path, place in zip(paths, places, strict=True):
        grouped.setdefault(place, []).append((path, names.index(place)))
    return [entry for row in zip_longest(*grouped.values()) for entry in row if entry is not None]


def _is_sound_file(path: Path) -> bool:
    return path.suffix.lower() in SOUND_SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}", "write transcripts in UTF-8") from error


def _transcript(path: Path, listed: dict[str, str], *, needed: bool) -> str:
    beside = path.with_suffix(".txt")
    text = listed.get(path.stem)
    if text is None and beside.is_file():
        text = _read_text(beside).strip()
    if not text:
        hint = f"write one into {beside.name}, or into a *.trans.txt"
        if needed:
            raise no_answer(f"{path} has no transcript", hint)
        raise UsageError(f"{path} has no transcript", hint)
    return text


def _listed(folder: Path) -> dict[str, str]:
    lines = [line for path in sorted(folder.rglob("*.trans.txt")) for line in _read_text(path).splitlines()]
    pairs = (line.strip().partition(" ") for line in lines)
    return {name: text.strip() for name, _, text in pairs if name}
