"""ACM layers in PyTorch: learners, gate, and the torch op that runs them."""

from acm_export.modules.gate import Gate
from acm_export.modules.gated_learners import gated_learners, glu_gated_learners
from acm_export.modules.layer import ACMLayer, ACMSpec, acm_layers
from acm_export.modules.quantized_gated_learners import quantized_gated_learners, quantized_glu_gated_learners

__all__ = [
    "ACMLayer",
    "ACMSpec",
    "Gate",
    "acm_layers",
    "gated_learners",
    "glu_gated_learners",
    "quantized_gated_learners",
    "quantized_glu_gated_learners",
]
