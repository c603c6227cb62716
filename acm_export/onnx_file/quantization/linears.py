"""Find the dense linear layers of a graph that can run in int8, and the tensors that they read.

A linear layer is a MatMul with a constant 2-D weight, and the Add of a constant bias if one follows. Attention reads
three of them from one tensor; they share that tensor's scale. Left in float: the gates of ACM layers (they decide the
routing), heads (their error goes straight into the outputs), and weights that other nodes read as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.onnx_file.targets import gated_learners_nodes
from acm_export.op.quantized_signature import MAX_SUM, operator_of

if TYPE_CHECKING:
    import onnx
    from onnx import NodeProto

    from acm_export.onnx_file.quantization.view import GraphView

MIN_WEIGHTS = 64 * 64
"""A smaller matrix gains nothing: quantising the activations takes about as long as its float product."""

_ENDS_A_HEAD = ("Conv", "Gemm", "InstanceNormalization", "LayerNormalization", "MatMul")
"""A linear layer is not a head if every path to an output passes one of these, an ACM layer, or an addition."""


@dataclass(frozen=True)
class DenseLinear:
    """A linear layer ``y = x W`` whose bias, if any, is added by the next node.

    Args:
        weight: Name of the weight, ``[in_features, out_features]``.
        x: Name of the input.
        product: Name of the product, before the bias.
        bias: Name of the bias, or None.
        in_features: Rows of the weight.
        out_features: Columns of the weight.
    """

    weight: str
    x: str
    product: str
    bias: str | None
    in_features: int
    out_features: int

    @property
    def module(self) -> str:
        """Name of the PyTorch module, as far as the weight's name has it."""
        return module_name(self.weight)


@dataclass(frozen=True)
class Kept:
    """Something that stays in float.

    Args:
        name: Name of an ACM layer, or of a weight.
        reason: Why it stays in float.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Norm:
    """A LayerNormalization whose result only int8 linear layers read, so that it can scale their channels.

    Args:
        weight: Name of its weight, ``[D]``, which no other node reads.
        bias: Name of its bias, or None.
    """

    weight: str
    bias: str | None


@dataclass(frozen=True)
class Site:
    """A tensor that is quantised once, and the linear layers that read it.

    Args:
        x: Name of the tensor, ``[..., D]``.
        linears: The linear layers.
        norm: Norm that computes the tensor and can be rescaled, or None.
    """

    x: str
    linears: tuple[DenseLinear, ...]
    norm: Norm | None


def module_name(weight: str) -> str:
    """The name of a weight without the suffixes that PyTorch and the exporter add."""
    return weight.removesuffix(".T").removesuffix(".weight")


def find_linears(model: onnx.ModelProto, view: GraphView) -> tuple[tuple[DenseLinear, ...], tuple[Kept, ...]]:
    """The linear layers that can run in int8, in the order of the graph, and those that stay in float.

    Args:
        model: Model to search.
        view: View of its graph.
    """
    gates = gate_nodes(model, view)
    found: list[DenseLinear] = []
    kept: list[Kept] = []
    for node in view.nodes:
        if (
            node.op_type not in ("Gemm", "MatMul")
            or node.output[0] in gates
            or not view.is_float_weight(node.input[1], 2)
        ):
            continue
        linear = _linear(node, view)
        if (reason := _reason_to_keep(node, linear, view)) is None:
            found.append(linear)
        else:
            kept.append(Kept(linear.weight, reason))
    return tuple(found), tuple(kept)


def sites(linears: tuple[DenseLinear, ...], view: GraphView) -> tuple[Site, ...]:
    """Group linear layers by the tensor that they read, in the order of the graph."""
    grouped: dict[str, list[DenseLinear]] = {}
    for linear in linears:
        grouped.setdefault(linear.x, []).append(linear)
    return tuple(Site(x, tuple(group), _norm(x, group, view)) for x, group in grouped.items())


def gate_nodes(model: onnx.ModelProto, view: GraphView) -> set[str]:
    """First output of each node whose results go to the gate logits of ACM layers and nowhere else."""
    logits = {node.input[1] for node in gated_learners_nodes(model)}
    gates: set[str] = set()
    for node in reversed(view.nodes):
        used = [name for name in node.output if view.readers(name) or name in view.outputs]
        if used and all(_only_for_gates(name, logits, gates, view) for name in used):
            gates.add(node.output[0])
    return gates


def _only_for_gates(value: str, logits: set[str], gates: set[str], view: GraphView) -> bool:
    if value in view.outputs:
        return False
    return all(
        reader.output[0] in gates or (value in logits and operator_of(reader.op_type) and value != reader.input[0])
        for reader in view.readers(value)
    )


def _linear(node: NodeProto, view: GraphView) -> DenseLinear:
    rows, columns = view.shape(node.input[1])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        rows, columns = (columns, rows) if transposed else (rows, columns)
        bias = node.input[2] if len(node.input) > 2 else None
        return DenseLinear(node.input[1], node.input[0], node.output[0], bias, rows, columns)
    readers = view.readers(node.output[0])
    bias = None
    if len(readers) == 1 and readers[0].op_type == "Add" and node.output[0] not in view.outputs:
        other = next((name for name in readers[0].input if name != node.output[0]), "")
        if view.is_float_weight(other, 1) and view.shape(other) == (columns,):
            bias = other
    return DenseLinear(node.input[1], node.input[0], node.output[0], bias, rows, columns)


def _reason_to_keep(node: NodeProto, linear: DenseLinear, view: GraphView) -> str | None:
    if is_head(node, view):
        return "it is a head"
    if linear.in_features * linear.out_features < MIN_WEIGHTS:
        return f"it has only {linear.in_features * linear.out_features} weights"
    if node.op_type == "Gemm" or (view.rank(linear.x) or 0) < 3:
        return "its input has 2 dimensions, where ONNX Runtime has no fast int8 product"
    if len(view.readers(linear.weight)) > 1 or linear.weight in view.outputs:
        return "other nodes read its weight too"
    if linear.in_features > MAX_SUM:
        return f"its {linear.in_features} inputs could overflow an int32 sum"
    return None


def is_head(node: NodeProto, view: GraphView) -> bool:
    """Whether a result of the node reaches an output of the graph without another layer, norm or residual."""
    pending = list(node.output)
    seen: set[str] = set()
    while pending:
        value = pending.pop()
        if value in view.outputs:
            return True
        seen.add(value)
        for reader in view.readers(value):
            pending += [name for name in reader.output if name not in seen and not _ends_a_head(reader, view)]
    return False


def _ends_a_head(node: NodeProto, view: GraphView) -> bool:
    residual = node.op_type == "Add" and not any(view.is_weight(name) for name in node.input)
    return residual or node.op_type in _ENDS_A_HEAD or operator_of(node.op_type) is not None


def _norm(x: str, linears: list[DenseLinear], view: GraphView) -> Norm | None:
    node = view.producer(x)
    products = {linear.product for linear in linears}
    readers = view.readers(x)
    if node is None or node.op_type != "LayerNormalization" or any(node.output[1:]) or x in view.outputs:
        return None
    if any(reader.op_type != "MatMul" or reader.output[0] not in products for reader in readers):
        return None
    names = [name for name in node.input[1:] if name]
    if not all(view.is_float_weight(name, 1) and len(view.readers(name)) == 1 for name in names):
        return None
    return Norm(names[0], names[1] if len(names) > 1 else None)
