"""Translations for ``torch.onnx.export`` of ops that its own library decomposes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import onnxscript
import torch
from onnxscript.function_libs.torch_lib.ops.core import aten_index_put

from acm_export.op.schema import register
from acm_export.op.signature import DOMAIN, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

_GELU_OPSET = 20


def translation_table(opset: int) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translations for one export.

    Args:
        opset: Version of the default ONNX operator set; Gelu is a single operator since opset 20.

    Returns:
        The onnxscript function of each torch op, as ``torch.onnx.export`` expects them.
    """
    register()
    table: dict[Callable[..., Any], Callable[..., Any]] = {
        torch.ops.acm.gated_learners.default: _gated_learners,
        torch.ops.aten.index_put.default: _index_put,
    }
    if opset >= _GELU_OPSET:
        table[torch.ops.aten.gelu.default] = _gelu
    return table


# The arguments are onnxscript's symbolic values; it has no public type for them, hence Any.
def _gated_learners(
    x: Any,
    gate_logits: Any,
    thresholds: Any,
    w1: Any,
    b1: Any,
    w2: Any,
    b2: Any,
    num_learners: int,
    min_learners: int,
    activation: str,
) -> Any:
    attributes = {"num_learners": num_learners, "min_learners": min_learners, "activation": activation}
    return onnxscript.values.Opset(DOMAIN, VERSION).GatedLearners(
        x, gate_logits, thresholds, w1, b1, w2, b2, **attributes
    )


def _index_put(self: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    """``self[mask] = scalar`` as Where; PyTorch's own translation has data-dependent shapes."""
    mask: Any = indices[0] if len(indices) == 1 else None
    elementwise = mask is not None and mask.dtype == ir.DataType.BOOL and len(mask.shape) == len(self.shape)
    if not elementwise or accumulate or len(values.shape):
        return aten_index_put(self, indices, values, accumulate)
    return onnxscript.opset18.Where(mask, onnxscript.opset18.CastLike(values, self), self)


def _gelu(x: Any, approximate: str = "none") -> Any:
    return onnxscript.opset20.Gelu(x, approximate=approximate)
