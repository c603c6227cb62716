"""Compiling CUDA sources without a GPU: errors of a missing compiler and of a wrong source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from acm_export.base.errors import KernelError, MissingDependencyError
from acm_export.plugins.kernels import nvrtc

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def _no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(nvrtc, "LIBRARY", "libnvrtc-that-nobody-has.so.12")
    nvrtc._nvrtc.cache_clear()
    yield
    nvrtc._nvrtc.cache_clear()


@pytest.mark.usefixtures("_no_library")
def test_a_missing_compiler_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(MissingDependencyError, match="libnvrtc-that-nobody-has") as caught:
        nvrtc.compile_cuda("up.cu", "sm_90a", {})
    assert "pip install 'nvidia-cuda-nvrtc-cu12" in str(caught.value.hint)


def test_compile_errors_have_the_log_of_the_compiler() -> None:
    try:
        nvrtc.version()
    except MissingDependencyError as error:
        pytest.skip(f"{error}; {error.hint}")
    with pytest.raises(KernelError, match=r"up\.cu does not compile for sm_90a: .*ACM_BLOCK_N"):
        nvrtc.compile_cuda("up.cu", "sm_90a", {})
