"""The operators of ACM layers: semantics, schemas, portable bodies.

``ai.acm::GatedLearners``, ``GLUGatedLearners`` for gated FFNs, and the int8 versions of both.

docs/op.md is normative. Nothing in this package needs PyTorch or a runtime.
"""

from acm_export.op.quantized_signature import (
    QUANTIZED_GLU_INPUTS,
    QUANTIZED_GLU_NAME,
    QUANTIZED_INPUTS,
    QUANTIZED_NAME,
    QuantizedSignature,
)
from acm_export.op.signature import (
    ACTIVATIONS,
    DOMAIN,
    GLU_INPUTS,
    GLU_NAME,
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
    "GLU_INPUTS",
    "GLU_NAME",
    "INPUTS",
    "MAX_LEARNERS",
    "NAME",
    "OUTPUTS",
    "QUANTIZED_GLU_INPUTS",
    "QUANTIZED_GLU_NAME",
    "QUANTIZED_INPUTS",
    "QUANTIZED_NAME",
    "VERSION",
    "QuantizedSignature",
    "Signature",
]
