"""The budget as a graph input: the budget table, interpolated in standard operators.

The graph repeats the interpolation of ``budget_table`` operation by operation: hat functions of the knots from ``Sub``,
``Div``, ``Min`` and ``Max``; their products with the rows of the table, summed; the bound added; the result split into
the thresholds of each layer. Every operator is in opset 13. The cost is one pass over a few thousand numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from acm_export.base.errors import ModelFileError
from acm_export.onnx_file.budget_table import neighbours
from acm_export.onnx_file.model_file import remove_initializers, tensor_values
from acm_export.onnx_file.thresholds import bound_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    import onnx
    from numpy.typing import NDArray

    from acm_export.onnx_file.budget_table import BudgetTable
    from acm_export.onnx_file.manifest import Manifest

INPUT = "budget"
_PREFIX = "budget_input/"
_BOUND = f"{_PREFIX}bound"


def attach(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Make a graph compute its thresholds from an input ``budget``, a float32 scalar, in place.

    Args:
        model: Model with the initializers ``<layer>.thresholds``, which are removed.
        manifest: Manifest with a calibration. Its setting gives the bound and, in ``portable`` files, the default.

    Raises:
        ModelFileError: The model already has a value named ``budget``, or is not calibrated.
    """
    calibration, layers = manifest.calibration, manifest.layers
    if calibration is None:
        raise ModelFileError("the model is not calibrated: it has no table from budgets to thresholds")
    check_free(model)
    remove_initializers(model, {layer.thresholds for layer in layers})
    model.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, []))
    constants = table_constants(calibration.table, manifest)
    model.graph.initializer.extend(numpy_helper.from_array(v, _PREFIX + k) for k, v in constants.items())
    set_bound(model, manifest)
    nodes = _nodes([layer.thresholds for layer in layers])
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    fit_target(model, manifest)


def is_ours(name: str) -> bool:
    """Whether a node or value belongs to the budget input."""
    return name == INPUT or name.startswith(_PREFIX)


def check_free(model: onnx.ModelProto) -> None:
    """Check that no value of the model already has the name of the input.

    Raises:
        ModelFileError: The model already has a value named ``budget``.
    """
    values = [*model.graph.input, *model.graph.initializer]
    if INPUT in {value.name for value in values} | {name for node in model.graph.node for name in node.output}:
        raise ModelFileError(f"the model already has a value named {INPUT}", "calibrate it without --budget-input")


def detach(model: onnx.ModelProto, thresholds: Mapping[str, NDArray[np.float32]]) -> None:
    """Undo :func:`attach`, in place.

    Args:
        model: Model with a budget input.
        thresholds: Values of the new initializers, float32 ``[N]``, by layer.
    """
    nodes = [node for node in model.graph.node if not node.name.startswith(_PREFIX)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    inputs = [value for value in model.graph.input if value.name != INPUT]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    ours = {tensor.name for tensor in model.graph.initializer if tensor.name.startswith(_PREFIX)}
    remove_initializers(model, ours | {INPUT})
    model.graph.initializer.extend(
        numpy_helper.from_array(values, f"{name}.thresholds") for name, values in thresholds.items()
    )


def fit_target(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Set the default of the budget input in ``portable`` files, and remove it in others, in place.

    TensorRT's parser turns a graph input with an initializer into a constant.
    """
    if not manifest.budget_input:
        return
    remove_default(model)
    if manifest.target == "portable":
        default = np.array(manifest.setting.budget, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(default, INPUT))


def remove_default(model: onnx.ModelProto) -> None:
    """Make the budget a required input, in place."""
    remove_initializers(model, {INPUT})


def set_bound(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Write the learner bound of the manifest's setting, in place."""
    remove_initializers(model, {_BOUND})
    model.graph.initializer.append(numpy_helper.from_array(_bound(manifest), _BOUND))


def contradiction(model: onnx.ModelProto, manifest: Manifest, folder: Path) -> str | None:
    """How the budget input differs from the manifest, or None.

    Args:
        model: Model with a budget input.
        manifest: Manifest of the model.
        folder: Folder of the external data; another tool may have moved small tensors there.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    if INPUT not in {value.name for value in model.graph.input}:
        return f"the graph input {INPUT} is missing"
    if (INPUT in tensors) != (manifest.target == "portable"):
        return f"{INPUT} has {'a' if INPUT in tensors else 'no'} default in a file for the target {manifest.target}"
    computed = {name for node in model.graph.node if node.name.startswith(_PREFIX) for name in node.output}
    for layer in manifest.layers:
        if layer.thresholds not in computed:
            return f"{layer.thresholds} is not computed from {INPUT}"
    if manifest.calibration is None:
        return "there is no budget table"
    expected = {_PREFIX + k: v for k, v in table_constants(manifest.calibration.table, manifest).items()}
    expected |= {_BOUND: _bound(manifest)}
    for name, values in expected.items():
        if name not in tensors or not np.array_equal(tensor_values(tensors[name], folder), values):
            return f"{name} differs from the budget table"
    return None


def table_constants(table: BudgetTable, manifest: Manifest) -> dict[str, np.ndarray]:
    """Constants of the interpolation, by name."""
    knots = np.array(table.budgets, np.float32)
    below, above = neighbours(knots)
    rows = [np.array(table.thresholds[layer.name], np.float32) for layer in manifest.layers]
    return {
        "first": knots[0],
        "last": knots[-1],
        "below": below,
        "above": above,
        "rise": knots - below,
        "fall": above - knots,
        "zero": np.zeros((), np.float32),
        "rows": np.concatenate(rows, axis=1),
        "row_axis": np.array([1], np.int64),
        "knot_axis": np.array([0], np.int64),
        "sizes": np.array([layer.num_learners for layer in manifest.layers], np.int64),
    }


def _nodes(outputs: list[str]) -> list[onnx.NodeProto]:
    steps: tuple[tuple[str, list[str], list[str], dict[str, Any]], ...] = (
        ("Max", [INPUT, "first"], ["from_first"], {}),
        ("Min", ["from_first", "last"], ["clamped"], {}),
        ("Sub", ["clamped", "below"], ["past_below"], {}),
        ("Div", ["past_below", "rise"], ["rising"], {}),
        ("Sub", ["above", "clamped"], ["before_above"], {}),
        ("Div", ["before_above", "fall"], ["falling"], {}),
        ("Min", ["rising", "falling"], ["hats"], {}),
        ("Max", ["hats", "zero"], ["weights"], {}),
        ("Unsqueeze", ["weights", "row_axis"], ["column"], {}),
        ("Mul", ["column", "rows"], ["weighted"], {}),
        ("ReduceSum", ["weighted", "knot_axis"], ["interpolated"], {"keepdims": 0}),
        ("Add", ["interpolated", "bound"], ["bounded"], {}),
        ("Split", ["bounded", "sizes"], outputs, {"axis": 0}),
    )
    return [
        helper.make_node(
            kind,
            [name if name == INPUT else _PREFIX + name for name in inputs],
            results if results is outputs else [_PREFIX + name for name in results],
            name=f"{_PREFIX}{results[0] if results is not outputs else 'split'}",
            **attributes,
        )
        for kind, inputs, results, attributes in steps
    ]


def _bound(manifest: Manifest) -> NDArray[np.float32]:
    return np.concatenate([bound_of(layer, manifest.setting.max_learners) for layer in manifest.layers])
