"""Record what plugins/kernels/launch.py launches on tensors in memory, without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from plugin_pack import argument_names

from acm_export.op.signature import INPUTS, Signature
from acm_export.plugins.kernels import launch

if TYPE_CHECKING:
    import pytest
    from plugin_core import Case, Place


class Recorder:
    """Replaces a Triton kernel and records its launches."""

    def __init__(self, name: str, log: list[tuple[str, tuple[int, ...], dict[str, Any], dict[str, Any]]]) -> None:
        self._name, self._log = name, log

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*arguments: Any, **constants: Any) -> None:
            named = dict(zip(argument_names()[self._name], arguments, strict=True))
            self._log.append((self._name, grid, named, constants))

        return run


def run_python(case: Case, arch: str, monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Names of the tensors by their addresses, after Python's launcher ran."""
    monkeypatch.setattr(launch, "architecture", lambda _: arch)
    tensors = {name: torch.empty(case.shapes()[name], dtype=getattr(torch, case.types()[name])) for name in INPUTS}
    signature = Signature(case.num_learners, case.min_learners, case.activation)
    y, counts = launch.gated_learners(*tensors.values(), signature, allow_tf32=case.allow_tf32)
    return {tensor.data_ptr(): name for name, tensor in {**tensors, "y": y, "counts": counts}.items()}


def placed(address: int, starts: dict[int, str], workspace: int) -> Place:
    """Tensor and byte offset of an address, as the fake driver reports them."""
    name = starts.get(address)
    return (name, 0) if name else ("workspace", address - workspace)
