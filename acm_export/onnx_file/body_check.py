"""Check the portable bodies of a graph against the manifest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from acm_export.op.body import ATTRIBUTES
from acm_export.op.quantized_signature import QuantizedSignature, operator_of
from acm_export.op.signature import DOMAIN, OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from acm_export.onnx_file.manifest import Manifest
    from acm_export.op.signature import Signature


def body_contradiction(model: onnx.ModelProto, manifest: Manifest) -> str | None:
    """How the portable bodies of a model differ from what the manifest says, as a sentence, or None.

    What a body computes is not checked here: ``verify`` compares it with the checkpoint.

    Args:
        model: Model with a node for each layer of the manifest, named after its body.
        manifest: Manifest of the model.
    """
    return next(_contradictions(model, manifest), None)


def _contradictions(model: onnx.ModelProto, manifest: Manifest) -> Iterator[str]:
    bodies = [f for f in model.functions if f.domain == DOMAIN and operator_of(f.name)]
    if manifest.target != "portable":
        if bodies:
            yield f"it has the function {bodies[0].name}, but a file for {manifest.target} has none"
        return
    for name, times in Counter(body.name for body in bodies).items():
        if times > 1:
            yield f"it has {times} functions named {name}, and runtimes choose by name"
    by_name = {body.name: body for body in bodies}
    for layer in manifest.layers:
        if (body := by_name.get(layer.signature.function_name)) is None:
            names = ", ".join(by_name) or "none"
            yield f"layer {layer.name} needs the function {layer.signature.function_name}; the file has {names}"
            return
        yield from _body_contradictions(body, layer.signature)


def _body_contradictions(body: onnx.FunctionProto, signature: Signature) -> Iterator[str]:
    quantized = isinstance(signature, QuantizedSignature)
    attributes = {*ATTRIBUTES, "dynamic"} if quantized else {*ATTRIBUTES}
    if body.overload:
        yield f"the function {body.name} has the overload {body.overload!r}, which runtimes ignore"
    for what, found, expected in (("inputs", body.input, signature.inputs), ("outputs", body.output, OUTPUTS)):
        if tuple(found) != expected:
            yield f"the function {body.name} has the {what} {', '.join(found)}; expected {', '.join(expected)}"
    if unknown := sorted({*body.attribute, *(a.name for a in body.attribute_proto)} - attributes):
        yield f"the function {body.name} has the unknown attribute {unknown[0]}"
    if foreign := [node for node in body.node if node.domain not in ("", "ai.onnx")]:
        yield (
            f"the function {body.name} calls {foreign[0].domain}::{foreign[0].op_type}; a portable body has standard "
            "operators only"
        )
