"""``inspect --adopt`` refuses files that do not fit the manifest, and names the reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from crafted_onnx import with_manifest, with_tensor
from exported_files import images, names
from onnx import inliner, numpy_helper
from tiny_models import tiny_vit
from tool_changes import (
    FIRST,
    LAST,
    change,
    drop_metadata,
    fold_budget,
)

from acm_export.base.errors import ModelFileError, UsageError
from acm_export.exporter import export
from acm_export.onnx_file.inspection import inspect
from acm_export.onnx_file.manifest import AVOID_INLINING
from acm_export.onnx_file.original import GIVE
from acm_export.onnx_file.targets import gated_learners_nodes

if TYPE_CHECKING:
    from pathlib import Path


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


def computed_thresholds(model: onnx.ModelProto) -> None:
    name = f"{FIRST}.thresholds"
    model.graph.node.insert(0, onnx.helper.make_node("Identity", [name], ["copy"], name="copy"))
    node_of(model, FIRST).input[2] = "copy"


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
    "thresholds": (
        "calibrated",
        other_thresholds,
        f"thresholds of layer {LAST} are .*7.*those of calibrated.onnx are ",
    ),
    "computed thresholds": ("plain", computed_thresholds, f"thresholds of layer {FIRST} are not an initializer"),
    "layers": ("plain", fewer_layers, f"no ACM node has the name {LAST}"),
    "input": ("plain", other_input, "the manifest has the input pixel_values, the file has x"),
    "another budget": ("input", fold_other_budget, "folded the budget input"),
    "renamed budget": ("input", nameless_budget, "computed by nodes that are not those of the budget input"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_file_that_does_not_fit_is_refused_with_the_reason(case: str, originals: Path, tmp_path: Path) -> None:
    name, edit, reason = MISFITS[case]
    changed = change(originals / f"{name}.onnx", tmp_path / "x.onnx", edit)
    with pytest.raises(ModelFileError, match=reason) as caught:
        inspect(changed, adopt=originals / f"{name}.onnx", output=tmp_path / "fixed.onnx")
    assert caught.value.hint == (AVOID_INLINING if case == "inlined" else GIVE)
    assert names(tmp_path) == ["x.onnx"]


def test_another_model_is_refused(originals: Path, tmp_path: Path) -> None:
    export(tiny_vit({}), {"pixel_values": images(2)}, tmp_path / "dense.onnx", verify=False)
    with pytest.raises(ModelFileError, match="ACM nodes"):
        inspect(originals / "plain.onnx", adopt=tmp_path / "dense.onnx", output=tmp_path / "x.onnx")
    with pytest.raises(ModelFileError, match="no ACM nodes"):
        inspect(tmp_path / "dense.onnx", adopt=originals / "plain.onnx", output=tmp_path / "x.onnx")


def test_wrong_calls(originals: Path, tmp_path: Path) -> None:
    model, output = originals / "plain.onnx", tmp_path / "x.onnx"
    for options in ({"adopt": model}, {"output": output}):
        with pytest.raises(UsageError, match=r"--adopt needs -o|-o needs --adopt"):
            inspect(model, **options)
    with pytest.raises(UsageError, match="there is no file"):
        inspect(model, adopt=tmp_path / "missing.json", output=output)
    (tmp_path / "text.json").write_text("nothing")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "broken.json").write_text(json.dumps(inspect(model).manifest.to_json() | {"layers": 3}))
    for name, reason in (("text", "not a manifest"), ("other", "no list of layers"), ("broken", "is broken: ")):
        with pytest.raises(ModelFileError, match=reason) as caught:
            inspect(model, adopt=tmp_path / f"{name}.json", output=output)
        assert caught.value.hint == GIVE
    assert not output.exists()


def test_the_original_is_not_replaced(originals: Path, tmp_path: Path) -> None:
    original = tmp_path / "m.onnx"
    original.write_bytes(content := (originals / "plain.onnx").read_bytes())
    (tmp_path / "link.onnx").symlink_to(original)
    changed = change(original, tmp_path / "x.onnx", drop_metadata)
    for output in (original, tmp_path / "link.onnx"):
        with pytest.raises(UsageError, match="would be replaced"):
            inspect(changed, adopt=original, output=output)
    assert original.read_bytes() == content


def own_thresholds(source: Path, target: Path) -> Path:
    """A copy in which each learner has its own threshold, which the setting does not determine."""
    with_manifest(source, target, lambda content: content["setting"].update(threshold=None))
    values = np.array([0, 1, 2, np.inf], np.float32)
    for layer in (FIRST, LAST):
        name = f"{layer}.thresholds"
        with_tensor(target, target, name, lambda tensor: tensor.CopyFrom(numpy_helper.from_array(values, tensor.name)))
    return target


@pytest.mark.parametrize("kind", ["onnx", "json"])
def test_thresholds_that_no_setting_determines_are_compared(kind: str, originals: Path, tmp_path: Path) -> None:
    original = own_thresholds(originals / "plain.onnx", tmp_path / "m.onnx")
    source = original if kind == "onnx" else tmp_path / "m.json"
    if kind == "json":
        source.write_text(json.dumps(inspect(original).to_json()))
    same = change(original, tmp_path / "same.onnx", drop_metadata)
    assert inspect(same, adopt=source, output=same) == inspect(original)
    other = change(original, tmp_path / "other.onnx", drop_metadata, other_thresholds)
    with pytest.raises(ModelFileError, match=rf"{LAST} are \[7.*those of {source.name} are \[0.0, 1.0, 2.0, inf\]"):
        inspect(other, adopt=source, output=tmp_path / "x.onnx")


@pytest.mark.parametrize("thresholds", [None, {}, {FIRST: [0, 1, 2, 3], LAST: ["a", 1, 2, 3]}, {FIRST: [0]}, [1]])
def test_thresholds_that_nothing_gives_are_refused(thresholds: object, originals: Path, tmp_path: Path) -> None:
    original = own_thresholds(originals / "plain.onnx", tmp_path / "m.onnx")
    content = inspect(original).to_json()
    content = content["manifest"] if thresholds is None else content | {"thresholds": thresholds}
    (tmp_path / "m.json").write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match=r"its own threshold, .* not have those of layer vit") as caught:
        inspect(original, adopt=tmp_path / "m.json", output=tmp_path / "x.onnx")
    assert caught.value.hint == GIVE
