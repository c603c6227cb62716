"""Record what the launchers of plugins/kernels launch on tensors in memory, without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from plugin_pack import argument_names

from acm_export.op.quantized_signature import QuantizedSignature
from acm_export.op.signature import Signature
from acm_export.plugins.kernels import launch, launch_quantized

if TYPE_CHECKING:
    import pytest
    from plugin_cases import Case
    from plugin_core import Place


class Recorder:
    """Replaces a Triton kernel and records its launches."""

    def __init__(self, name: str, log: list[tuple[str, tuple[int, ...], dict[str, Any], dict[str, Any]]]) -> None:
        self._name, self._log = name, log

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*arguments: Any, **constants: Any) -> None:
            given = [argument for argument in arguments if argument is not None]
            name = f"{self._name}_glu" if f"{self._name}_glu" in argument_names() else self._name
            if len(given) < len(arguments):
                name = self._name
            self._log.append((name, grid, dict(zip(argument_names()[name], given, strict=True)), constants))

        return run


def run_python(case: Case, arch: str, monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Names of the tensors by their addresses, after Python's launcher ran."""
    shapes, types = case.shapes(), case.types()
    tensors = {name: torch.empty(shapes[name], dtype=getattr(torch, types[name])) for name in case.inputs}
    kind = QuantizedSignature if case.quantized else Signature
    signature = kind(case.num_learners, case.min_learners, case.activation, glu=case.glu)
    if case.quantized:
        monkeypatch.setattr(launch_quantized, "architecture", lambda _: arch)
        d, width = case.model_dim, case.num_learners * case.hidden_dim
        stored = {"w1": (width, d), "v1": (width, d), "w2": (d, width), "h_zero": (case.num_learners,)}
        tensors |= {name: torch.empty(shape, dtype=torch.int8) for name, shape in stored.items() if name in case.inputs}
        given = tensors | {name: tensors[name].t() for name in ("w1", "v1", "w2") if name in case.inputs}
        y, counts = launch_quantized.quantized_gated_learners(**given, signature=signature)
    else:
        monkeypatch.setattr(launch, "architecture", lambda _: arch)
        y, counts = launch.gated_learners(**tensors, signature=signature, allow_tf32=case.allow_tf32)
    return {tensor.data_ptr(): name for name, tensor in {**tensors, "y": y, "counts": counts}.items()}


def placed(address: int, starts: dict[int, str], workspace: int) -> Place:
    """Tensor and byte offset of an address, as the fake driver reports them."""
    name = starts.get(address)
    return (name, 0) if name else ("workspace", address - workspace)
