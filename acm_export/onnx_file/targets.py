"""The targets of an export, and how to rewrite a file for another target without touching weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import helper

from acm_export.base.errors import ExportError
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.lowering import IR_VERSION as TENSORRT_8_IR_VERSION
from acm_export.onnx_file.lowering import OPSET as TENSORRT_8_OPSET
from acm_export.onnx_file.lowering import lower, normalizations_in_float32
from acm_export.onnx_file.lowering.pack_int8 import pack_int8, unpack_int8
from acm_export.onnx_file.slice_ends import bound_slice_ends
from acm_export.onnx_file.zero_points import fit_zero_points
from acm_export.op.body import portable_body
from acm_export.op.quantized_body import quantized_body
from acm_export.op.quantized_signature import QuantizedSignature, operator_of
from acm_export.op.schema import register
from acm_export.op.signature import DOMAIN, VERSION
from acm_export.plugins.identity import PLUGIN_NAMESPACE, PLUGIN_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx

    from acm_export.onnx_file.manifest import Manifest
    from acm_export.op.signature import Signature

TARGETS = {
    "portable": "op and function body: ONNX Runtime on any machine",
    "tensorrt": "op alone: TensorRT's parser and trtexec",
    "tensorrt-8": "op alone, in the operators of TensorRT 8's parser: TensorRT 8.5 and 8.6",
    "ort-tensorrt": "op in the domain trt.plugins: ONNX Runtime's TensorRT execution provider",
}
ORT_TENSORRT_DOMAIN = "trt.plugins"
IR_VERSION = 10
"""The newest that the ONNX parser of TensorRT 10.3 (JetPack 6.1 and 6.2) reads."""


def gated_learners_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes of the ACM layers of a file, float and int8, for any target."""
    return (node for node in model.graph.node if is_gated_learners(node))


def is_gated_learners(node: onnx.NodeProto) -> bool:
    """Whether a node is an ACM layer, float or int8, in a file for any target."""
    return operator_of(node.op_type) is not None and node.domain in (DOMAIN, ORT_TENSORRT_DOMAIN)


def signature_attributes(node: onnx.NodeProto) -> dict[str, str | int]:
    """Attributes of the node of an ACM layer by name, as in its signature; ``dynamic`` is 0 if the node has none."""
    return {"dynamic": 0} | {a.name: a.s.decode(errors="replace") if a.s else a.i for a in node.attribute}


def node_type(signature: Signature, target: str) -> str:
    """``op_type`` of a layer's node: in portable files the name of its body, elsewhere the operator."""
    return signature.function_name if target == "portable" else signature.operator


def rewrite_for(model: onnx.ModelProto, manifest: Manifest, target: str, *, folder: Path | None = None) -> Manifest:
    """Rewrite a model for a target, in place.

    Args:
        model: Model that acm-export wrote, for any target.
        manifest: Manifest of the model.
        target: One of :data:`TARGETS`.
        folder: Folder of the external data, which is read only if int8 weights or constants to rewrite are in it.

    Returns:
        The manifest with the new target. For tensorrt-8 the opset becomes 17; rewriting such a file for another target
        keeps opset 17 and the decomposed operators.

    Raises:
        ExportError: The target does not support something in the model; the model is unchanged.
    """
    register()
    if target != "portable" and (dynamic := [e.name for e in manifest.layers if e.activations == "dynamic"]):
        raise ExportError(
            f"layer {dynamic[0]} scales its activations at run time, which the TensorRT plugin does not support",
            f"for the target {target}, quantize the float file with static activations: acm-export quantize M.onnx "
            "--data D -o M8.onnx",
        )
    if target == "portable":
        convert_int8 = unpack_int8(model.graph, manifest.layers, folder)
    else:
        convert_int8 = pack_int8(model.graph, folder)
    if target == "tensorrt-8":
        manifest = _lowered(model, manifest, folder)
    elif target != "portable":
        normalizations_in_float32(model.graph)
    bound_slice_ends(model.graph)
    fit_zero_points(model, target)
    convert_int8()
    model.ir_version = TENSORRT_8_IR_VERSION if target == "tensorrt-8" else IR_VERSION
    domain = ORT_TENSORRT_DOMAIN if target == "ort-tensorrt" else DOMAIN
    signatures = {layer.name: layer.signature for layer in manifest.layers}
    for node in gated_learners_nodes(model):
        node.domain = domain
        node.op_type = node_type(signatures[node.name], target)
        for name, value in (("plugin_version", PLUGIN_VERSION), ("plugin_namespace", PLUGIN_NAMESPACE)):
            if not any(attribute.name == name for attribute in node.attribute):
                node.attribute.append(helper.make_attribute(name, value))
    kept = [f for f in model.functions if not _is_body(f)]
    del model.functions[:]
    model.functions.extend(kept)
    if target == "portable":
        bodies = {signature.function_name: signature for signature in signatures.values()}
        model.functions.extend(body_of(bodies[name], manifest.opset) for name in sorted(bodies))
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    opsets = {k: v for k, v in opsets.items() if k not in (DOMAIN, ORT_TENSORRT_DOMAIN)} | {"": manifest.opset}
    if signatures:
        opsets[domain] = VERSION
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(name, version) for name, version in opsets.items())
    manifest = manifest.replaced(target=target)
    budget_input.fit_target(model, manifest)
    return manifest


def body_of(signature: Signature, opset: int) -> onnx.FunctionProto:
    """The portable body of a layer, float or int8.

    Args:
        signature: Attributes of the layer's node.
        opset: Version of the default ONNX operator set that the model imports.
    """
    if isinstance(signature, QuantizedSignature):
        return quantized_body(signature, opset)
    return portable_body(signature, opset)


def _is_body(function: onnx.FunctionProto) -> bool:
    return function.domain == DOMAIN and operator_of(function.name) is not None


def _lowered(model: onnx.ModelProto, manifest: Manifest, folder: Path | None) -> Manifest:
    if manifest.dtype == "bf16":
        raise ExportError("the model is bf16, which TensorRT 8 does not support", "export it with --dtype fp16 or fp32")
    if foreign := [f.name for f in model.functions if not _is_body(f)]:
        raise ExportError(f"TensorRT 8 does not parse functions, but the model has {', '.join(foreign)}")
    lower(model.graph, manifest.opset, folder)
    return manifest.replaced(opset=TENSORRT_8_OPSET)
