"""Processes for Triton: one that interprets kernels on the CPU, one that compiles them.

Triton decides when it is imported whether it interprets, and keeps to it; so neither may happen in the process of the
tests, where a GPU test may want the real thing. Functions are sent to a process by name: they import Triton when they
run, never when their module is imported.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

_running: dict[bool, ProcessPoolExecutor] = {}


def interpreted(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Result of a function in the process that interprets, with bfloat16 fixed."""
    if _release("triton") < (3, 7) and _release("numpy") >= (2, 4):
        pytest.skip(
            "Triton 3.6 interprets only with NumPy before 2.4 (it counts on int() of an array with one element)"
        )
    return _call(True, function, *args, **kwargs)


def compiling(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Result of a function in the process that compiles."""
    _release("triton")
    return _call(False, function, *args, **kwargs)


def _release(package: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version(package).split(".")[:2])
    except PackageNotFoundError:
        pytest.skip(f"needs {package}")


def _call(interpret: bool, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    if interpret not in _running:
        _running[interpret] = ProcessPoolExecutor(1, get_context("spawn"), initializer=_start, initargs=(interpret,))
    try:
        return _running[interpret].submit(function, *args, **kwargs).result()
    except BrokenProcessPool:
        del _running[interpret]  # a kernel that reads a wrong address ends its process, not the remaining tests
        raise


def _start(interpret: bool) -> None:
    os.environ.pop("TRITON_INTERPRET", None)
    if interpret:
        os.environ["TRITON_INTERPRET"] = "1"
        import torch
        from kernel_bfloat16 import correct_bfloat16

        torch.set_num_threads(1)
        correct_bfloat16()
