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

_MAY_OVERFLOW = 100.0
"""Beyond, formulas with exp may give NaN where the function is finite."""

_QUICK_GELU = 1.702
"""QuickGELU, which CLIP uses, is ``silu(1.702 x) / 1.702``."""


@dataclass(frozen=True)
class Activation:
    """The activation ``act(scale * x) / scale``.

    Args:
        name: The operator's name of act.
        scale: Factor that the weights around it can take over.
    """

    name: str
    scale: float = 1.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it, elementwise."""
        return activation_fn(self.name)(self.scale * x) / self.scale


_KNOWN = (*map(Activation, ACTIVATIONS), Activation("silu", _QUICK_GELU))


@dataclass(frozen=True)
class Hidden:
    """How the hidden values of an FFN follow from its branches.

    Args:
        activation: The activation; None if the operator does not have it.
        gate: Position of the branch that goes through the activation.
        value: Position of the branch that multiplies it; None for an FFN that is not gated.
    """

    activation: Activation | None
    gate: int = 0
    value: int | None = None


def hidden_of(path: FFNPath) -> Hidden | None:
    """Recognise act(g), or act(g) * u; None if two branches do not meet in such a product.

    The operations between the linear maps, in which no parameter takes part, run on probe values in float64. The values
    reach far, so that functions that saturate (ReLU6, clamps) differ from those that do not.
    """
    if len(path.branches) == 1:
        probe = _line(12, 193)
        return Hidden(_closest(path, (probe,), lambda act: act(probe), torch.ones(())))
    line = _line(6, 49)
    grid = tuple(part.flatten() for part in torch.meshgrid(line, line, indexing="ij"))
    for gate, value in ((0, 1), (1, 0)):
        g, u = grid[gate], grid[value]
        activation = _closest(path, grid, lambda act, g=g: act(g), u)  # type: ignore[misc]
        if activation is not None:
            return Hidden(activation, gate, value)
    return _unknown_product(path, grid)


def _line(reach: float, count: int) -> torch.Tensor:
    """Values that are dense in the middle and reach to 10 000 in both directions."""
    far = torch.logspace(-3, 4, 22, dtype=torch.float64)
    return torch.cat((-far, torch.linspace(-reach, reach, count, dtype=torch.float64), far))


def _closest(
    path: FFNPath,
    probes: tuple[torch.Tensor, ...],
    activated: Callable[[Activation], torch.Tensor],
    factor: torch.Tensor,
) -> Activation | None:
    """The activation whose values, times a factor, the path computes."""
    computed = _evaluate(path, probes)
    if computed is None:
        return None
    errors = {act: _error(computed, activated(act), factor, probes) for act in _KNOWN}
    closest = min(errors, key=errors.__getitem__)
    return closest if errors[closest] <= _TOLERANCE else None


def _error(
    computed: torch.Tensor, activated: torch.Tensor, factor: torch.Tensor, probes: tuple[torch.Tensor, ...]
) -> float:
    """Largest difference from a product, relative to the size of its factors where they are above 1."""
    size = activated.abs().clamp(min=1) * factor.abs().clamp(min=1)
    errors = ((computed - activated * factor).abs() / size).nan_to_num(nan=torch.inf)
    overflown = ~computed.isfinite() & (torch.stack(probes).abs().amax(0) > _MAY_OVERFLOW)
    return float(errors[~overflown].max())


def _unknown_product(path: FFNPath, grid: tuple[torch.Tensor, ...]) -> Hidden | None:
    """A product with an activation that the operator does not have is linear in its other branch."""
    computed = _evaluate(path, grid)
    for gate, value in ((0, 1), (1, 0)):
        factor = grid[value]
        one = _evaluate(path, tuple(torch.ones_like(part) if i == value else part for i, part in enumerate(grid)))
        if computed is not None and one is not None and _error(computed, one, factor, grid) <= _TOLERANCE:
            return Hidden(None, gate, value)
    return None


def _evaluate(path: FFNPath, probes: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
    """Hidden values for given values of the branches; None where that fails."""
    known = {branch.value: probe for branch, probe in zip(path.branches, probes, strict=True)}

    def value_of(leaf: Any) -> Any:
        return compute(leaf).clone() if isinstance(leaf, Value) else leaf

    def compute(value: Value) -> torch.Tensor:
        if value not in known:
            operation = value.producer
            if operation is None:
                raise RuntimeError("a constant has no known value")
            if operation.is_pointwise:
                args, kwargs = pytree.tree_map(value_of, (operation.args, operation.kwargs))
                known[value] = operation.func(*args, **kwargs)
            else:  # reshapes, casts and dropout
                known[value] = compute(operation.data_inputs[0])
        return known[value]

    try:
        with torch.no_grad():
            return compute(path.down.inputs[0])
    except (RuntimeError, TypeError, IndexError, NotImplementedError):
        return None
