"""The operators ``ai.acm::GatedLearners`` and ``ai.acm::QuantizedGatedLearners``: semantics, schemas, portable bodies.

docs/op.md is normative. Nothing in this package needs PyTorch or a runtime.
"""

from acm_export.op.quantized_signature import QUANTIZED_INPUTS, QUANTIZED_NAME, QuantizedSignature
from acm_export.op.signature import (
    ACTIVATIONS,
    DOMAIN,
    INPUTS,
    MAX_LEARNERS,
    NAME,
    OUTPUTS,
    VERSION,
    Signature,
)

__all__ = [
    "ACTIVATIONS",
    "DOMAIN",
    "INPUTS",
    "MAX_LEARNERS",
    "NAME",
    "OUTPUTS",
    "QUANTIZED_INPUTS",
    "QUANTIZED_NAME",
    "VERSION",
    "QuantizedSignature",
    "Signature",
]
