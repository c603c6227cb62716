"""Embedding tables in int8: one scale for each row, applied after the lookup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import TensorProto, helper

from acm_export.onnx_file.quantization.edit import attribute

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from acm_export.onnx_file.quantization.edit import GraphEdit
    from acm_export.onnx_file.quantization.view import GraphView

MIN_ROWS = 64
"""A smaller table is not worth two more nodes."""


@dataclass(frozen=True)
class QuantizedTable:
    """An embedding table in int8.

    Args:
        rows: int8 ``[rows, D]``.
        scale: float32 ``[rows, 1]``.
    """

    rows: NDArray[np.int8]
    scale: NDArray[np.float32]


def find_embeddings(view: GraphView) -> tuple[str, ...]:
    """Names of the tables that only Gather nodes read, by row."""
    tables = dict.fromkeys(node.input[0] for node in view.nodes if node.op_type == "Gather")
    return tuple(
        name
        for name in tables
        if view.is_float_weight(name, 2)
        and view.shape(name)[0] >= MIN_ROWS
        and name not in view.outputs
        and all(
            reader.op_type == "Gather"
            and reader.input[0] == name
            and name != reader.input[1]
            and not attribute(reader, "axis", 0)
            for reader in view.readers(name)
        )
    )


def rewrite_embedding(table: str, values: QuantizedTable, view: GraphView, edit: GraphEdit) -> None:
    """Look up int8 rows and their scales, and multiply them."""
    element = view.element_type(table)
    edit.replace_weight(table, values.rows)
    scale = edit.weight(f"{table}.scale", values.scale, element)
    for node in view.readers(table):
        output, ids = node.output[0], node.input[1]
        rows, row_scale = edit.fresh(f"{output}.int8"), edit.fresh(f"{output}.row_scale")
        floats = edit.fresh(f"{output}.rows")
        edit.replace(
            node,
            [
                helper.make_node("Gather", [table, ids], [rows], name=rows, axis=0),
                helper.make_node("Gather", [scale, ids], [row_scale], name=row_scale, axis=0),
                helper.make_node("Cast", [rows], [floats], name=floats, to=element),
                helper.make_node("Mul", [floats, row_scale], [output], name=node.name),
            ],
        )
        edit.describe(rows, like=output, element=TensorProto.INT8)
        edit.describe(floats, like=output)
        edit.describe(row_scale, like=output, last=1)
