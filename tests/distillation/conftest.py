"""What every test of distillation shares."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gc.collect", lambda *_: 0)  # accelerate asks for one after each phase: half of the time here
