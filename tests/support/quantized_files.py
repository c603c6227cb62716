"""Int8 files made from exported ones with the formulas of docs/op.md and scales from maxima."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from acm_export.onnx_file.manifest import read_manifest, write_manifest
from acm_export.onnx_file.quantization_record import Quantization
from acm_export.onnx_file.targets import gated_learners_nodes, rewrite_for
from acm_export.op import QUANTIZED_NAME
from acm_export.op.reference import activate
from acm_export.runtimes.onnx_runtime import CpuSession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from acm_export.onnx_file.manifest import LayerEntry

Arrays = dict[str, np.ndarray[Any, Any]]
LEVELS = 127


def quantize_file(
    source: Path,
    target: Path,
    feeds: Mapping[str, Any],
    *,
    dynamic: bool = False,
    keep: Sequence[str] = (),
    linears: bool = True,
) -> Path:
    """Write an int8 version of a portable file whose weights are inside.

    Args:
        source: Exported file.
        target: Path to write.
        feeds: Inputs whose activations set the scales.
        dynamic: Scale each token at run time instead.
        keep: Names of ACM layers that stay in float.
        linears: Whether the dense linear layers become int8 too.
    """
    model = onnx.load(source)
    manifest = read_manifest(model, source)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    dense = [n for n in model.graph.node if _is_linear(n, weights)] if linears else []
    layers = {layer.name: layer for layer in manifest.layers if layer.name not in keep}
    nodes = [n for n in gated_learners_nodes(model) if n.name in layers]
    seen = _record(model, source, [n.input[0] for n in (*nodes, *dense)], feeds)
    for node in nodes:
        floats = [weights[name] for name in node.input[3:]]
        values = int8_inputs(layers[node.name], seen[node.input[0]], floats, dynamic=dynamic)
        _replace(model, node, values, dynamic=dynamic)
    for node in dense:
        _explicit(model, node, weights[node.input[1]], seen[node.input[0]])
    mode = "dynamic" if dynamic else "static"
    names = tuple(node.input[1].removesuffix("/dequantized") for node in dense)
    data, samples = (None, 0) if dynamic else ("0" * 64, len(next(iter(feeds.values()))))
    quantization = Quantization(mode, 8, names, tuple(keep), (), 0.5, data, samples)
    entries = tuple(replace(e, activations=mode if e.name in layers else None) for e in manifest.layers)
    manifest = manifest.replaced(layers=entries, quantization=quantization)
    manifest = rewrite_for(model, manifest, manifest.target)
    write_manifest(model, manifest)
    _clean(model)
    onnx.save(model, target)
    return target


def _clean(model: onnx.ModelProto) -> None:
    """Remove unused initializers, and the types that the file has for initializers, which may be float."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    computed = {name for node in model.graph.node for name in node.output}
    types = [v for v in model.graph.value_info if v.name in computed]
    del model.graph.value_info[:]
    model.graph.value_info.extend(types)


def int8_inputs(layer: LayerEntry, x: np.ndarray[Any, Any], weights: Sequence[Any], *, dynamic: bool) -> Arrays:
    """The inputs 3 to 11 of the int8 operator for a layer with float weights w1, b1, w2, b2, by name."""
    w1, b1, w2, b2 = (np.asarray(w, np.float64) for w in weights)
    x = x.reshape(-1, layer.model_dim).astype(np.float64)
    learners, hidden = layer.num_learners, layer.hidden_dim
    migration = np.sqrt(np.maximum(np.abs(x).max(0), 1e-6))
    scale = 1.0 if dynamic else np.abs(x / migration).max() / LEVELS
    w1_int, s1 = _columns(w1 * (migration * scale)[:, None])
    h_mult, h_zero = np.ones(learners), np.zeros(learners)
    if not dynamic:
        active = activate(layer.activation, x @ w1 + b1).reshape(-1, learners, hidden)
        least, most = np.minimum(active.min((0, 2)), 0), np.maximum(active.max((0, 2)), 1e-6)
        h_mult = 255 / (most - least)
        h_zero = np.clip(np.rint(-128 - least * h_mult), -128, 127)
    h_mult = h_mult.astype(np.float32).astype(np.float64)
    w2_int, s2 = _columns(w2 / np.repeat(h_mult, hidden)[:, None])
    zeros = (h_zero[:, None] * w2_int.reshape(learners, hidden, -1).sum(1)).cumsum(0) * s2
    return {
        "x_mult": (1 / (migration * scale)).astype(np.float32),
        "w1": w1_int.astype(np.int8),
        "s1": s1.astype(np.float32),
        "b1": b1.astype(np.float32),
        "h_mult": h_mult.astype(np.float32),
        "h_zero": h_zero.astype(np.int8),
        "w2": w2_int.astype(np.int8),
        "s2": s2.astype(np.float32),
        "b2": (b2 - np.concatenate([np.zeros((1, b2.shape[1])), zeros])).astype(np.float32),
    }


def _columns(weight: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Integers in -127..127, and one scale per column."""
    scales = np.maximum(np.abs(weight).max(0), 1e-12) / LEVELS
    return np.rint(weight / scales), scales


def _is_linear(node: onnx.NodeProto, weights: Mapping[str, Any]) -> bool:
    return node.op_type == "MatMul" and node.input[1] in weights and ".gate." not in node.input[1]


def _record(model: onnx.ModelProto, path: Path, names: Sequence[str], feeds: Mapping[str, Any]) -> Arrays:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name: value for value in (*copy.graph.value_info, *copy.graph.output)}
    for name in dict.fromkeys(names):
        if name not in {value.name for value in (*copy.graph.output, *copy.graph.input)}:
            copy.graph.output.append(known[name])
    given = {name: np.asarray(value) for name, value in feeds.items()}
    return given | CpuSession(copy, path.parent).run(given)


def _replace(model: onnx.ModelProto, node: onnx.NodeProto, values: Arrays, *, dynamic: bool) -> None:
    """Turn a GatedLearners node into a QuantizedGatedLearners node."""
    names = {name: f"{node.name}.int8.{name}" for name in values}
    model.graph.initializer.extend(numpy_helper.from_array(values[name], names[name]) for name in values)
    kept = list(node.input[:3])
    del node.input[:]
    node.input.extend([*kept, *names.values()])
    node.op_type = QUANTIZED_NAME
    node.attribute.append(helper.make_attribute("dynamic", int(dynamic)))


def _explicit(model: onnx.ModelProto, node: onnx.NodeProto, weight: Any, x: np.ndarray[Any, Any]) -> None:
    """Put Q/DQ around the activations of a MatMul, and store its weight as int8 with a scale per column."""
    name, kind = node.input[1], weight.dtype
    integers, scales = _columns(weight.astype(np.float64))
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(integers.astype(np.int8), name))
    for suffix, value in {
        "scale": scales.astype(kind),
        "zero": np.zeros(scales.shape, np.int8),
        "x_scale": np.array(np.abs(x.astype(np.float64)).max() / LEVELS, kind),
        "x_zero": np.array(0, np.int8),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(value, f"{name}.{suffix}"))
    x_scale = [f"{name}.x_scale", f"{name}.x_zero"]
    quantized, dequantized, dense = f"{name}/x_q", f"{name}/x_dq", f"{name}/dequantized"
    steps = [
        helper.make_node("QuantizeLinear", [node.input[0], *x_scale], [quantized], name=quantized),
        helper.make_node("DequantizeLinear", [quantized, *x_scale], [dequantized], name=dequantized),
        helper.make_node("DequantizeLinear", [name, f"{name}.scale", f"{name}.zero"], [dense], name=dense, axis=1),
    ]
    node.input[0], node.input[1] = dequantized, dense
    position = next(i for i, other in enumerate(model.graph.node) if other is node or other.name == node.name)
    for offset, step in enumerate(steps):
        model.graph.node.insert(position + offset, step)
