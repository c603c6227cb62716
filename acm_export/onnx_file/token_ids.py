"""Find the embeddings of a graph, and check token ids against their sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from acm_export.data.batches import Arrays

_INTEGERS = (TensorProto.INT32, TensorProto.INT64)
_KEEP_VALUES = ("Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def embedding_sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Number of rows of the embedding that each integer input indexes.

    Args:
        model: Model whose weights need not be loaded.

    Returns:
        Rows of the smallest embedding, by input name; inputs that index no embedding are omitted.
    """
    rows = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) > 1}
    origin = {v.name: v.name for v in model.graph.input if v.type.tensor_type.elem_type in _INTEGERS}
    sizes: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in _KEEP_VALUES and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        if node.op_type != "Gather" or node.input[0] not in rows or node.input[1] not in origin:
            continue
        if not any(attribute.name == "axis" and attribute.i for attribute in node.attribute):
            name, size = origin[node.input[1]], rows[node.input[0]]
            sizes[name] = min(size, sizes.get(name, size))
    return sizes


def check_token_ids(sizes: Mapping[str, int], feeds: Arrays) -> None:
    """Check that every id selects a row of its embedding.

    Args:
        sizes: Rows of the embedding of each input, from :func:`embedding_sizes`.
        feeds: Arrays by input name.

    Raises:
        UsageError: An id is negative, or not smaller than the number of rows.
    """
    for name, size in sizes.items():
        ids = feeds.get(name)
        if ids is not None and ids.size and not 0 <= ids.min() <= ids.max() < size:
            raise UsageError(
                f"{name} has ids from {ids.min()} to {ids.max()}, but its embedding has {size} rows",
                f"ids must be in 0..{size - 1}; use the tokenizer of this checkpoint",
            )
