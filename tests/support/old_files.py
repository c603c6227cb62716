"""Portable files with several signatures: in the form of earlier versions, and computed by a loop in float64."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import onnx
from engine_fake_runtime import GatedLearners
from onnx.reference import ReferenceEvaluator

from acm_export.modules import ACMSpec

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

SPECS = {
    "vit.layers.0.attention.o_proj": ACMSpec(12, 4, 3, 1, "identity"),
    "vit.layers.0.mlp": ACMSpec(12, 4, 6),
    "vit.layers.1.mlp": ACMSpec(12, 3, 6, activation="relu"),
}
NAMES = {
    "vit.layers.0.attention.o_proj": "GatedLearners_n4_min1_identity",
    "vit.layers.0.mlp": "GatedLearners_n4_min0_gelu",
    "vit.layers.1.mlp": "GatedLearners_n3_min0_relu",
}
"""Node and body of each layer of :data:`SPECS` in a portable file."""

_NAME = re.compile(r"((?:Quantized)?GatedLearners)_(n\d+_min\d+_\w+)")


def with_overloads(source: Path, target: Path) -> Path:
    """Copy a portable file in the old form: functions named after the operator, told apart by ``overload`` alone.

    Compared once with a file that the version before wrote from the same model: they were identical.
    """
    model = onnx.load(source)
    for function in model.functions:
        function.name, function.overload = _split(function.name)
    for node in model.graph.node:
        if node.domain == "ai.acm":
            node.op_type, node.overload = _split(node.op_type)
    onnx.save(model, target)
    return target


def loop_outputs(path: Path, feeds: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Outputs of a portable file of float layers, its bodies replaced by a loop over tokens and learners in float64."""
    model = onnx.load(path)
    del model.functions[:]
    for node in model.graph.node:
        if node.domain == "ai.acm":
            node.op_type, node.overload = node.op_type.partition("_")[0], ""
    outputs = ReferenceEvaluator(model, new_ops=[GatedLearners]).run(None, feeds)
    return dict(zip([value.name for value in model.graph.output], outputs, strict=True))


def _split(name: str) -> tuple[str, str]:
    found = _NAME.fullmatch(name)
    assert found is not None, name
    return found[1], found[2]
