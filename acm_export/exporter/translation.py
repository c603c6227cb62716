"""Translations for ``torch.onnx.export`` of ops that its own library decomposes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import onnxscript
import torch
from onnxscript.function_libs.torch_lib.ops.core import aten_index_put

from acm_export.op.schema import register
from acm_export.op.signature import DOMAIN, VERSION, Signature

if TYPE_CHECKING:
    from collections.abc import Callable

_GELU_OPSET = 20

Symbolic = Any  # onnxscript has no public type for the values of a graph that it builds


def translation_table(opset: int) -> dict[Callable[..., object], Callable[..., object]]:
    """Return the translations for one export.

    Args:
        opset: Version of the default ONNX operator set; Gelu is a single operator since opset 20.

    Returns:
        The onnxscript function of each torch op, as ``torch.onnx.export`` expects them.
    """
    register()
    table: dict[Callable[..., object], Callable[..., object]] = {
        torch.ops.acm.gated_learners.default: _gated_learners,
        torch.ops.acm.glu_gated_learners.default: _glu_gated_learners,
        torch.ops.aten.index_put.default: _index_put,
        torch.ops.aten.rsub.Scalar: _rsub,
    }
    if opset >= _GELU_OPSET:
        table[torch.ops.aten.gelu.default] = _gelu
    return table


def _gated_learners(
    x: Symbolic,
    gate_logits: Symbolic,
    thresholds: Symbolic,
    w1: Symbolic,
    b1: Symbolic,
    w2: Symbolic,
    b2: Symbolic,
    num_learners: int,
    min_learners: int,
    activation: str,
) -> Symbolic:
    signature = Signature(num_learners, min_learners, activation)
    return _node(signature, x, gate_logits, thresholds, w1, b1, w2, b2)


def _glu_gated_learners(
    x: Symbolic,
    gate_logits: Symbolic,
    thresholds: Symbolic,
    w1: Symbolic,
    b1: Symbolic,
    v1: Symbolic,
    c1: Symbolic,
    w2: Symbolic,
    b2: Symbolic,
    num_learners: int,
    min_learners: int,
    activation: str,
) -> Symbolic:
    signature = Signature(num_learners, min_learners, activation, glu=True)
    return _node(signature, x, gate_logits, thresholds, w1, b1, v1, c1, w2, b2)


def _node(signature: Signature, *inputs: Symbolic) -> Symbolic:
    operator = getattr(onnxscript.values.Opset(DOMAIN, VERSION), signature.operator)
    return operator(*inputs, **signature.attributes)


def _index_put(self: Symbolic, indices: Symbolic, values: Symbolic, accumulate: bool = False) -> Symbolic:
    """``self[mask] = scalar`` as Where; PyTorch's own translation has data-dependent shapes."""
    mask: Symbolic = indices[0] if len(indices) == 1 else None
    elementwise = mask is not None and mask.dtype == ir.DataType.BOOL and len(mask.shape) == len(self.shape)
    if not elementwise or accumulate or len(values.shape):
        return aten_index_put(self, indices, values, accumulate)
    return onnxscript.opset18.Where(mask, onnxscript.opset18.CastLike(values, self), self)


def _rsub(self: Symbolic, other: Symbolic, alpha: Symbolic = 1) -> Symbolic:
    """``other - alpha * self``; PyTorch's own translation of ``1.0 - mask`` fails for integer masks."""
    ops = onnxscript.opset18
    if isinstance(other, float) and self.dtype.is_integer():
        self = ops.Cast(self, to=ir.DataType.FLOAT)
    scaled = self if alpha == 1 else ops.Mul(self, ops.CastLike(alpha, self))
    return ops.Sub(ops.CastLike(other, self), scaled)


def _gelu(x: Symbolic, approximate: str = "none") -> Symbolic:
    return onnxscript.opset20.Gelu(x, approximate=approximate)
