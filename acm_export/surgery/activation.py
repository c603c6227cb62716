"""Recognise the activation of an FFN by what it computes, however it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from acm_export.modules.activations import activation_fn
from acm_export.op.signature import ACTIVATIONS
from acm_export.surgery.dataflow import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from acm_export.surgery.ffn_pattern import FFNPath

_TOLERANCE = 2e-5
"""gelu and its tanh form differ by 4.7e-4; constants that are written with fewer digits change a result by 1e-6."""


@dataclass(frozen=True)
class Hidden:
    """How the hidden values of an FFN follow from its branches.

    Args:
        activation: The operator's name of the activation; None if the operator does not have it.
        gate: Position of the branch that goes through the activation.
        value: Position of the branch that multiplies it; None for an FFN that is not gated.
    """

    activation: str | None
    gate: int = 0
    value: int | None = None


def hidden_of(path: FFNPath) -> Hidden | None:
    """Recognise act(g), or act(g) * u; None if two branches do not meet in such a product.

    The operations between the linear maps run on probe values in float64.
    """
    if len(path.branches) == 1:
        probe = torch.linspace(-6, 6, 97, dtype=torch.float64)
        return Hidden(_closest(path, (probe,), lambda act: act(probe)))
    line = torch.linspace(-4, 4, 33, dtype=torch.float64)
    grid = tuple(part.flatten() for part in torch.meshgrid(line, line, indexing="ij"))
    for gate, value in ((0, 1), (1, 0)):
        g, u = grid[gate], grid[value]
        name = _closest(path, grid, lambda act, g=g, u=u: act(g) * u)  # type: ignore[misc]
        if name is not None:
            return Hidden(name, gate, value)
    return _unknown_product(path, grid)


def _closest(
    path: FFNPath, probes: tuple[torch.Tensor, ...], expected: Callable[[Callable[..., torch.Tensor]], torch.Tensor]
) -> str | None:
    computed = _evaluate(path, probes)
    if computed is None:
        return None
    errors = {name: float((expected(activation_fn(name)) - computed).abs().max()) for name in ACTIVATIONS}
    name = min(errors, key=errors.__getitem__)
    return name if errors[name] <= _TOLERANCE else None


def _unknown_product(path: FFNPath, grid: tuple[torch.Tensor, ...]) -> Hidden | None:
    """A product with an activation that the operator does not have is linear in its other branch."""
    computed = _evaluate(path, grid)
    for gate, value in ((0, 1), (1, 0)) if computed is not None else ():
        doubled = _evaluate(path, tuple(2 * part if i == value else part for i, part in enumerate(grid)))
        if doubled is not None and computed is not None and torch.allclose(doubled, 2 * computed, atol=_TOLERANCE):
            return Hidden(None, gate, value)
    return None


def _evaluate(path: FFNPath, probes: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
    """Hidden values for given values of the branches; None where a parameter or constant takes part."""
    known = {branch.value: probe for branch, probe in zip(path.branches, probes, strict=True)}

    def value_of(leaf: Any) -> Any:
        return compute(leaf).clone() if isinstance(leaf, Value) else leaf

    def compute(value: Value) -> torch.Tensor:
        if value not in known:
            operation = value.producer
            if operation is None:
                raise _Constant
            if operation.is_pointwise:
                args, kwargs = pytree.tree_map(value_of, (operation.args, operation.kwargs))
                known[value] = operation.func(*args, **kwargs)
            else:  # reshapes, casts and dropout
                known[value] = compute(operation.data_inputs[0])
        return known[value]

    try:
        with torch.no_grad():
            return compute(path.down.inputs[0])
    except (_Constant, RuntimeError, IndexError, NotImplementedError):
        return None


class _Constant(Exception):  # noqa: N818  not an error: it ends the evaluation
    pass
