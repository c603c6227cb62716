"""Runs of the torch ops of plain FFNs and of gated ones on a CPU, and layers of either kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import torch

from acm_export.modules import ACMLayer, ACMSpec, gated_learners, glu_gated_learners

if TYPE_CHECKING:
    from op_model import Feeds

    from acm_export.op import QuantizedSignature, Signature

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
RUN = {False: gated_learners, True: glu_gated_learners}
OPS = {False: torch.ops.acm.gated_learners.default, True: torch.ops.acm.glu_gated_learners.default}
"""The functions and the ops, by whether the FFN is gated."""


def to_torch(feeds: Feeds, dtype: torch.dtype) -> list[torch.Tensor]:
    """Inputs of the float op in order; logits and thresholds stay float32."""
    float32 = ("gate_logits", "thresholds")
    return [
        torch.from_numpy(value.astype(np.float32)).to(torch.float32 if name in float32 else dtype)
        for name, value in feeds.items()
    ]


def attributes(signature: Signature | QuantizedSignature) -> tuple[Any, ...]:
    """Attributes in the order of the ops' arguments."""
    return tuple(signature.attributes.values())


def run_op(feeds: Feeds, signature: Signature, dtype: str) -> tuple[Any, Any]:
    """y as float32 and counts of the float op."""
    y, counts = RUN[signature.glu](*to_torch(feeds, DTYPES[dtype]), *attributes(signature))
    assert y.dtype == DTYPES[dtype]
    return y.float().numpy(), counts.numpy()


def random_layer(**changes: Any) -> ACMLayer:
    """A layer in which biases and thresholds are not zero."""
    layer = ACMLayer(ACMSpec(**({"model_dim": 6, "num_learners": 3, "hidden_dim": 5} | changes))).eval()
    with torch.no_grad():
        for parameter in (layer.b1, layer.c1, layer.b2):
            if parameter is not None:
                parameter.normal_()
        layer.thresholds.uniform_(-0.2, 0.2)
    return layer.requires_grad_(requires_grad=False)
