"""The module that is exported: tensors in, tensors out, all float32."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from acm_export.base.errors import ExportError
from acm_export.modules import ACMLayer, acm_layers
from acm_export.modules.outputs import named_outputs

PREFIX = "module."
"""Prefix of the names of parameters in the wrapper's state."""

ExampleInputs = Mapping[str, torch.Tensor] | Sequence[torch.Tensor] | torch.Tensor


class Exportable(nn.Module):
    """Calls a module with named inputs, casts floating inputs to its dtype and its outputs to float32.

    Inputs and outputs are float32 for every dtype of the weights: numpy has no bfloat16, the same inputs fit every
    file, and the cost of the casts is negligible.

    Args:
        module: Any module with ACM layers.
        input_names: Parameters of its ``forward``, in the order of the inputs.
        dtype: Dtype of its weights.
        fields: Fields of the output to return; None for all its tensors.
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
        """Run the module on tensors in the order of the input names."""
        given: list[torch.Tensor] = list(inputs)
        results = []
        for value in self.outputs(*inputs).values():
            result = value.float() if value.is_floating_point() else value
            # The exporter names tensors; one that is also an input, a weight or another output would lose a name.
            named = isinstance(result, nn.Parameter) or any(value is other or result is other for other in given)
            results.append(result.clone() if named else result)
            given += [value, result]
        return tuple(results)

    def outputs(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The module's outputs for the same inputs: tensors by name, in the module's dtype.

        Raises:
            ExportError: The module returned something other than tensors.
        """
        cast = [v.to(self._dtype) if v.is_floating_point() else v for v in inputs]
        outputs: object = self.module(**dict(zip(self._input_names, cast, strict=True)))
        return named_outputs(outputs, self._fields or ())

    def in_dtype(self, dtype: torch.dtype) -> Exportable:
        """This module in another dtype, without parametrizations; shares what does not change."""
        module = as_dtype(fold_parametrizations(self.module), dtype)
        return Exportable(module, self._input_names, dtype, self._fields).eval()


class SingleLayer(nn.Module):
    """Wraps a layer that is exported on its own, so that it has a name."""

    def __init__(self, layer: ACMLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``[..., D]`` to ``[..., D]``."""
        return torch.as_tensor(self.layer(x))


def as_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module itself if it has this dtype, otherwise a converted copy; gates and thresholds stay float32."""
    layers = [layer for _, layer in acm_layers(module)]
    float32 = {id(t) for layer in layers for t in (layer.thresholds, *layer.gate.parameters())}
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() and id(t) not in float32]
    if all(t.dtype == dtype for t in tensors):
        return module
    return copy.deepcopy(module).to(dtype)


def fold_parametrizations(module: nn.Module) -> nn.Module:
    """Replace parametrized weights, such as weights under weight norm, by their computed values.

    Fold before any conversion to half precision: the norm of a large weight must be computed in float32.

    Returns:
        The module itself if nothing is parametrized, otherwise a copy that shares all other weights.
    """
    found = [(name, part) for name, part in module.named_modules() if parametrize.is_parametrized(part)]
    if not found:
        return module
    if found[0][0] == "":
        return _plain(module)
    shared = copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
    for name, part in found:
        shared.set_submodule(name, _plain(part))
    return shared


def _plain(module: nn.Module) -> nn.Module:
    """A copy of a layer in its original class, with the parametrized tensors as parameters.

    ``parametrize.remove_parametrizations`` would change the class, which the original and its copies share.
    """
    original: type[nn.Module] = type(module).__bases__[0]  # parametrize inserts a subclass
    plain = original.__new__(original)
    vars(plain).update({name: copy.copy(value) for name, value in vars(module).items()})
    names = list(module.parametrizations)  # type: ignore[arg-type]
    del plain._modules["parametrizations"]  # noqa: SLF001
    for name in names:
        value: torch.Tensor = getattr(module, name)
        plain.register_parameter(name, nn.Parameter(value.detach(), requires_grad=value.requires_grad))
    return plain


def name_inputs(module: nn.Module, example_inputs: ExampleInputs) -> dict[str, torch.Tensor]:
    """Map example inputs to the names of ``forward``'s parameters.

    Raises:
        ExportError: The inputs do not fit the signature, or are not tensors with a batch dimension.
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
            found = "a scalar" if isinstance(value, torch.Tensor) else type(value).__name__
            raise ExportError(f"example input {name} is {found}; expected a tensor with a batch dimension")
    return named
