"""Files whose layers have different signatures: names of the bodies, and files of earlier versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from calibration_files import calibrated
from exported_files import images, run
from old_files import NAMES, loop_outputs, with_overloads
from onnx import helper

from acm_export.onnx_file.inspection import inspect
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.retarget import retarget
from acm_export.onnx_file.set_budget import set_budget
from acm_export.onnx_file.targets import rewrite_for
from acm_export.quantization.quantize import quantize
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.timing.latency import latency
from acm_export.verification.file import verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INT8_NAMES = {layer: f"Quantized{name}_static" for layer, name in NAMES.items()}


def names(model: onnx.ModelProto) -> dict[str, str]:
    """Operator of each ACM node; also checks that each has exactly one function, and that nothing has an overload."""
    ours = {node.name: node.op_type for node in model.graph.node if node.domain == "ai.acm"}
    assert sorted(function.name for function in model.functions) == sorted(set(ours.values()))
    assert not any(item.HasField("overload") for item in (*model.graph.node, *model.functions))
    return ours


def assert_computes_as_the_loop(path: Path) -> None:
    feeds = {"pixel_values": images(3).numpy()}
    expected = loop_outputs(path, feeds)
    assert len({int(count) for name, counts in expected.items() if "counts" in name for count in counts.flat}) > 2
    for name, values in run(path, pixel_values=images(3)).items():
        if name.startswith("counts/"):
            np.testing.assert_array_equal(values, expected[name])
        else:
            np.testing.assert_allclose(values, expected[name], atol=1e-5)


def test_every_signature_has_its_own_name_and_computes_what_a_float64_loop_computes(
    mixed_files: Path,
) -> None:
    model = onnx.load(mixed_files / "m.onnx")
    assert names(model) == NAMES
    assert model.ir_version == 10
    onnx.checker.check_model(model, full_check=True)
    assert_computes_as_the_loop(mixed_files / "m.onnx")


@pytest.mark.parametrize("strict", [{}, {"check_type": True, "strict_mode": True, "data_prop": True}])
def test_shape_inference_goes_through_the_bodies(mixed_files: Path, strict: dict[str, bool]) -> None:
    model = onnx.load(mixed_files / "m.onnx")
    del model.graph.value_info[:]
    found = {value.name: value.type for value in onnx.shape_inference.infer_shapes(model, **strict).graph.value_info}
    for layer in NAMES:
        y = found[f"{layer}.y"].tensor_type
        assert y.elem_type == onnx.TensorProto.FLOAT
        assert len(y.shape.dim) == 3
        assert y.shape.dim[2].dim_value == 12


def test_an_old_file_is_read_with_unique_names(mixed_files: Path) -> None:
    old = onnx.load(mixed_files / "old.onnx")
    assert len({function.name for function in old.functions}) == 1
    assert len({function.overload for function in old.functions}) == 3
    assert read_model(mixed_files / "old.onnx") == onnx.load(mixed_files / "m.onnx")


def test_an_old_file_runs_in_every_runtime(mixed_files: Path) -> None:
    session = CpuSession(read_model(mixed_files / "old.onnx"), mixed_files)
    expected = loop_outputs(mixed_files / "old.onnx", {"pixel_values": images(3).numpy()})
    for name, values in session.run({"pixel_values": images(3).numpy()}).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5)


def test_verbs_that_read_or_run_take_old_files(mixed_files: Path) -> None:
    assert inspect(mixed_files / "old.onnx") == inspect(mixed_files / "m.onnx")
    assert verify(mixed_files / "old.onnx", mixed_files / "checkpoint").passed
    result = latency(mixed_files / "old.onnx", runs=3, warm_up=0)
    assert {run.routing for run in result.runs} >= {"data", "least", "most"}


def test_a_file_by_another_tool_keeps_its_overloads(mixed_files: Path, tmp_path: Path) -> None:
    model = onnx.load(mixed_files / "m.onnx")
    opset = [helper.make_opsetid("", 20)]
    relu = helper.make_node("Relu", ["a"], ["b"])
    theirs = helper.make_function("ours.not", "GatedLearners", ["a"], ["b"], [relu], opset, overload="n3_min0_relu")
    model.functions.append(theirs)
    model.opset_import.append(helper.make_opsetid("ours.not", 1))
    model.graph.node.append(
        helper.make_node("GatedLearners", ["logits"], ["more"], domain="ours.not", overload="n3_min0_relu")
    )
    onnx.save(model, tmp_path / "m.onnx")
    assert read_model(tmp_path / "m.onnx") == model


WRITERS: dict[str, Callable[[Path, Path, Path], object]] = {
    "set-budget": lambda source, output, _: set_budget(source, threshold=0.0, output=output),
    "calibrate": lambda source, output, data: calibrated(source, data, output),
    "calibrate --budget-input": lambda source, output, data: calibrated(source, data, output, budget_input=True),
}


@pytest.mark.parametrize("verb", WRITERS)
def test_verbs_that_write_a_file_give_an_old_one_unique_names(verb: str, mixed_files: Path, tmp_path: Path) -> None:
    for source in ("old", "m"):
        WRITERS[verb](mixed_files / f"{source}.onnx", tmp_path / f"{source}.onnx", mixed_files / "data.npz")
    written = onnx.load(tmp_path / "old.onnx")
    assert names(written) == NAMES
    assert (written.graph, written.functions) == tuple(
        getattr(onnx.load(tmp_path / "m.onnx"), field) for field in ("graph", "functions")
    )


def test_retarget_renames_an_old_file_in_place_and_keeps_its_setting(mixed_files: Path, tmp_path: Path) -> None:
    """The command that docs/op.md gives."""
    calibrated(mixed_files / "m.onnx", mixed_files / "data.npz", tmp_path / "new.onnx")
    set_budget(tmp_path / "new.onnx", 0.6, max_learners=3)
    old = with_overloads(tmp_path / "new.onnx", tmp_path / "old.onnx")
    retarget(old, old, target="portable")
    assert onnx.load(old) == onnx.load(tmp_path / "new.onnx")
    assert read_manifest(onnx.load(old), old).setting.budget is not None


@pytest.mark.skipif(
    onnxruntime.__version__.startswith("1.20."),
    reason="1.20 does not find data files of models in memory",
)
def test_quantize_and_the_verbs_after_it_take_old_files(mixed_files: Path, tmp_path: Path) -> None:
    first, old, again = tmp_path / "q.onnx", tmp_path / "old.onnx", tmp_path / "again.onnx"
    quantize(mixed_files / "old.onnx", first, data=mixed_files / "data.npz")
    assert names(onnx.load(first)) == INT8_NAMES
    with_overloads(first, old)
    assert read_model(old) == onnx.load(first)
    set_budget(old, threshold=0.0, output=again)
    assert names(onnx.load(again)) == INT8_NAMES
    np.testing.assert_array_equal(
        run(again, pixel_values=images(3))["logits"], run(first, pixel_values=images(3))["logits"]
    )


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-8", "ort-tensorrt"])
def test_an_old_file_changes_its_target(mixed_files: Path, target: str) -> None:
    old, new = read_model(mixed_files / "old.onnx"), onnx.load(mixed_files / "m.onnx")
    for model in (old, new):
        rewrite_for(model, read_manifest(model, "m"), target)
    assert old == new
    assert not old.functions
    domain = "trt.plugins" if target == "ort-tensorrt" else "ai.acm"
    assert {node.op_type for node in old.graph.node if node.domain == domain} == {"GatedLearners"}
