"""What other tools do to files of acm-export, done by hand.

Seen in Polygraphy 0.53.6 (metadata, overloads in files of earlier versions, the budget input), and in onnxslim 0.1.98
and onnxsim 0.8.1 (equal initializers, the budget input).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import torch
from calibration_files import calibrated, write_images
from exported_files import images, session
from onnx import TensorProto, numpy_helper
from quantized_files import quantize_file
from tiny_models import tiny_vit

from acm_export.exporter import export
from acm_export.onnx_file.targets import gated_learners_nodes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIRST, LAST = "vit.layers.0.mlp", "vit.layers.1.mlp"


def write_originals(folder: Path) -> None:
    """Portable files of a small ViT: plain, calibrated, with a budget input, and int8."""
    torch.manual_seed(0)
    export(tiny_vit(), {"pixel_values": images(2)}, folder / "plain.onnx", verify=False)
    write_images(folder / "d.npz", 32)
    calibrated(folder / "plain.onnx", folder / "d.npz", folder / "calibrated.onnx")
    calibrated(folder / "plain.onnx", folder / "d.npz", folder / "input.onnx", budget_input=True)
    quantize_file(folder / "calibrated.onnx", folder / "int8.onnx", {"pixel_values": images(8)})


def drop_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def drop_bodies(model: onnx.ModelProto) -> None:
    """All but one."""
    del model.functions[1:]


def drop_overloads(model: onnx.ModelProto) -> None:
    """In a file of an earlier version, whose bodies had one name: all bodies but one are lost then."""
    for function in model.functions:
        function.name = function.name.partition("_")[0]
    for node in gated_learners_nodes(model):
        node.op_type = node.op_type.partition("_")[0]
    drop_bodies(model)


def merge_equal_constants(model: onnx.ModelProto) -> None:
    """Every reader of one of several equal initializers reads the first; one that nodes outside the layers read too."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    tensors = {
        t.name: first.setdefault((t.data_type, tuple(t.dims), numpy_helper.to_array(t).tobytes()), t.name)
        for t in model.graph.initializer
    }
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = tensors.get(name, name)
    kept = [t for t in model.graph.initializer if tensors[t.name] == t.name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def read_elsewhere(model: onnx.ModelProto) -> None:
    """A node outside the layers reads a constant that equals one of theirs: here it adds 0."""
    names = {t.name for t in model.graph.initializer}
    zero = "budget_input/zero" if "budget_input/zero" in names else f"{FIRST}.thresholds"
    (last,) = [node for node in model.graph.node if node.output[0] == "logits"]
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("ReduceMax", [zero], ["largest"], name="largest", keepdims=0))
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "largest"], ["logits"], name="logits"))


def fold_budget(model: onnx.ModelProto) -> None:
    """The default of the input becomes a constant, and the thresholds with it."""
    ours = [node for node in model.graph.node if node.name.startswith("budget_input/")]
    computed = [name for name in ours[-1].output if name]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for node in (*probe.graph.node,):
        if node not in ours:
            probe.graph.node.remove(node)
    for value in [value for value in probe.graph.input if value.name != "budget"]:
        probe.graph.input.remove(value)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in computed)
    del probe.functions[:]
    values = session(probe.SerializeToString()).run(computed, {})
    for node in ours:
        model.graph.node.remove(node)
    for item in [v for v in model.graph.input if v.name == "budget"]:
        model.graph.input.remove(item)
    for tensor in [t for t in model.graph.initializer if t.name.startswith("budget")]:
        model.graph.initializer.remove(tensor)
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in zip(values, computed, strict=True))


def input_as_constant(model: onnx.ModelProto) -> None:
    """The input goes, its default stays as a constant."""
    model.graph.input.remove(next(v for v in model.graph.input if v.name == "budget"))


def rename_nodes(model: onnx.ModelProto) -> None:
    for number, node in enumerate(gated_learners_nodes(model)):
        node.name = f"node_{number}"


def change(source: Path, target: Path, *changes: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(source)
    for one in changes:
        one(model)
    onnx.save(model, target)
    return target
