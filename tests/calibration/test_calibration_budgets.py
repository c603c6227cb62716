"""Budgets in FLOPs and in milliseconds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from calibration_files import LAYERS

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.base.files import sha256_of
from acm_export.calibration.budgets import budget_of_flops, budget_of_latency, parse_flops, parse_milliseconds
from acm_export.onnx_file.manifest import Manifest, Setting, Source

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = Manifest(Source("c"), "fp32", "portable", 20, LAYERS, 1000, {"x": [1, 3]}, Setting(), "test")


def latency_file(folder: Path, of: Path, **changes: object) -> Path:
    content = {
        "schema": 1,
        "model": {"file": of.name, "sha256": sha256_of(of)},
        "fit": {"fixed_ms": 2.0, "ms_per_budget": 4.0, "r2": 0.99},
    }
    path = folder / "latency.json"
    path.write_text(json.dumps(content | changes))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(b"model")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("budget", [0.0, 0.3, 1.0])
def test_flops_are_those_of_the_whole_model(budget: float) -> None:
    assert budget_of_flops(MANIFEST, MANIFEST.model_flops(budget)) == pytest.approx(budget)


def test_flops_out_of_reach_say_what_is_possible() -> None:
    with pytest.raises(UsageError, match=r"this model takes 1048 without learners and 2104 with all"):
        budget_of_flops(MANIFEST, 500)


def test_numbers_are_parsed_as_users_write_them() -> None:
    assert [parse_flops(text) for text in ("17.5G", " 900M", "1.2e9", "3k")] == [17.5e9, 9e8, 1.2e9, 3e3]
    assert [parse_milliseconds(text) for text in ("4ms", "3.5", " 4 ms")] == [4, 3.5, 4]
    for text in ("", "4x", "fast"):
        with pytest.raises(UsageError):
            parse_flops(text)
    for text in ("0ms", "-1", "soon", "nan"):
        with pytest.raises(UsageError):
            parse_milliseconds(text)


def test_times_follow_the_fitted_line(tmp_path: Path, model: Path) -> None:
    assert budget_of_latency(4.0, latency_file(tmp_path, model), model) == 0.5
    assert budget_of_latency(100.0, latency_file(tmp_path, model), model) == 1.0


def test_an_engine_result_is_valid_for_its_onnx_file(tmp_path: Path, model: Path) -> None:
    source = {"file": "m.onnx", "sha256": sha256_of(model)}
    engine = {"file": "m.plan", "sha256": "f" * 64}
    assert budget_of_latency(4.0, latency_file(tmp_path, model, model=engine, source=source), model) == 0.5
    with pytest.raises(UsageError, match="sha256 ffffffffffff"):
        budget_of_latency(4.0, latency_file(tmp_path, model, model=engine, source=None), model)
    with pytest.raises(UsageError, match="sha256 unknown"):
        budget_of_latency(4.0, latency_file(tmp_path, model, model=engine | {"sha256": None}), model)


def test_a_poor_fit_is_a_warning(tmp_path: Path, model: Path) -> None:
    fit = {"fixed_ms": 2.0, "ms_per_budget": 4.0, "r2": 0.5}
    with pytest.warns(AcmWarning, match="hardly depends on the budget"):
        budget_of_latency(4.0, latency_file(tmp_path, model, fit=fit), model)


def test_unusable_latency_files_are_refused(tmp_path: Path, model: Path) -> None:
    for changes, milliseconds, reason in (
        ({"model": {"file": "m.onnx", "sha256": "f" * 64}}, 4.0, r"another model: sha256 ffffffffffff\.\.\.; .* has"),
        ({"fit": None}, 4.0, "no fit of latency against budget"),
        ({"fit": {"fixed_ms": None, "ms_per_budget": None, "r2": None}}, 4.0, "no fit"),
        ({"schema": 2}, 4.0, "has schema 2; this version reads up to 1"),
        ({"model": None}, 4.0, "is not a result of acm-export latency"),
        ({}, 1.5, "2 ms without learners and 6 ms with all"),
    ):
        with pytest.raises(UsageError, match=reason):
            budget_of_latency(milliseconds, latency_file(tmp_path, model, **changes), model)
    with pytest.raises(UsageError, match="there is no file"):
        budget_of_latency(4.0, tmp_path / "none.json", model)
