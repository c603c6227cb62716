"""The operator ``ai.acm::GatedLearners``: identity, semantics, ONNX schema and portable body.

docs/op.md is normative. Nothing in this package needs PyTorch or a runtime.
"""

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

__all__ = ["ACTIVATIONS", "DOMAIN", "INPUTS", "MAX_LEARNERS", "NAME", "OUTPUTS", "VERSION", "Signature"]
