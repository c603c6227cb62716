"""The targets of an export, and turning a file for one into a file for another: a rewrite of the graph alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import helper

from acm_export.op.body import portable_body
from acm_export.op.schema import register
from acm_export.op.signature import DOMAIN, NAME, VERSION
from acm_export.plugins.identity import PLUGIN_NAMESPACE, PLUGIN_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from acm_export.manifest import Manifest

TARGETS = {
    "portable": "op and function body: ONNX Runtime on any machine",
    "tensorrt": "op alone: TensorRT's parser and trtexec",
    "ort-tensorrt": "op in the domain trt.plugins: ONNX Runtime's TensorRT execution provider",
}
ORT_TENSORRT_DOMAIN = "trt.plugins"


def gated_learners_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The GatedLearners nodes of a file for any target."""
    for node in model.graph.node:
        if node.op_type == NAME and node.domain in (DOMAIN, ORT_TENSORRT_DOMAIN):
            yield node


def retarget(model: onnx.ModelProto, manifest: Manifest, target: str) -> Manifest:
    """Rewrite a model for a target, in place.

    Args:
        model: A model that acm-export wrote, for any target.
        manifest: Its manifest.
        target: One of :data:`TARGETS`.

    Returns:
        The manifest with the new target.
    """
    register()
    domain = ORT_TENSORRT_DOMAIN if target == "ort-tensorrt" else DOMAIN
    signatures = {layer.name: layer.signature for layer in manifest.layers}
    for node in gated_learners_nodes(model):
        node.domain = domain
        node.overload = signatures[node.name].overload if target == "portable" else ""
        for name, value in (("plugin_version", PLUGIN_VERSION), ("plugin_namespace", PLUGIN_NAMESPACE)):
            if not any(attribute.name == name for attribute in node.attribute):
                node.attribute.append(helper.make_attribute(name, value))
    kept = [f for f in model.functions if (f.domain, f.name) != (DOMAIN, NAME)]
    del model.functions[:]
    model.functions.extend(kept)
    if target == "portable":
        bodies = {signature.overload: signature for signature in signatures.values()}
        model.functions.extend(portable_body(bodies[name], manifest.opset) for name in sorted(bodies))
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    opsets = {k: v for k, v in opsets.items() if k not in (DOMAIN, ORT_TENSORRT_DOMAIN)}
    if signatures:
        opsets[domain] = VERSION
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(name, version) for name, version in opsets.items())
    return manifest.replaced(target=target)
