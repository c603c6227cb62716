"""The model as the exported file presents it: tensors in, tensors out, float32 at both ends."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from acm_export.base.errors import ExportError
from acm_export.modules import ACMLayer, acm_layers
from acm_export.modules.parametrizations import fold_parametrizations

PREFIX = "module."
"""Stands before the names of parameters in the wrapper's state."""

ExampleInputs = Mapping[str, torch.Tensor] | Sequence[torch.Tensor] | torch.Tensor


class Exportable(nn.Module):
    """Calls a module with named inputs, casts floating inputs to its dtype and its outputs to float32.

    Every file takes and gives float32, whatever its weights: numpy has no bfloat16, one feed serves every dtype, and
    the casts cost nothing beside the model.

    Args:
        module: Any module with ACM layers.
        input_names: Parameters of its ``forward``, in the order of the inputs.
        dtype: Of its weights.
        fields: Fields of the output to return; None for every tensor of it.
    """

    def __init__(
        self,
        module: nn.Module,
        input_names: Sequence[str],
        dtype: torch.dtype,
        fields: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self._input_names, self._dtype, self._fields = tuple(input_names), dtype, fields

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tensors in the order of the input names to a tuple of tensors."""
        given: list[torch.Tensor] = list(inputs)
        results = []
        for value in self.outputs(*inputs).values():
            result = value.float() if value.is_floating_point() else value
            # The exporter names tensors: one that is an input, a weight or two outputs would lose a name.
            named = isinstance(result, nn.Parameter) or any(value is other or result is other for other in given)
            results.append(result.clone() if named else result)
            given += [value, result]
        return tuple(results)

    def outputs(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the module returns for the same inputs: tensors by name, in the module's dtype.

        Raises:
            ExportError: It returned something other than tensors.
        """
        cast = [v.to(self._dtype) if v.is_floating_point() else v for v in inputs]
        outputs: Any = self.module(**dict(zip(self._input_names, cast, strict=True)))
        if isinstance(outputs, torch.Tensor):
            return {"output": outputs}
        if isinstance(outputs, Mapping):
            names = self._fields or [name for name, value in outputs.items() if isinstance(value, torch.Tensor)]
            return {name: outputs[name] for name in names}
        if isinstance(outputs, (tuple, list)) and all(isinstance(v, torch.Tensor) for v in outputs):
            return {f"output_{i}": value for i, value in enumerate(outputs)}
        raise ExportError(
            f"the module returns {type(outputs).__name__}; expected tensors, a tuple or a mapping of them"
        )

    def in_dtype(self, dtype: torch.dtype) -> Exportable:
        """The same with another dtype inside, without parametrizations; copied only where something changes."""
        module = as_dtype(fold_parametrizations(self.module), dtype)
        return Exportable(module, self._input_names, dtype, self._fields).eval()


class Alone(nn.Module):
    """Gives a layer that is exported by itself a name, as it has in any module."""

    def __init__(self, layer: ACMLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``[..., D]`` to ``[..., D]``."""
        return torch.as_tensor(self.layer(x))


def as_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module itself where nothing would change, else a converted copy; gates and thresholds stay float32."""
    layers = [layer for _, layer in acm_layers(module)]
    float32 = {id(t) for layer in layers for t in (layer.thresholds, *layer.gate.parameters())}
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() and id(t) not in float32]
    if all(t.dtype == dtype for t in tensors):
        return module
    return copy.deepcopy(module).to(dtype)


def name_inputs(module: nn.Module, example_inputs: ExampleInputs) -> dict[str, torch.Tensor]:
    """Example inputs by the names of ``forward``'s parameters.

    Raises:
        ExportError: They do not fit its signature, or are not tensors with a batch dimension.
    """
    parameters = [
        p.name
        for p in inspect.signature(module.forward).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if isinstance(example_inputs, torch.Tensor):
        example_inputs = (example_inputs,)
    if isinstance(example_inputs, Mapping):
        named = dict(example_inputs)
        if unknown := [name for name in named if name not in parameters]:
            raise ExportError(f"forward has no parameter {', '.join(unknown)}; it has {', '.join(parameters)}")
    else:
        if len(example_inputs) > len(parameters):
            raise ExportError(f"{len(example_inputs)} example inputs for {len(parameters)} parameters of forward")
        named = dict(zip(parameters, example_inputs, strict=False))
    for name, value in named.items():
        if not isinstance(value, torch.Tensor) or value.ndim == 0:
            raise ExportError(f"example input {name} is no tensor with a batch dimension, but {type(value).__name__}")
    return named
