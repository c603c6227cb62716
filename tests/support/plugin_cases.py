"""Layers as the tests of the plugin call them: one class per operator, with the types and shapes of its tensors."""

from __future__ import annotations

import ctypes
import math
from ctypes import c_int32, c_int64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from acm_export.op.quantized_signature import INT8_INPUTS, QUANTIZED_GLU_INPUTS, QUANTIZED_INPUTS
from acm_export.op.signature import GLU_INPUTS, INPUTS, OUTPUTS
from acm_export.plugins.kernels.plan import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

TYPES = ("float32", "float16", "bfloat16", "int32", "int8", "other")
OPERATORS = {
    "GatedLearners": INPUTS,
    "QuantizedGatedLearners": QUANTIZED_INPUTS,
    "GLUGatedLearners": GLU_INPUTS,
    "QuantizedGLUGatedLearners": QUANTIZED_GLU_INPUTS,
}
"""Inputs by operator, in the order of ``acm::Operator``."""

TENSORS = (*INPUTS, *OUTPUTS)
QUANTIZED_TENSORS = (*QUANTIZED_INPUTS, *OUTPUTS)


class CTensor(ctypes.Structure):
    _fields_ = (("type", c_int32), ("format", c_int32), ("rank", c_int32), ("dims", c_int64 * 8))


@dataclass
class Case:
    """One layer and the shapes it is called with; tests change single tensors to make it wrong."""

    leading: tuple[int, ...] = (197,)
    model_dim: int = 64
    hidden_dim: int = 32
    num_learners: int = 4
    min_learners: int = 0
    activation: str = "gelu"
    dtype: str = "float16"
    allow_tf32: bool = False

    operator: ClassVar[str] = "GatedLearners"

    @property
    def inputs(self) -> tuple[str, ...]:
        return OPERATORS[self.operator]

    @property
    def quantized(self) -> bool:
        return self.operator.startswith("Quantized")

    @property
    def glu(self) -> bool:
        return "GLU" in self.operator

    @property
    def names(self) -> tuple[str, ...]:
        """Inputs and outputs in order."""
        return (*self.inputs, *OUTPUTS)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        d, n, width = self.model_dim, self.num_learners, self.num_learners * self.hidden_dim
        shapes = {
            "x": (*self.leading, d),
            "gate_logits": (*self.leading, n - self.min_learners + 1),
            "thresholds": (n,),
            "w1": (d, width),
            "b1": (width,),
            "v1": (d, width),
            "c1": (width,),
            "w2": (width, d),
            "b2": (n + 1, d),
            "y": (*self.leading, d),
            "counts": self.leading,
        }
        if self.quantized:
            shapes |= {"x_mult": (d,), "s1": (width,), "t1": (width,), "h_mult": (n,), "h_zero": (n,), "s2": (d,)}
            shapes |= {name: (-(-math.prod(shapes[name]) // 4),) for name in INT8_INPUTS}
        return {name: shapes[name] for name in self.names}

    def types(self) -> dict[str, str]:
        if self.quantized:
            given = {"x": self.dtype, "y": self.dtype} | dict.fromkeys((*INT8_INPUTS, "counts"), "int32")
            return {name: given.get(name, "float32") for name in self.names}
        fixed = {"gate_logits": "float32", "thresholds": "float32", "counts": "int32"}
        return {name: fixed.get(name, self.dtype) for name in self.names}

    def tensors(self, **changes: tuple[int, ...] | str) -> Any:
        """All tensors as C structures; a change is another shape or another type."""
        shapes, types = self.shapes(), self.types()
        for name, change in changes.items():
            if isinstance(change, str):
                types[name] = change
            else:
                shapes[name] = change
        return (CTensor * len(self.names))(*(c_tensor(types[name], shapes[name]) for name in self.names))

    @property
    def hidden_bytes(self) -> int:
        """Bytes of a hidden value."""
        return 1 if self.quantized else 4 if self.dtype == "float32" else 2

    @property
    def problem(self) -> Problem:
        sizes = (self.model_dim, self.hidden_dim, self.num_learners, self.min_learners, self.hidden_bytes)
        return Problem(math.prod(self.leading), *sizes, self.glu)


@dataclass
class QuantizedCase(Case):
    """One layer of the int8 operator, in the form that TensorRT gets."""

    operator: ClassVar[str] = "QuantizedGatedLearners"


@dataclass
class GluCase(Case):
    """One layer of a gated FFN."""

    operator: ClassVar[str] = "GLUGatedLearners"


@dataclass
class QuantizedGluCase(Case):
    """One layer of a gated FFN in int8, in the form that TensorRT gets."""

    operator: ClassVar[str] = "QuantizedGLUGatedLearners"


QUANTIZED_CASES = [
    QuantizedCase(leading=(1,)),
    QuantizedCase(leading=(16,), dtype="bfloat16", activation="silu"),
    QuantizedCase(leading=(2, 30), min_learners=1, dtype="float32"),
    QuantizedCase(leading=(197,), model_dim=768, hidden_dim=768),
    QuantizedCase(leading=(3, 400), model_dim=128, hidden_dim=256, activation="relu"),
    QuantizedCase(leading=(257,), num_learners=7),
    QuantizedCase(leading=(40,), num_learners=64, hidden_dim=16),
    QuantizedCase(leading=(300,), model_dim=65, hidden_dim=33),
    QuantizedCase(leading=(30,), model_dim=48, hidden_dim=80),
    QuantizedCase(leading=(500,), model_dim=1040, activation="identity"),
    QuantizedCase(leading=(9, 30_000), model_dim=16, hidden_dim=1024),  # several chunks
]

GLU_CASES = [
    GluCase(leading=(1,)),
    GluCase(leading=(16,), dtype="bfloat16", activation="silu"),
    GluCase(leading=(2, 30), min_learners=1, activation="gelu_tanh"),
    GluCase(leading=(197,), model_dim=768, hidden_dim=512),
    GluCase(leading=(3, 400), model_dim=128, hidden_dim=256, activation="relu"),
    GluCase(leading=(300,), model_dim=65, hidden_dim=33),
    GluCase(leading=(600,), model_dim=48, hidden_dim=80),
    GluCase(leading=(500,), dtype="float32", model_dim=1040, activation="identity"),
    GluCase(leading=(64,), dtype="float32", allow_tf32=True),
    GluCase(leading=(65,), dtype="float32", allow_tf32=True, num_learners=64),
    GluCase(leading=(9, 3000), model_dim=16, hidden_dim=1024),  # several chunks
    QuantizedGluCase(leading=(1,), activation="silu"),
    QuantizedGluCase(leading=(2, 30), min_learners=1, dtype="float32"),
    QuantizedGluCase(leading=(197,), model_dim=768, hidden_dim=768, dtype="bfloat16"),
    QuantizedGluCase(leading=(3, 400), model_dim=128, hidden_dim=256, activation="relu"),
    QuantizedGluCase(leading=(300,), model_dim=65, hidden_dim=33),
    QuantizedGluCase(leading=(9, 30_000), model_dim=16, hidden_dim=1024),  # several chunks
]


def c_tensor(dtype: str, shape: Sequence[int], *, linear: bool = True) -> CTensor:
    return CTensor(TYPES.index(dtype), int(not linear), len(shape), (c_int64 * 8)(*shape))
