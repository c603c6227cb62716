"""Files whose nodes or bodies are not what their manifest says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import pytest
from crafted_onnx import with_manifest
from old_files import NAMES
from onnx import helper

from acm_export.base.errors import ModelFileError
from acm_export.onnx_file.inspection import inspect
from acm_export.onnx_file.manifest import read_manifest, write_manifest
from acm_export.onnx_file.set_budget import set_budget
from acm_export.onnx_file.targets import rewrite_for
from acm_export.verification.file import verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MLP = "vit.layers.0.mlp"


def named(model: onnx.ModelProto, name: str) -> onnx.FunctionProto:
    return next(function for function in model.functions if function.name == name)


def rename_node(model: onnx.ModelProto, name: str) -> None:
    next(node for node in model.graph.node if node.name == MLP).op_type = name


def int8_name(model: onnx.ModelProto) -> None:
    body = named(model, "GatedLearners_n4_min0_gelu")
    body.name = "QuantizedGatedLearners_n4_min0_gelu_static"
    rename_node(model, body.name)


def foreign_body(model: onnx.ModelProto) -> None:
    body = named(model, NAMES[MLP])
    del body.node[:], body.input[1:]
    body.node.append(helper.make_node("Relu", ["x"], ["y"]))


def calling_body(model: onnx.ModelProto) -> None:
    named(model, NAMES[MLP]).node[0].domain = "somebody.else"


def two_bodies(model: onnx.ModelProto) -> None:
    model.functions.append(named(model, NAMES[MLP]))


def overloaded_twin(model: onnx.ModelProto) -> None:
    two_bodies(model)
    model.functions[-1].overload = "other"


def colliding_old_body(model: onnx.ModelProto) -> None:
    two_bodies(model)
    model.functions[-1].name, model.functions[-1].overload = "GatedLearners", "n4_min0_gelu"


HOSTILE: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "another signature": (
        lambda model: rename_node(model, "GatedLearners_n3_min1_gelu"),
        f"node {MLP} contradicts the manifest, which says GatedLearners_n4_min0_gelu with 7 inputs",
    ),
    "no signature": (
        lambda model: rename_node(model, "GatedLearners"),
        f"node {MLP} contradicts the manifest, which says GatedLearners_n4_min0_gelu with 7 inputs",
    ),
    "overload of a node": (
        lambda model: setattr(next(n for n in model.graph.node if n.name == MLP), "overload", "other"),
        f"node {MLP} contradicts the manifest",
    ),
    "int8 name": (int8_name, f"node {MLP} contradicts the manifest, which says GatedLearners_n4_min0_gelu"),
    "no body": (
        lambda model: model.functions.remove(named(model, NAMES[MLP])),
        f"layer {MLP} needs the function GatedLearners_n4_min0_gelu; the file has GatedLearners_n3_min0_relu, ",
    ),
    "no bodies": (lambda model: model.ClearField("functions"), "; the file has none"),
    "body under a wrong name": (
        lambda model: setattr(named(model, NAMES[MLP]), "name", "GatedLearners_n5_min0_gelu"),
        f"layer {MLP} needs the function GatedLearners_n4_min0_gelu; the file has .*GatedLearners_n5_min0_gelu",
    ),
    "two bodies": (two_bodies, "it has 2 functions named GatedLearners_n4_min0_gelu"),
    "two bodies with different overloads": (overloaded_twin, "it has 2 functions named GatedLearners_n4_min0_gelu"),
    "old and new body": (colliding_old_body, "it has 2 functions named GatedLearners_n4_min0_gelu"),
    "overload of a body": (
        lambda model: setattr(named(model, NAMES[MLP]), "overload", "other"),
        "the function GatedLearners_n4_min0_gelu has the overload 'other', which runtimes ignore",
    ),
    "body with other inputs": (
        foreign_body,
        "the function GatedLearners_n4_min0_gelu has the inputs x; expected x, gate_logits, thresholds",
    ),
    "body with other outputs": (
        lambda model: named(model, NAMES[MLP]).output.append("more"),
        "has the outputs y, counts, more; expected y, counts",
    ),
    "body with another attribute": (
        lambda model: named(model, NAMES[MLP]).attribute.append("path"),
        "the function GatedLearners_n4_min0_gelu has the unknown attribute path",
    ),
    "body that calls others": (calling_body, "the function GatedLearners_n4_min0_gelu calls somebody.else::"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_names_and_bodies_are_refused(case: str, mixed_files: Path, tmp_path: Path) -> None:
    change, message = HOSTILE[case]
    model = onnx.load(mixed_files / "m.onnx")
    change(model)
    onnx.save(model, tmp_path / "m.onnx")
    for verb in (
        inspect,
        lambda path: set_budget(path, threshold=0.0),
        lambda path: verify(path, mixed_files / "checkpoint"),
    ):
        with pytest.raises(ModelFileError, match=message):
            verb(tmp_path / "m.onnx")


def test_an_old_file_whose_overload_is_not_a_signature_is_refused(mixed_files: Path, tmp_path: Path) -> None:
    model = onnx.load(mixed_files / "old.onnx")
    for item in (*model.graph.node, *model.functions):
        if item.overload == "n4_min0_gelu":
            item.overload = "../gelu"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match=f"node {MLP} contradicts the manifest"):
        inspect(tmp_path / "m.onnx")


def test_a_manifest_with_another_signature_is_refused(mixed_files: Path, tmp_path: Path) -> None:
    def says_silu(content: dict[str, Any]) -> None:
        content["layers"][1]["activation"] = "silu"

    path = with_manifest(mixed_files / "m.onnx", tmp_path / "m.onnx", says_silu)
    with pytest.raises(ModelFileError, match="which says GatedLearners_n4_min0_silu with 7 inputs"):
        inspect(path)


def test_a_body_of_another_signature_under_our_name_fails_verification(mixed_files: Path, tmp_path: Path) -> None:
    """Its form is right, so only its numbers show it."""
    model = onnx.load(mixed_files / "m.onnx")
    body = named(model, NAMES[MLP])
    for node in body.node:
        if node.op_type == "Gelu":
            node.op_type = "Relu"
            del node.attribute[:]
    onnx.save(model, tmp_path / "m.onnx")
    report = verify(tmp_path / "m.onnx", mixed_files / "checkpoint")
    assert not report.passed
    assert "an output is off by" in str(report.failure)


def test_a_file_for_tensorrt_has_no_body(mixed_files: Path, tmp_path: Path) -> None:
    model = onnx.load(mixed_files / "m.onnx")
    bodies = list(model.functions)
    write_manifest(model, rewrite_for(model, read_manifest(model, "m"), "tensorrt"))
    model.functions.extend(bodies)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="has the function GatedLearners_n3_min0_relu, but a file for tensorrt"):
        inspect(tmp_path / "m.onnx")
