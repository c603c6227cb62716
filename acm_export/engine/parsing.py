"""The parser's errors, one line for each node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from acm_export.base.errors import EngineError

if TYPE_CHECKING:
    import onnx

_SHOWN = 10


def parse(parser: Any, model: onnx.ModelProto, path: str) -> None:
    """Parse a model.

    Args:
        parser: TensorRT's.
        model: Prepared for it.
        path: Of the file that the model was read from, beside which external data lie.

    Raises:
        EngineError: The parser refuses it; says for each node what and why.
    """
    if parser.parse(model.SerializeToString(), path):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [explain(error, model) for error in errors[:_SHOWN]]
    more = [f"and {len(errors) - _SHOWN} more"] if len(errors) > _SHOWN else []
    raise EngineError(
        f"TensorRT's parser refuses {path}:\n" + "\n".join([*lines, *more] or ["it does not say why"]),
        "acm-export doctor --for tensorrt says whether TensorRT and the plugin fit; the operators of a file: "
        f"acm-export inspect {path}",
    )


def explain(error: Any, model: onnx.ModelProto) -> str:
    """One error in words: which node of the file, which operator, and what the parser says.

    Args:
        error: TensorRT's ``ParserError``; before TensorRT 10 it has the number of the node alone.
        model: That was parsed.
    """
    number, nodes = error.node(), model.graph.node
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    if 0 <= number < len(nodes) and not (name and operator):
        name, operator = name or nodes[number].name, operator or nodes[number].op_type
    where = f"node {number} {name} ({operator})" if operator else "the file"
    return f"  {where}: {error.desc().strip()} [{error.code()}]"
