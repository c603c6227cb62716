"""What the plugin refuses: fields, types, formats, shapes and addresses; for every set of headers that is found."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from plugin_build import each_header_set
from plugin_cases import TENSORS, c_tensor
from plugin_core import pointers
from plugin_harness import CASE, LARGEST, Harness, configure, fields_of, make

from acm_export.op.signature import INPUTS

if TYPE_CHECKING:
    from plugin_core import Driver


pytest_plugins = ["plugin_fixtures"]
pytestmark = each_header_set()


def test_other_types_and_formats_are_not_supported(harness: Harness) -> None:
    plugin = make(harness)
    for pos, name in enumerate(TENSORS):
        assert not plugin.supports(pos, CASE.tensors(**{name: "other"}))
        tensors = CASE.tensors()
        tensors[pos] = c_tensor(CASE.types()[name], CASE.shapes()[name], linear=False)
        assert not plugin.supports(pos, tensors)
    assert not plugin.supports(3, CASE.tensors(w1="float32"))
    assert not plugin.supports(-1, CASE.tensors())
    assert not plugin.supports(9, CASE.tensors())


BAD_FIELDS = [
    ({"num_learners": 0}, "num_learners is 0; it must be in 1..64"),
    ({"num_learners": 65}, "num_learners is 65; it must be in 1..64"),
    ({"min_learners": 5}, "min_learners is 5; with num_learners = 4 it must be in 0..4"),
    ({"min_learners": -1}, "min_learners is -1; with num_learners = 4 it must be in 0..4"),
    ({"activation": "tanh"}, "activation is 'tanh'; it must be one of gelu, gelu_tanh, relu, silu, identity"),
    ({"activation": b""}, "activation is ''"),
    ({"activation": 3}, "field activation has type 5, expected 6 (characters)"),
    ({"num_learners": "4"}, "field num_learners has type 6, expected 5 (one int32)"),
    ({"num_learners": None}, "field num_learners is missing"),
    ({"activation": None}, "field activation is missing"),
    ({"hidden_dim": 4}, "unknown field 'hidden_dim'"),
]


@pytest.mark.parametrize("phase", ["build", "runtime"])
@pytest.mark.parametrize(("change", "reason"), BAD_FIELDS, ids=[str(change) for change, _ in BAD_FIELDS])
def test_bad_fields_are_rejected(
    harness: Harness, gpu: Driver, change: dict[str, int | str | bytes | None], reason: str, phase: str
) -> None:
    assert gpu.launches() == []
    assert harness.create(fields_of(CASE, **change), runtime_phase=phase == "runtime") is None
    log = harness.take_log()
    assert log.startswith(f"GatedLearners: createPlugin: {reason}")
    assert log.count("\n") == 1


def test_unequal_ranks_are_rejected_when_output_shapes_are_computed(harness: Harness, gpu: Driver) -> None:
    assert gpu.launches() == []
    assert make(harness).output_shapes(CASE.tensors(gate_logits=(100, 4))) is None
    assert "x has rank 3 and gate_logits rank 2" in harness.take_log()


def test_wrong_shapes_are_rejected_in_every_step(harness: Harness, gpu: Driver) -> None:
    wrong = CASE.tensors(w2=(64, 64))
    plugin = make(harness)
    reason = "w2 has shape [64, 64], expected [128, 64]"
    plugin.configure(wrong, wrong, wrong)
    assert reason in harness.take_log()
    assert plugin.workspace(wrong, wrong, wrong) == 0
    assert reason in harness.take_log()
    assert plugin.change_shapes(wrong) != 0
    assert reason in harness.take_log()
    assert plugin.enqueue(wrong) != 0
    assert reason in harness.take_log()
    assert gpu.launches() == []
    assert plugin.enqueue(CASE.tensors()) == 0


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


def test_more_tokens_than_the_profile_allows_are_rejected(harness: Harness, gpu: Driver) -> None:
    plugin = make(harness)
    assert configure(plugin) == 0
    assert plugin.enqueue(replace(CASE, leading=(8, 201)).tensors()) != 0
    assert "x has 1608 tokens; the optimization profile allows up to 1600" in harness.take_log()
    assert gpu.launches() == []
    assert plugin.enqueue(LARGEST.tensors()) == 0


@pytest.mark.parametrize("name", [*INPUTS, "y", "counts", "workspace"])
def test_null_addresses_are_rejected(harness: Harness, gpu: Driver, name: str) -> None:
    assert make(harness).enqueue(CASE.tensors(), pointers(**{name: 0})) != 0
    assert "is null" in harness.take_log()
    assert gpu.launches() == []
