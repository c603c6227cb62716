"""Calibrating int8 files: the same table, dials and budget input as for float files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from calibration_files import calibrated
from exported_files import images
from quantized_files import quantize_file

from acm_export.onnx_file.inspection import inspect
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.set_budget import set_budget
from acm_export.report.calibration import calibration_table
from acm_export.report.calibration_page import calibration_page
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.verification.measurement import budget_of

if TYPE_CHECKING:
    from pathlib import Path

BUDGETS = (0.45, 0.7)


@pytest.fixture(scope="module", params=["static", "dynamic"])
def int8_file(request: pytest.FixtureRequest, folder: Path) -> Path:
    """An int8 version of the shared file, beside its data."""
    path = folder / f"{request.param}.onnx"
    dynamic = request.param == "dynamic"
    return quantize_file(folder / "m.onnx", path, {"pixel_values": images(16)}, dynamic=dynamic)


def budget(path: Path, **feeds: Any) -> float:
    """β of the file on the data, from its own learner counts."""
    model = read_model(path)
    pixels = np.load(path.parent / "d.npz")["pixel_values"][:48]
    ran = CpuSession(model, path.parent).run({"pixel_values": pixels} | feeds)
    layers = read_manifest(model, path).layers
    return budget_of(layers, [np.bincount(ran[f"counts/{e.name}"].ravel()).tolist() for e in layers])


def test_calibrating_keeps_the_int8_layers_and_meets_the_budgets(int8_file: Path) -> None:
    result = calibrated(int8_file, int8_file.parent / "d.npz", int8_file.with_name("plain.onnx"), BUDGETS)
    before, after = inspect(int8_file), inspect(result.path)
    assert after.manifest.quantization == before.manifest.quantization
    assert after.manifest.layers == before.manifest.layers
    assert after.weight_bytes == before.weight_bytes
    precision = f"int8 {int8_file.stem} and fp32"
    assert precision in calibration_page(result)
    assert precision in str(calibration_table(result).title)
    for requested in BUDGETS:
        manifest = set_budget(result.path, requested, output=result.path.with_name("set.onnx"))
        assert manifest.quantization == before.manifest.quantization
        measured = budget(result.path.with_name("set.onnx"))
        assert measured == pytest.approx(requested, abs=0.02)


def test_an_int8_file_takes_its_budget_as_an_input(int8_file: Path) -> None:
    path = int8_file.with_name("input.onnx")
    calibrated(int8_file, int8_file.parent / "d.npz", path, BUDGETS, budget_input=True)
    assert inspect(path).manifest.budget_input
    measured = {requested: budget(path, budget=np.array(requested, np.float32)) for requested in (0.0, *BUDGETS, 1.0)}
    for requested in BUDGETS:
        assert measured[requested] == pytest.approx(requested, abs=0.02)
    assert list(measured.values()) == sorted(measured.values())
    assert measured[1.0] == pytest.approx(1, abs=0.005)
    set_budget(path, 0.45, max_learners=1, output=path.with_name("bound.onnx"))
    assert budget(path.with_name("bound.onnx"), budget=np.array(1, np.float32)) == pytest.approx(0.25)


def test_calibrating_again_without_the_input_restores_thresholds(int8_file: Path) -> None:
    data, path = int8_file.parent / "d.npz", int8_file.with_name("again.onnx")
    calibrated(int8_file, data, path, BUDGETS, budget_input=True)
    calibrated(path, data, path, BUDGETS)
    summary = inspect(path)
    assert "budget" not in summary.inputs
    assert summary.manifest.quantization is not None
