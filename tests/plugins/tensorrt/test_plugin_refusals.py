"""What the plugins refuse: fields, types, formats, shapes and addresses; for every set of headers that is found."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from plugin_build import each_header_set, each_operator
from plugin_cases import TYPES, c_tensor
from plugin_core import pointers
from plugin_harness import (
    CASE,
    GLU,
    LAYERS,
    QUANTIZED,
    QUANTIZED_GLU,
    Harness,
    fields_of,
    make,
    profile,
)

if TYPE_CHECKING:
    from plugin_cases import Case
    from plugin_core import Driver


pytest_plugins = ["plugin_fixtures"]
pytestmark = each_header_set()


TENSORS = [(case, name) for case in LAYERS for name in case.names]


@pytest.mark.parametrize(("case", "name"), TENSORS, ids=[f"{case.operator}-{name}" for case, name in TENSORS])
def test_other_types_and_formats_are_not_supported(harness: Harness, case: Case, name: str) -> None:
    plugin, pos = make(harness, case), case.names.index(name)
    right = {"float32", "float16", "bfloat16"} if name == "x" else {case.types()[name]}
    for wrong in set(TYPES) - right:
        assert not plugin.supports(pos, case.tensors(**{name: wrong})), wrong
    tensors = case.tensors()
    tensors[pos] = c_tensor(case.types()[name], case.shapes()[name], linear=False)
    assert not plugin.supports(pos, tensors)


@each_operator(LAYERS)
def test_positions_beyond_the_tensors_are_not_supported(harness: Harness, case: Case) -> None:
    plugin = make(harness, case)
    for pos in (-1, len(case.names)):
        assert not plugin.supports(pos, case.tensors())


ALLOWED = "gelu, gelu_tanh, relu, silu, identity"
FIELDS = "num_learners, min_learners, activation and "
DYNAMIC = "dynamic is 1; this plugin supports static scales only (dynamic = 0): quantize the model again"
BAD_FIELDS = [
    (CASE, {"num_learners": 0}, "num_learners is 0; it must be in 1..64"),
    (CASE, {"num_learners": 65}, "num_learners is 65; it must be in 1..64"),
    (CASE, {"min_learners": 5}, "min_learners is 5; with num_learners = 4 it must be in 0..4"),
    (CASE, {"min_learners": -1}, "min_learners is -1; with num_learners = 4 it must be in 0..4"),
    (CASE, {"activation": "tanh"}, "activation is 'tanh'; it must be one of " + ALLOWED),
    (CASE, {"activation": b""}, "activation is ''"),
    (CASE, {"activation": 3}, "field activation has type 5, expected 6 (characters)"),
    (CASE, {"num_learners": "4"}, "field num_learners has type 6, expected 5 (one int32)"),
    (CASE, {"num_learners": None}, "field num_learners is missing"),
    (CASE, {"activation": None}, "field activation is missing"),
    (CASE, {"hidden_dim": 4}, "unknown field 'hidden_dim'"),
    (QUANTIZED, {"dynamic": 1}, DYNAMIC),
    (QUANTIZED, {"dynamic": "1"}, "field dynamic has type 6, expected 5 (one int32)"),
    (QUANTIZED, {"allow_tf32": 1}, "unknown field 'allow_tf32'; the fields are " + FIELDS + "dynamic"),
    (QUANTIZED, {"num_learners": 65}, "num_learners is 65; it must be in 1..64"),
    (QUANTIZED, {"min_learners": 4}, "min_learners is 4; with num_learners = 3 it must be in 0..3"),
    (QUANTIZED, {"activation": "tanh"}, "activation is 'tanh'; it must be one of " + ALLOWED),
    (QUANTIZED, {"activation": None}, "field activation is missing; the fields are " + FIELDS),
    (GLU, {"num_learners": 65}, "num_learners is 65; it must be in 1..64"),
    (GLU, {"activation": "swiglu"}, "activation is 'swiglu'; it must be one of " + ALLOWED),
    (GLU, {"activation": None}, "field activation is missing; the fields are " + FIELDS),
    (GLU, {"dynamic": 0}, "unknown field 'dynamic'; the fields are " + FIELDS + "allow_tf"),
    (QUANTIZED_GLU, {"dynamic": 1}, DYNAMIC),
    (QUANTIZED_GLU, {"allow_tf32": 1}, "unknown field 'allow_tf32'; the fields are " + FIELDS + "dyn"),
]


@pytest.mark.parametrize("phase", ["build", "runtime"])
@pytest.mark.parametrize(("case", "change", "reason"), BAD_FIELDS, ids=[f"{c.operator}-{f}" for c, f, _ in BAD_FIELDS])
def test_bad_fields_are_rejected(
    harness: Harness, gpu: Driver, case: Case, change: dict[str, int | str | bytes | None], reason: str, phase: str
) -> None:
    assert gpu.launches() == []
    assert harness.create(fields_of(case, **change), case.operator, runtime_phase=phase == "runtime") is None
    log = harness.take_log()
    assert log.startswith(f"{case.operator}: createPlugin: {reason}")
    assert log.count("\n") == 1


def test_dynamic_may_be_left_out_but_belongs_to_the_int8_operator(harness: Harness) -> None:
    assert harness.create(fields_of(QUANTIZED, dynamic=None), QUANTIZED.operator)
    harness.take_log()
    assert harness.create(fields_of(CASE, dynamic=0)) is None
    assert harness.take_log().startswith("GatedLearners: createPlugin: unknown field 'dynamic'")


def test_unequal_ranks_are_rejected_when_output_shapes_are_computed(harness: Harness, gpu: Driver) -> None:
    assert gpu.launches() == []
    assert make(harness).output_shapes(CASE.tensors(gate_logits=(100, 4))) is None
    assert "x has rank 3 and gate_logits rank 2" in harness.take_log()


WRONG_SHAPES = [
    (CASE, "w2", (64, 64), "w2 has shape [64, 64], expected [128, 64]"),
    (QUANTIZED, "w1", (5,), "w1 has shape [5], expected [1440]"),
    (QUANTIZED, "h_zero", (5,), "h_zero has shape [5], expected [1]"),
    (QUANTIZED, "w2", (5,), "w2 has shape [5], expected [1440]"),
    (GLU, "v1", (5,), "v1 has rank 1, expected 2"),
    (GLU, "c1", (5,), "c1 has shape [5], expected [72]"),
    (QUANTIZED_GLU, "v1", (5,), "v1 has shape [5], expected [1440]"),
    (QUANTIZED_GLU, "t1", (5,), "t1 has shape [5], expected [72]"),
    (QUANTIZED_GLU, "c1", (5,), "c1 has shape [5], expected [72]"),
]


@pytest.mark.parametrize(
    ("case", "name", "shape", "reason"),
    WRONG_SHAPES,
    ids=[f"{case.operator}-{name}" for case, name, *_ in WRONG_SHAPES],
)
def test_wrong_shapes_are_rejected_in_every_step(
    harness: Harness, gpu: Driver, case: Case, name: str, shape: tuple[int, ...], reason: str
) -> None:
    plugin, wrong = make(harness, case), case.tensors(**{name: shape})

    def assert_told() -> None:
        log = harness.take_log()
        assert reason in log
        assert log.startswith(f"{case.operator}: ")

    plugin.configure(wrong, wrong, wrong)
    assert_told()
    assert plugin.workspace(wrong, wrong, wrong) == 0
    assert_told()
    assert plugin.change_shapes(wrong) != 0
    assert_told()
    assert plugin.enqueue(wrong) != 0
    assert_told()
    assert gpu.launches() == []
    assert plugin.enqueue(case.tensors()) == 0


INT8_VALUES = [(QUANTIZED, "w1"), (QUANTIZED, "h_zero"), (QUANTIZED, "w2"), (QUANTIZED_GLU, "v1")]


@pytest.mark.parametrize(("case", "name"), INT8_VALUES, ids=[f"{case.operator}-{name}" for case, name in INT8_VALUES])
def test_int8_values_that_are_not_packed_are_explained(harness: Harness, case: Case, name: str) -> None:
    plugin = make(harness, case)
    harness.take_log()
    assert (plugin.output_types(case.tensors(**{name: "int8"})) is None) == harness.is_v3  # the older one cannot fail
    reason = f"{name} is int8; files for TensorRT pack int8 values into int32: rewrite this file with acm-export"
    assert re.fullmatch(rf"{case.operator}: getOutputDataTypes?: {reason} .*\n", harness.take_log())


def test_types_of_outputs_are_checked_while_configuring(harness: Harness, gpu: Driver) -> None:
    assert gpu.launches() == []
    for name, found, expected in (("y", "float32", "float16"), ("counts", "float16", "int32")):
        wrong = CASE.tensors(**{name: found})
        make(harness).configure(wrong, wrong, wrong)
        assert f"configurePlugin: {name} is {found}; with x of float16 it must be {expected}" in harness.take_log()


def test_other_formats_are_rejected(harness: Harness, gpu: Driver) -> None:
    tensors = CASE.tensors()
    tensors[0] = c_tensor("float16", CASE.shapes()["x"], linear=False)
    assert make(harness).enqueue(tensors) != 0
    assert "x has format" in harness.take_log()
    assert gpu.launches() == []


@each_operator(LAYERS)
def test_more_tokens_than_the_profile_allows_are_rejected(harness: Harness, gpu: Driver, case: Case) -> None:
    plugin = make(harness, case)
    assert plugin.configure(*profile(case)) == 0
    assert plugin.enqueue(replace(case, leading=(8, 201)).tensors()) != 0
    assert "x has 1608 tokens; the optimization profile allows up to 1600" in harness.take_log()
    assert gpu.launches() == []
    assert plugin.enqueue(replace(case, leading=(8, 200)).tensors()) == 0


ADDRESSES = [(case, name) for case in LAYERS for name in (*case.names, "workspace")]


@pytest.mark.parametrize(("case", "name"), ADDRESSES, ids=[f"{case.operator}-{name}" for case, name in ADDRESSES])
def test_null_addresses_are_rejected(harness: Harness, gpu: Driver, case: Case, name: str) -> None:
    assert make(harness, case).enqueue(case.tensors(), pointers(case.inputs, **{name: 0})) != 0
    said = f"the address of {'the workspace' if name == 'workspace' else name} is null"
    assert said in harness.take_log()
    assert gpu.launches() == []
