"""``retarget``: a file for any target becomes one for another, with its calibration, setting and results."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from calibration_files import calibrated, write_images
from click.testing import CliRunner
from crafted_onnx import point_at
from exported_files import images, names, session
from onnx import TensorProto, numpy_helper
from quantized_files import quantize_file
from tiny_models import tiny_vit

import acm_export
from acm_export.base.errors import ExportError, UsageError
from acm_export.cli import main
from acm_export.engine.prepare import prepare
from acm_export.engine.release import Release
from acm_export.exporter import export
from acm_export.onnx_file import model_file, staged_file
from acm_export.onnx_file.inspection import inspect
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.retarget import retarget
from acm_export.onnx_file.set_budget import set_budget
from acm_export.onnx_file.targets import TARGETS

FILES = ("plain", "budget-set", "budget-input", "fp16-input", "int8", "int8-input")
MOVES = [(first, second) for first in TARGETS for second in TARGETS]

RELEASES = {"tensorrt-8": Release((8, 5)), "tensorrt": Release((10, 3))}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Portable files of one model: float and int8, not calibrated, with a budget that is set, with a budget input."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    model = tiny_vit()
    write_images(folder / "d.npz", 32)
    for dtype, name in (("fp32", "plain"), ("fp16", "half")):
        export(model, {"pixel_values": images(2)}, folder / f"{name}.onnx", dtype=dtype, verify=False)
    calibrated(folder / "plain.onnx", folder / "d.npz", folder / "budget-set.onnx")
    set_budget(folder / "budget-set.onnx", 0.6, max_learners=3)
    calibrated(folder / "plain.onnx", folder / "d.npz", folder / "budget-input.onnx", budget_input=True)
    calibrated(folder / "half.onnx", folder / "d.npz", folder / "fp16-input.onnx", budget_input=True)
    for source, target in (("budget-set", "int8"), ("budget-input", "int8-input")):
        quantize_file(folder / f"{source}.onnx", folder / f"{target}.onnx", {"pixel_values": images(8)})
    quantize_file(folder / "plain.onnx", folder / "dynamic.onnx", {"pixel_values": images(8)}, dynamic=True)
    return folder


def outputs(path: Path) -> list[Any]:
    """Results of a portable file, at two budgets if it has a budget input."""
    opened = session(path)
    feeds = {"pixel_values": images(3).numpy()}
    if "budget" not in {value.name for value in opened.get_inputs()} | {
        value.name for value in opened.get_overridable_initializers()
    }:
        return [opened.run(None, feeds)[0]]
    return [opened.run(None, feeds | {"budget": np.array(b, np.float32)})[0] for b in (0.4, 0.8)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("first", "second"), MOVES, ids=str)
def test_a_file_moves_between_any_two_targets(name: str, first: str, second: str, files: Path, tmp_path: Path) -> None:
    before = inspect(files / f"{name}.onnx")
    path = files / f"{name}.onnx"
    for number, target in enumerate((first, second, "portable")):
        manifest = retarget(path, tmp_path / f"{number}.onnx", target=target)
        path = tmp_path / f"{number}.onnx"
        assert manifest == inspect(path).manifest
        assert manifest.target == target
    after = inspect(path)
    opset = 17 if "tensorrt-8" in (first, second) else 20
    assert after.manifest == before.manifest.replaced(opset=opset)
    assert after.thresholds == before.thresholds
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    tolerance = 2e-2 if name.startswith("fp16") else 1e-4
    for found, expected in zip(outputs(path), outputs(files / f"{name}.onnx"), strict=True):
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("target", RELEASES)
@pytest.mark.parametrize("name", ["fp16-input", "int8"])
def test_the_printed_commands_write_what_build_engine_parses(
    name: str, target: str, counts: bool, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    source = tmp_path / "m.onnx"
    source.write_bytes((files / f"{name}.onnx").read_bytes())
    arguments = ["build-engine", str(source), "-o", str(tmp_path / "m.plan"), "--dry-run"]
    arguments += [] if counts else ["--no-counts"]
    plans = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)["plans"]
    plan = next(plan for plan in plans if plan["target"] == target)
    assert f"  {plan['retarget']}\n  {plan['trtexec']}\n" in CliRunner().invoke(main, arguments).stdout
    done = CliRunner().invoke(main, shlex.split(plan["retarget"])[1:])
    assert done.exit_code == 0, done.output
    written = next(word for word in shlex.split(plan["trtexec"]) if word.startswith("--onnx="))[len("--onnx=") :]
    parsed = prepare(source, RELEASES[target]).model if counts else read_model(Path(written))
    assert onnx.load(written) == parsed
    again = [*arguments[:1], written, *arguments[2:], "--json"]
    plans = json.loads(CliRunner().invoke(main, again).stdout)["plans"]
    plan = next(plan for plan in plans if plan["target"] == target)
    assert (plan["converted"], plan["retarget"]) == (False, None)


def test_threshold_inputs_are_left_to_save_onnx(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    arguments = ["build-engine", str(files / "plain.onnx"), "-o", str(tmp_path / "m.plan"), "--dry-run"]
    done = CliRunner().invoke(main, [*arguments, "--threshold-inputs"])
    assert "retarget" not in done.stdout
    assert done.stdout.count("--save-onnx") == 3


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [("bf16", "tensorrt-8", "bf16"), ("dynamic", "tensorrt", "at run time"), ("plain", "onnx", "unknown target")],
)
def test_what_a_target_cannot_express_is_refused_and_nothing_is_written(
    name: str, target: str, reason: str, files: Path, tmp_path: Path
) -> None:
    path = files / f"{name}.onnx"
    if name == "bf16":
        path = tmp_path / "bf16.onnx"
        export(tiny_vit(), {"pixel_values": images(2)}, path, dtype="bf16", verify=False)
    before = names(tmp_path)
    with pytest.raises((ExportError, UsageError), match=reason):
        retarget(path, tmp_path / "x.onnx", target=target)
    assert names(tmp_path) == before


def test_the_input_changes_only_if_it_is_the_output(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content := (files / "budget-input.onnx").read_bytes())
    retarget(path, tmp_path / "other.onnx", target="tensorrt-8")
    assert path.read_bytes() == content
    retarget(path, path, target="tensorrt")
    assert inspect(path).manifest.target == "tensorrt"
    assert names(tmp_path) == ["m.onnx", "other.onnx"]


def tensor_bytes(tensor: TensorProto) -> bytes:
    content: bytes = numpy_helper.to_array(tensor).tobytes()
    return content


@pytest.mark.parametrize("name", ["fp16-input", "int8", "int8-half"])
def test_external_weights_move_along(name: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also constants that a rule has to read: the float16 scales of the columns of a weight."""
    if name == "int8-half":
        quantize_file(files / "half.onnx", tmp_path / "int8-half.onnx", {"pixel_values": images(8)})
    else:
        (tmp_path / f"{name}.onnx").write_bytes((files / f"{name}.onnx").read_bytes())
    expected = outputs(tmp_path / f"{name}.onnx")
    model = onnx.load(tmp_path / f"{name}.onnx")
    with (tmp_path / "m.data").open("wb") as data:
        for tensor in model.graph.initializer:
            if tensor.data_type != TensorProto.INT64:  # ONNX Runtime needs shapes inside the file
                point_at(tensor, "m.data", offset=data.tell(), length=len(content := tensor_bytes(tensor)))
                data.write(content)
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / f"{name}.onnx").unlink()
    for module in (staged_file, model_file):
        monkeypatch.setattr(module, "EXTERNAL_ABOVE", 0)
    (tmp_path / "deep").mkdir()
    for target, path in (("tensorrt-8", tmp_path / "t.onnx"), ("portable", tmp_path / "deep" / "p.onnx")):
        retarget(tmp_path / ("m.onnx" if target == "tensorrt-8" else "t.onnx"), path, target=target)
        inspect(path)
        assert any(t.data_location == TensorProto.EXTERNAL for t in read_model(path).graph.initializer)
    for found, before in zip(outputs(tmp_path / "deep" / "p.onnx"), expected, strict=True):
        assert np.abs(found - before).max() <= 2e-2 * np.abs(before).max()


def test_the_command_prints_what_it_wrote(files: Path, tmp_path: Path) -> None:
    arguments = ["retarget", str(files / "plain.onnx"), "--target", "tensorrt-8", "-o", str(tmp_path / "t.onnx")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().endswith("t.onnx: target tensorrt-8, opset 17: runs on TensorRT 8.5 and 8.6")
    content = json.loads(CliRunner().invoke(main, [*arguments, "--json", "--with-counts"]).stdout)
    assert content == {"output": arguments[-1], "target": "tensorrt-8", "opset": 17, "warnings": []}
    assert [name for name in inspect(tmp_path / "t.onnx").outputs if name.startswith("counts/")]
    assert CliRunner().invoke(main, arguments[:-2]).exit_code == 2


def test_it_is_in_the_python_api(files: Path, tmp_path: Path) -> None:
    manifest = acm_export.retarget(files / "plain.onnx", tmp_path / "t.onnx", target="ort-tensorrt")
    assert manifest == read_manifest(read_model(tmp_path / "t.onnx"), "t.onnx")
