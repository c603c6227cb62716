"""Which TensorRTs the plugin supports, and that every part of the package says the same."""

from __future__ import annotations

import pytest

from acm_export.base.errors import EngineError
from acm_export.diagnosis.tensorrt import interface
from acm_export.engine.release import Release
from acm_export.machine.tensorrt import TensorRT
from acm_export.plugins.tensorrt.support import supported


@pytest.mark.parametrize("version", [(8, 5), (8, 6), (10, 3), (10, 16), (11, 0), (12, 1)])
def test_supported_releases(version: tuple[int, int]) -> None:
    assert supported(version)
    assert Release(version).target in {"tensorrt-8", "tensorrt"}
    assert interface(TensorRT("tensorrt", f"{version[0]}.{version[1]}.0")).state == "ok"


@pytest.mark.parametrize("version", [(7, 2), (8, 4), (9, 3), (10, 0), (10, 2)])
def test_other_releases(version: tuple[int, int]) -> None:
    assert not supported(version)
    with pytest.raises(EngineError, match="is not supported"):
        _ = Release(version).target
    assert interface(TensorRT("tensorrt", f"{version[0]}.{version[1]}.0")).state == "wrong"
