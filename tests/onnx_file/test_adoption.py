"""``inspect --adopt``: files that lost their manifest, or more, to another tool.

Seen in Polygraphy 0.53.6 (metadata, overloads in files of earlier versions, the budget input), and in onnxslim 0.1.98
and onnxsim 0.8.1 (equal initializers, the budget input); here their changes are made by hand.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from calibration_files import calibrated, write_images
from click.testing import CliRunner
from exported_files import images, names, session
from onnx import TensorProto, inliner, numpy_helper
from quantized_files import quantize_file
from tiny_models import tiny_vit

from acm_export.base.errors import ModelFileError, UsageError
from acm_export.cli import main
from acm_export.engine.prepare import prepare
from acm_export.engine.release import Release
from acm_export.exporter import export
from acm_export.onnx_file.inspection import inspect
from acm_export.onnx_file.retarget import retarget
from acm_export.onnx_file.set_budget import set_budget
from acm_export.onnx_file.targets import TARGETS, gated_learners_nodes
from acm_export.runtimes.runnable import runnable_copy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIRST, LAST = "vit.layers.0.mlp", "vit.layers.1.mlp"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    export(tiny_vit(), {"pixel_values": images(2)}, folder / "plain.onnx", verify=False)
    write_images(folder / "d.npz", 32)
    calibrated(folder / "plain.onnx", folder / "d.npz", folder / "calibrated.onnx")
    calibrated(folder / "plain.onnx", folder / "d.npz", folder / "input.onnx", budget_input=True)
    quantize_file(folder / "calibrated.onnx", folder / "int8.onnx", {"pixel_values": images(8)})
    return folder


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


def run(path: Path, budget: float | None = None) -> Any:
    feeds = {"pixel_values": images(3).numpy()} | ({"budget": np.array(budget, np.float32)} if budget else {})
    return session(path).run(None, feeds)[0]


CASES = {
    "metadata": ("calibrated", [drop_metadata]),
    "overloads": ("calibrated", [drop_metadata, drop_overloads]),
    "equal constants": ("plain", [merge_equal_constants]),
    "constants of others": ("plain", [read_elsewhere]),
    "input, constants of others": ("input", [read_elsewhere]),
    "names": ("calibrated", [drop_metadata, rename_nodes]),
    "int8": ("int8", [drop_metadata, drop_bodies, merge_equal_constants]),
    "input, constants": ("input", [merge_equal_constants]),
    "input, folded": ("input", [fold_budget]),
    "input as a constant": ("input", [drop_metadata, drop_bodies, input_as_constant]),
}


@pytest.mark.parametrize("kind", ["onnx", "json", "manifest"])
@pytest.mark.parametrize("case", CASES)
def test_a_changed_file_is_the_original_again(case: str, kind: str, files: Path, tmp_path: Path) -> None:
    name, changes = CASES[case]
    original = files / f"{name}.onnx"
    source = original if kind == "onnx" else tmp_path / "m.json"
    before = inspect(original)
    if kind != "onnx":
        content = before.to_json()
        source.write_text(json.dumps(content if kind == "json" else content["manifest"]))
    changed = change(original, tmp_path / "changed.onnx", *changes)
    fixed = tmp_path / "fixed.onnx"
    assert inspect(changed, adopt=source, output=fixed) == inspect(fixed)
    after = inspect(fixed)
    assert (after.manifest, after.thresholds) == (before.manifest, before.thresholds)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    for budget in (0.4, 0.8) if name == "input" else (None,):
        np.testing.assert_array_equal(run(fixed, budget), run(original, budget))
    set_budget(fixed, max_learners=2, output=tmp_path / "set.onnx")
    set_budget(original, max_learners=2, output=tmp_path / "expected.onnx")
    np.testing.assert_array_equal(run(tmp_path / "set.onnx"), run(tmp_path / "expected.onnx"))
    copy, _ = runnable_copy(onnx.load(fixed), after.manifest)  # as verify runs it: without the budget input
    assert set(before.thresholds) <= {v.name.removesuffix(".thresholds") for v in copy.graph.input}
    session(copy.SerializeToString())
    for version in ((8, 5), (10, 3)):
        assert prepare(fixed, Release(version)).manifest.layers == before.manifest.layers


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "portable"])
@pytest.mark.parametrize("name", ["calibrated", "input", "int8"])
def test_files_for_every_target_get_their_manifest_back(target: str, name: str, files: Path, tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    retarget(files / f"{name}.onnx", source, target=target)
    changed = change(source, tmp_path / "changed.onnx", drop_metadata, merge_equal_constants)
    after = inspect(changed, adopt=source, output=changed)
    assert after.manifest == inspect(source).manifest
    retarget(changed, tmp_path / "portable.onnx", target="portable")
    retarget(source, tmp_path / "expected.onnx", target="portable")
    np.testing.assert_array_equal(run(tmp_path / "portable.onnx"), run(tmp_path / "expected.onnx"))


def test_a_file_without_its_manifest_names_the_command(files: Path, tmp_path: Path) -> None:
    changed = change(files / "plain.onnx", tmp_path / "x.onnx", drop_metadata)
    with pytest.raises(ModelFileError, match="dropped it") as caught:
        inspect(changed)
    assert f"inspect {changed} --adopt" in str(caught.value.hint)


def inline(model: onnx.ModelProto) -> None:
    model.CopyFrom(inliner.inline_local_functions(model))


def node_of(model: onnx.ModelProto, layer: str) -> onnx.NodeProto:
    return next(node for node in gated_learners_nodes(model) if node.name == layer)


def other_attribute(model: onnx.ModelProto) -> None:
    next(a for a in node_of(model, FIRST).attribute if a.name == "min_learners").i = 1


def other_weight(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == node_of(model, FIRST).input[3])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))


def half_weight(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == node_of(model, FIRST).input[3])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


def other_thresholds(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == f"{LAST}.thresholds")
    tensor.CopyFrom(numpy_helper.from_array(np.full(4, 7, np.float32), tensor.name))


def fewer_layers(model: onnx.ModelProto) -> None:
    node_of(model, LAST).domain = "somebody.else"


def other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "x"


def fold_other_budget(model: onnx.ModelProto) -> None:
    fold_budget(model)
    other_thresholds(model)


def nameless_budget(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = node.name.replace("budget_input/", "n_")


MISFITS = {
    "inlined": ("plain", inline, "has no ACM nodes.*inlines"),
    "attribute": ("plain", other_attribute, f"min_learners of layer {FIRST} is 1; the manifest says 0"),
    "weight": ("plain", other_weight, f"layer {FIRST} has other values"),
    "type": ("plain", half_weight, r"w1 of layer .* is float16 \[12, 24\]; the manifest says float "),
    "thresholds": ("calibrated", other_thresholds, "the manifest says"),
    "layers": ("plain", fewer_layers, f"no ACM node has the name {LAST}"),
    "input": ("plain", other_input, "the manifest has the input pixel_values, the file has x"),
    "another budget": ("input", fold_other_budget, "folded the budget input"),
    "renamed budget": ("input", nameless_budget, "computed by nodes that are not those of the budget input"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_file_that_does_not_fit_is_refused_with_the_reason(case: str, files: Path, tmp_path: Path) -> None:
    name, edit, reason = MISFITS[case]
    changed = change(files / f"{name}.onnx", tmp_path / "x.onnx", edit)
    with pytest.raises(ModelFileError, match=reason) as caught:
        inspect(changed, adopt=files / f"{name}.onnx", output=tmp_path / "fixed.onnx")
    assert caught.value.hint or case == "another budget"
    assert names(tmp_path) == ["x.onnx"]


def test_another_model_is_refused(files: Path, tmp_path: Path) -> None:
    export(tiny_vit({}), {"pixel_values": images(2)}, tmp_path / "dense.onnx", verify=False)
    with pytest.raises(ModelFileError, match="ACM nodes"):
        inspect(files / "plain.onnx", adopt=tmp_path / "dense.onnx", output=tmp_path / "x.onnx")
    with pytest.raises(ModelFileError, match="no ACM nodes"):
        inspect(tmp_path / "dense.onnx", adopt=files / "plain.onnx", output=tmp_path / "x.onnx")


def test_wrong_calls(files: Path, tmp_path: Path) -> None:
    model, output = files / "plain.onnx", tmp_path / "x.onnx"
    for options in ({"adopt": model}, {"output": output}):
        with pytest.raises(UsageError, match=r"--adopt needs -o|-o needs --adopt"):
            inspect(model, **options)
    with pytest.raises(UsageError, match="there is no file"):
        inspect(model, adopt=tmp_path / "missing.json", output=output)
    (tmp_path / "text.json").write_text("nothing")
    (tmp_path / "other.json").write_text("{}")
    for name, reason in (("text.json", "not a manifest"), ("other.json", "no list of layers")):
        with pytest.raises(ModelFileError, match=reason):
            inspect(model, adopt=tmp_path / name, output=output)
    assert not output.exists()


def test_the_command_writes_the_file(files: Path, tmp_path: Path) -> None:
    changed = change(files / "calibrated.onnx", tmp_path / "x.onnx", drop_metadata)
    printed = CliRunner().invoke(main, ["inspect", str(files / "calibrated.onnx"), "--json"])
    (tmp_path / "m.json").write_text(printed.stdout)
    arguments = ["inspect", str(changed), "--adopt", str(tmp_path / "m.json"), "-o", str(tmp_path / "fixed.onnx")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert inspect(tmp_path / "fixed.onnx").manifest == inspect(files / "calibrated.onnx").manifest
