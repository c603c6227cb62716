"""Sounds and functions as users give them."""

from __future__ import annotations

import sys
import types
import wave
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pytest

LETTERS = '{"<pad>": 0, "|": 1, "A": 2, "B": 3, "C": 4}'


def module(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    made = types.ModuleType("mine_for_tests")
    vars(made).update(functions)
    monkeypatch.setitem(sys.modules, "mine_for_tests", made)


def write_wav(path: Path, values: np.ndarray[Any, Any], rate: int = 16000, width: int = 2, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(values.tobytes())
