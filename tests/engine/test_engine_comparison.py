"""``build-engine`` with fakes of TensorRT and the CUDA driver: what it compares, refuses and writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from calibration_files import write_images
from click.testing import CliRunner
from engine_builds import VERSIONS, build
from engine_fake_runtime import DropsBias, IgnoresThresholds, RunsOneLearnerFewer

from acm_export.cli import main
from acm_export.engine.runtime import Engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model", ["m.onnx", "b.onnx"])
def test_the_verb_compares_what_it_built(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any], version: str, model: str
) -> None:
    machine_with(version)
    done = build(files, tmp_path / "m.plan", "--json", model=model, plugin=version)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["passport"]["comparison"]
    settings = 3 if model == "b.onnx" else 1
    assert (found["settings"], found["samples"], found["routed_differently"]) == (settings, settings, 0)
    assert found["error"] < 1e-5
    assert found["tokens"] > 0


def test_data_are_compared_in_batches_of_the_best_shape(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any]
) -> None:
    machine_with()
    done = build(files, tmp_path / "m.plan", "--data", str(files / "d.npz"), "--opt-shapes", "pixel_values:4x1x8x8")
    assert done.exit_code == 0, done.output
    assert "48 sample runs at 3 settings" in done.output


def _scale(outputs: dict[str, Any]) -> None:
    outputs["logits"] = outputs["logits"] * np.float32(1.01)


def _nan(outputs: dict[str, Any]) -> None:
    outputs["logits"] = np.where(np.arange(5) == 2, np.float32(np.nan), outputs["logits"])


def _count_too_low(outputs: dict[str, Any]) -> None:
    for name, counts in outputs.items():
        if name.startswith("counts/"):
            counts[:] = np.where(counts > 1, counts - 1, counts)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"change": _scale}, "outputs of the engine differ by"),
        ({"change": _nan}, "NaN or infinity"),
        ({"change": _count_too_low}, "standard deviations"),
        ({"op": DropsBias}, "outputs of the engine differ by"),
        ({"op": RunsOneLearnerFewer}, "standard deviations"),
        ({"op": IgnoresThresholds}, "standard deviations"),
    ],
)
def test_an_engine_that_computes_something_else_is_not_written(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any], wrong: dict[str, Any], reason: str
) -> None:
    machine_with(**wrong)
    done = build(files, tmp_path / "m.plan")
    assert done.exit_code == 1
    assert reason in done.output
    assert list(tmp_path.iterdir()) == []
    assert build(files, tmp_path / "m.plan", "--no-check").exit_code == 0


def test_an_engine_without_counts(files: Path, tmp_path: Path, machine_with: Callable[..., Any]) -> None:
    machine_with()
    done = build(files, tmp_path / "m.plan", "--no-counts")
    assert done.exit_code == 0, done.output
    engine = Engine(tmp_path / "m.plan", files / "plugin-10.3.0.so")
    assert engine.outputs == ("logits",)
    assert engine.passport.comparison is not None
    assert engine.passport.comparison.routed_differently is None
    engine.close()


def test_a_dense_model_needs_no_plugin(files: Path, tmp_path: Path, machine_with: Callable[..., Any]) -> None:
    machine_with(creator=False)
    done = CliRunner().invoke(main, ["build-engine", str(files / "dense.onnx"), "-o", str(tmp_path / "d.plan")])
    assert done.exit_code == 0, done.output
    engine = Engine(tmp_path / "d.plan")
    assert engine.passport.plugin is None
    engine.close()


def test_data_that_do_not_fit_the_profile_are_rejected_before_the_build(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any]
) -> None:
    machine_with()
    write_images(tmp_path / "ten.npz", 10)
    shapes = ("--min-shapes", "pixel_values:4x1x8x8", "--opt-shapes", "pixel_values:8x1x8x8")
    done = build(files, tmp_path / "m.plan", "--data", str(tmp_path / "ten.npz"), *shapes)
    assert done.exit_code == 0, done.output  # the last two are left out
    assert "24 sample runs" in done.output
    write_images(tmp_path / "two.npz", 2)
    done = build(files, tmp_path / "n.plan", "--data", str(tmp_path / "two.npz"), *shapes)
    assert done.exit_code == 2
    assert "fewer samples than the batch of 8" in done.output


@pytest.mark.parametrize("option", ["--save-onnx", "--timing-cache"])
def test_outputs_never_replace_inputs_or_each_other(
    files: Path, tmp_path: Path, machine_with: Callable[..., Any], option: str
) -> None:
    machine_with()
    before = (files / "b.onnx").read_bytes()
    for path in (files / "b.onnx", tmp_path / "m.plan", tmp_path / "m.plan.json"):
        done = build(files, tmp_path / "m.plan", option, str(path))
        assert done.exit_code == 2, done.output
    assert (files / "b.onnx").read_bytes() == before
    (tmp_path / "m.plan.json").mkdir()
    assert build(files, tmp_path / "m.plan").exit_code == 1
    assert not (tmp_path / "m.plan").exists()
