"""The budget table: interpolation, its JSON in the manifest, and what a manifest refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from calibration_files import LAYERS
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from acm_export.base.errors import ModelFileError
from acm_export.calibration.table import shortest
from acm_export.onnx_file.budget_table import BudgetTable, Calibration, KnotRecord, RequestRecord
from acm_export.onnx_file.manifest import SCHEMA, Manifest, Setting, Source, read_manifest, write_manifest

TABLE = BudgetTable(
    (0.125, 0.5, 1.0),
    {"a": ((3.0, 2.5, 2.0, 9.0), (1.0, 1.5, 2.0, 4.0), (-2.0, -3.0, -4.0, -5.0)), "b": ((0.0, 1.0, 1.0),) * 3},
)
CALIBRATION = Calibration(
    "sensitivity",
    TABLE,
    0.6,
    "0" * 64,
    80,
    20,
    4000,
    "nats",
    tuple(KnotRecord(budget, 0.1, None) for budget in TABLE.budgets),
    (RequestRecord(0.5, 0.5, 0.51, 0.004),),
)


def manifest(**changes: object) -> Manifest:
    source = Source("c")
    start = Manifest(source, "fp32", "portable", 20, LAYERS, 1000, {"x": [1, 3]}, Setting(), "test", CALIBRATION)
    return start.replaced(**changes)


def stored(content: Manifest, **changes: object) -> onnx.ModelProto:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    write_manifest(model, content)
    if changes:
        document = json.loads(model.metadata_props[0].value) | changes
        model.metadata_props[0].value = json.dumps(document)
    return model


@given(st.floats(-1, 2), st.floats(-1, 2))
def test_thresholds_fall_with_the_budget_and_stay_between_the_ends(first: float, second: float) -> None:
    low, high = sorted((first, second))
    for name, thresholds in TABLE.at(high).items():
        cheaper = TABLE.at(low)[name]
        slack = 1e-5  # hat functions are rounded each by itself
        assert (thresholds <= cheaper + slack).all()
        assert (thresholds >= np.array(TABLE.thresholds[name][-1], np.float32) - slack).all()
        assert (cheaper <= np.array(TABLE.thresholds[name][0], np.float32) + slack).all()


def test_knots_are_exact_the_middle_is_the_mean_and_outside_clamps() -> None:
    for index, budget in enumerate(TABLE.budgets):
        assert TABLE.at(budget)["a"].tolist() == list(TABLE.thresholds["a"][index])
    assert TABLE.at(0.75)["a"].tolist() == [-0.5, -0.75, -1.0, -0.5]
    assert TABLE.at(0.01)["a"].tolist() == TABLE.at(0.125)["a"].tolist()
    assert TABLE.at(7)["a"].tolist() == TABLE.at(1.0)["a"].tolist()
    assert (TABLE.clamped(0.01), TABLE.clamped(0.3), TABLE.clamped(7)) == (0.125, 0.3, 1.0)


def test_a_table_of_one_knot_covers_all_budgets() -> None:
    assert BudgetTable((1.0,), {"a": ((2.0,),)}).at(0.3)["a"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("budgets", "rows", "reason"),
    [
        ((0.5, 0.5), ((1.0,), (0.0,)), "do not ascend"),
        ((0.2, 0.5), ((1.0,), (2.0,)), "increase with the budget"),
        ((0.2, 0.5), ((float("inf"),), (2.0,)), "not finite"),
        ((0.2, 0.5), ((1.0,),), "2 budgets, but 1 rows"),
        ((), (), "do not ascend"),
    ],
)
def test_invalid_tables_are_refused(budgets: tuple[float, ...], rows: tuple[tuple[float]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BudgetTable(budgets, {"a": rows})


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_written_numbers_read_as_the_same_float32(value: float) -> None:
    assert np.float32(json.loads(json.dumps(shortest(value)))) == np.float32(value)


def test_a_manifest_keeps_its_calibration() -> None:
    for content in (manifest(), manifest(setting=Setting(None, 2, 0.5)), manifest(calibration=None)):
        assert read_manifest(stored(content), Path("m.onnx")) == content


def test_files_of_schema_1_are_read_and_written_as_the_current_one() -> None:
    old = stored(manifest(calibration=None), schema=1, setting={"threshold": 0.5, "max_learners": None})
    document = json.loads(old.metadata_props[0].value)
    del document["calibration"], document["quantization"], document["processor"]
    del document["source"]["part"]
    for layer in document["layers"]:
        del layer["activations"], layer["glu"]
    old.metadata_props[0].value = json.dumps(document)
    content = read_manifest(old, Path("m.onnx"))
    assert content == manifest(calibration=None, setting=Setting(0.5))
    assert content.schema == SCHEMA


def test_newer_schemas_and_contradictions_are_refused() -> None:
    table = {"budgets": [0.1, 1.0], "thresholds": {"a": [[1.0] * 4] * 2}}
    calibration = manifest().to_json()["calibration"]
    with_budget = {"threshold": None, "max_learners": None, "budget": 0.5}
    for changes, reason in (
        ({"schema": SCHEMA + 1}, f"has schema {SCHEMA + 1}, this version reads up to {SCHEMA}"),
        ({"calibration": calibration | {"table": table}}, "thresholds for {'a': 4}, the layers are"),
        (
            {"calibration": None, "setting": with_budget},
            "there is no calibration",
        ),
        ({"setting": {"threshold": 0.0, "max_learners": None, "budget": 0.5}}, "both a threshold"),
        ({"calibration": {"solver": "sensitivity"}}, "is broken"),
    ):
        with pytest.raises(ModelFileError, match=reason):
            read_manifest(stored(manifest(), **changes), Path("m.onnx"))
