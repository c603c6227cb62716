"""The plugin of the int8 operator as TensorRT drives it, for every set of headers that is found, with a fake driver."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from plugin_build import each_header_set
from plugin_cases import Case, QuantizedCase, c_tensor
from plugin_core import pointers
from plugin_harness import CASE as FLOAT_CASE
from plugin_harness import Harness, fields_of, make

from acm_export.op.quantized_signature import QUANTIZED_INPUTS
from acm_export.op.signature import ACTIVATIONS
from acm_export.plugins.kernels import plan
from acm_export.plugins.kernels.tiles import entries

if TYPE_CHECKING:
    from plugin_core import Driver

pytest_plugins = ["plugin_fixtures"]
pytestmark = each_header_set()

INT8_INPUTS = ("w1", "h_zero", "w2")
KERNELS = ("quantize_rows", "up_int8", "down_int8", "down_split_int8")


CASE = QuantizedCase(leading=(2, 50), model_dim=80, hidden_dim=24, num_learners=3, min_learners=1)


def profile(case: Case) -> list[Any]:
    """Current, smallest and largest tensors of a network with dynamic shapes."""
    return [replace(case, leading=leading).tensors() for leading in ((-1, -1), (1, 1), (8, 200))]


def test_from_fields_to_launches(harness: Harness, gpu: Driver) -> None:
    built = make(harness, CASE)
    tensors = CASE.tensors()
    assert all(built.supports(pos, tensors) for pos in range(len(CASE.names)))
    assert built.output_types(tensors) == ("float16", "int32")
    assert built.output_shapes(tensors) == [(2, 50, 80), (2, 50)]
    assert built.configure(*profile(CASE)) == 0
    largest = replace(CASE, leading=(8, 200))
    assert built.workspace(*profile(CASE)) == plan.workspace(largest.problem).size
    loaded = built.round_trip().attach()
    for leading in ((1, 1), (2, 50), (8, 200), (0, 7), (2, 50)):
        shapes = replace(CASE, leading=leading).tensors()
        assert loaded.change_shapes(shapes) == 0
        modules = gpu.num_modules
        for _ in range(3):
            assert loaded.enqueue(shapes) == 0
        launches = gpu.launches()
        assert bool(launches) == (0 not in leading)
        assert launches == launches[: len(launches) // 3] * 3
        assert gpu.num_modules == modules
        assert not launches or {run.kernel.kernel for run in launches} & set(KERNELS) >= {"quantize_rows", "up_int8"}
    assert harness.take_log() == ""


def test_the_whole_life_in_one_call(harness: Harness, gpu: Driver) -> None:
    needed = plan.workspace(CASE.problem).size
    addresses = pointers(QUANTIZED_INPUTS)
    assert harness.run(CASE, addresses, workspace_size=0) == needed
    assert gpu.launches() == []
    assert harness.run(CASE, addresses, workspace_size=needed, times=5) == needed
    launches = gpu.launches()
    assert len(launches) > 5
    assert launches == launches[: len(launches) // 5] * 5
    (up, *_) = (run for run in launches if run.kernel.kernel == "up_int8")
    assert up.arguments["w1_t"] == ("w1", 0)
    assert up.arguments["h_zero"] == ("h_zero", 0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_types_of_the_operator_are_supported(harness: Harness, dtype: str) -> None:
    case = replace(CASE, dtype=dtype)
    expected = harness.is_v3 or dtype != "bfloat16"  # TensorRT 8 has no bfloat16
    assert all(make(harness, case).supports(pos, case.tensors()) for pos in range(len(case.names))) == expected


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_attributes_survive_serialization(harness: Harness, gpu: Driver, activation: str) -> None:
    case = replace(CASE, num_learners=64, min_learners=13, activation=activation, dtype="float32")
    plugin = make(harness, case).round_trip().round_trip().clone().attach()
    assert plugin.change_shapes(case.tensors()) == 0, harness.take_log()
    assert plugin.enqueue(case.tensors()) == 0, harness.take_log()
    launches = gpu.launches()
    up = next(run for run in launches if run.kernel.kernel == "up_int8")
    assert up.arguments["activation"] == ACTIVATIONS.index(activation)
    assert up.arguments["num_learners"] == 64
    assert launches[0].arguments["min_learners"] == 13


def test_both_operators_live_side_by_side(harness: Harness, gpu: Driver) -> None:
    plugins = [(make(harness, one), one) for one in (FLOAT_CASE, CASE)]
    for plugin, one in [*plugins, *reversed(plugins)]:
        assert plugin.change_shapes(one.tensors()) == 0, harness.take_log()
        assert plugin.enqueue(one.tensors()) == 0, harness.take_log()
        assert any(run.kernel.kernel in KERNELS for run in gpu.launches()) == one.quantized


def test_tactics_are_offered_for_fixed_shapes_only(harness: Harness, gpu: Driver) -> None:
    if not harness.is_v3:
        pytest.skip("IPluginV2DynamicExt has no tactics")
    assert gpu.launches() == []
    case = replace(CASE, model_dim=64, hidden_dim=32)
    plugin = make(harness, case)
    assert plugin.configure(*profile(case)) == 0
    assert plugin.tactics() == []
    assert plugin.configure(case.tensors(), case.tensors(), case.tensors()) == 0
    assert len(plugin.tactics()) > 1
    assert {entries()[tactic - 1].precision for tactic in plugin.tactics()} == {"int8"}


def test_the_timing_cache_id_depends_on_the_operator(harness: Harness) -> None:
    if not harness.is_v3:
        pytest.skip("IPluginV2DynamicExt has no timing cache")
    sizes = {"num_learners": 4, "min_learners": 0, "model_dim": 64, "hidden_dim": 16}  # W1 is square in both
    found = []
    for one in (Case(**sizes), replace(CASE, **sizes)):
        plugin = make(harness, one)
        assert plugin.configure(one.tensors(), one.tensors(), one.tensors()) == 0
        found.append(plugin.timing_id())
    assert found[0] != found[1]


def test_other_types_and_formats_are_not_supported(harness: Harness) -> None:
    plugin = make(harness, CASE)
    for pos, name in enumerate(CASE.names):
        for wrong in ("other", "float16" if CASE.types()[name] != "float16" else "int8"):
            assert not plugin.supports(pos, CASE.tensors(**{name: wrong})), (name, wrong)
        tensors = CASE.tensors()
        tensors[pos] = c_tensor(CASE.types()[name], CASE.shapes()[name], linear=False)
        assert not plugin.supports(pos, tensors)
    for name in INT8_INPUTS:
        assert not plugin.supports(CASE.names.index(name), CASE.tensors(**{name: "int8"}))
    assert not plugin.supports(-1, CASE.tensors())
    assert not plugin.supports(len(CASE.names), CASE.tensors())


@pytest.mark.parametrize("name", INT8_INPUTS)
def test_int8_values_that_are_not_packed_are_explained(harness: Harness, name: str) -> None:
    plugin = make(harness, CASE)
    harness.take_log()
    assert (plugin.output_types(CASE.tensors(**{name: "int8"})) is None) == harness.is_v3  # the older one cannot fail
    reason = f"{name} is int8; files for TensorRT pack int8 values into int32: rewrite this file with acm-export"
    log = harness.take_log()
    assert re.fullmatch(rf"QuantizedGatedLearners: getOutputDataTypes?: {reason} .*\n", log)


BAD_FIELDS = [
    ({"dynamic": 1}, "dynamic is 1; this plugin supports static scales only (dynamic = 0): quantize the model again"),
    ({"dynamic": "1"}, "field dynamic has type 6, expected 5 (one int32)"),
    (
        {"allow_tf32": 1},
        "unknown field 'allow_tf32'; the fields are num_learners, min_learners, activation and dynamic",
    ),
    ({"num_learners": 65}, "num_learners is 65; it must be in 1..64"),
    ({"min_learners": 4}, "min_learners is 4; with num_learners = 3 it must be in 0..3"),
    ({"activation": "tanh"}, "activation is 'tanh'; it must be one of gelu, gelu_tanh, relu, silu, identity"),
    ({"activation": None}, "field activation is missing; the fields are num_learners, min_learners, activation and"),
]


@pytest.mark.parametrize("phase", ["build", "runtime"])
@pytest.mark.parametrize(("change", "reason"), BAD_FIELDS, ids=[str(change) for change, _ in BAD_FIELDS])
def test_bad_fields_are_rejected(
    harness: Harness,
    gpu: Driver,
    change: dict[str, int | str | bytes | None],
    reason: str,
    phase: str,
) -> None:
    assert gpu.launches() == []
    fields = fields_of(CASE, **change)
    assert harness.create(fields, CASE.operator, runtime_phase=phase == "runtime") is None
    log = harness.take_log()
    assert log.startswith(f"QuantizedGatedLearners: createPlugin: {reason}")
    assert log.count("\n") == 1


def test_dynamic_may_be_left_out_but_belongs_to_the_int8_operator(harness: Harness) -> None:
    assert harness.create(fields_of(CASE, dynamic=None), CASE.operator)
    harness.take_log()
    assert harness.create(fields_of(FLOAT_CASE, dynamic=0)) is None
    assert harness.take_log().startswith("GatedLearners: createPlugin: unknown field 'dynamic'")


@pytest.mark.parametrize("name", INT8_INPUTS)
def test_wrong_shapes_are_rejected_in_every_step(harness: Harness, gpu: Driver, name: str) -> None:
    wrong = CASE.tensors(**{name: (5,)})
    plugin = make(harness, CASE)
    reason = f"{name} has shape [5]"
    for step in (
        lambda: plugin.configure(wrong, wrong, wrong),
        lambda: plugin.workspace(wrong, wrong, wrong),
        lambda: plugin.change_shapes(wrong),
        lambda: plugin.enqueue(wrong),
    ):
        step()
        log = harness.take_log()
        assert reason in log
        assert log.startswith("QuantizedGatedLearners: ")
    assert gpu.launches() == []
    assert plugin.enqueue(CASE.tensors()) == 0


@pytest.mark.parametrize("name", [*QUANTIZED_INPUTS, "y", "counts", "workspace"])
def test_null_addresses_are_rejected(harness: Harness, gpu: Driver, name: str) -> None:
    assert make(harness, CASE).enqueue(CASE.tensors(), pointers(QUANTIZED_INPUTS, **{name: 0})) != 0
    assert "is null" in harness.take_log()
    assert gpu.launches() == []


def test_more_tokens_than_the_profile_allows_are_rejected(harness: Harness, gpu: Driver) -> None:
    plugin = make(harness, CASE)
    assert plugin.configure(*profile(CASE)) == 0
    assert plugin.enqueue(replace(CASE, leading=(8, 201)).tensors()) != 0
    assert "x has 1608 tokens; the optimization profile allows up to 1600" in harness.take_log()
    assert gpu.launches() == []
