"""What is special about gated FFNs in the plugin's core; test_plugin_launch.py tests what all operators share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from plugin_cases import Case, GluCase, QuantizedCase, QuantizedGluCase
from plugin_core import Core, Driver, pointers

from acm_export.plugins.kernels.tiles import entries

if TYPE_CHECKING:
    from plugin_core import Launch

pytest_plugins = ["plugin_fixtures"]

SISTERS = [(GluCase(), Case()), (QuantizedGluCase(), QuantizedCase())]
sisters = pytest.mark.parametrize(("case", "sister"), SISTERS, ids=["float", "int8"])


def launches_of(core: Core, driver: Driver, case: Case, **addresses: int) -> list[Launch]:
    assert core.layer(case).enqueue(case.tensors(), pointers(case.inputs, **addresses)), core.error
    return driver.launches()


def test_arguments_grids_and_workspace_written_out(core: Core, driver: Driver) -> None:
    case = GluCase(leading=(700,), model_dim=256, hidden_dim=256, num_learners=3)  # sm_90, many tokens
    # what both launchers would get wrong in the same way
    *_, up, down = launches_of(core, driver, case)
    assert (up.kernel.kernel, up.kernel.even, down.kernel.kernel) == ("up_glu", True, "down")
    assert list(up.arguments)[:8] == ["x", "order", "reach", "w1", "b1", "v1", "c1", "hidden"]
    assert [up.arguments[name] for name in ("w1", "b1", "v1", "c1")] == [(n, 0) for n in ("w1", "b1", "v1", "c1")]
    assert up.grid == (6 * 3 * 2, 1)  # tiles of 128 x 128
    assert down.grid == (6 * 1, 1)  # tiles of 128 x 256
    hidden = up.arguments["hidden"]
    assert isinstance(hidden, tuple)
    assert core.layer(case).workspace(case.tensors()) >= hidden[1] + 700 * 3 * 256 * 2


def test_arguments_of_the_int8_operator_written_out(core: Core, driver: Driver) -> None:
    case = QuantizedGluCase(leading=(20,), model_dim=256, hidden_dim=256, num_learners=3)
    *_, quantize, up, down = launches_of(core, driver, case)
    assert [run.kernel.kernel for run in (quantize, up, down)] == ["quantize_rows", "up_int8_glu", "down_split_int8"]
    assert not up.kernel.even, "for few tokens there are no kernels without masks"
    assert down.kernel.even
    weights = {"w1_t": "w1", "s1": "s1", "b1": "b1", "v1_t": "v1", "t1": "t1", "c1": "c1"}
    assert {name: up.arguments[name] for name in weights} == {name: (place, 0) for name, place in weights.items()}
    assert up.grid == (1 * 3 * 8, 1)  # tiles of 32 x 32


@pytest.mark.parametrize("tokens", [1, 64, 512, 513, 25_216])
def test_on_sm_90_kernels_in_triton_run_them_although_the_driver_encodes_tensor_maps(
    core: Core, driver: Driver, tokens: int
) -> None:
    case = GluCase(leading=(tokens,), model_dim=768, hidden_dim=768)
    names = [run.kernel.kernel for run in launches_of(core, driver, case)]
    assert "up_glu" in names
    assert not any("hopper" in name for name in names)
    assert driver.num_overlapping == 0
    plain = {
        run.kernel.kernel for run in launches_of(core, driver, Case(leading=(tokens,), model_dim=768, hidden_dim=768))
    }
    assert ("up_hopper" in plain) == (tokens > 512)


@sisters
def test_routing_gemm_2_and_the_workspace_are_those_of_the_sister(
    core: Core, driver: Driver, case: Case, sister: Case
) -> None:
    driver.reset((8, 0))
    driver.context(0x8000, 80)
    for tokens in (1, 40, 300, 3000):
        found = []
        for each in (replace(case, leading=(tokens,)), replace(sister, leading=(tokens,))):
            runs = launches_of(core, driver, each)
            found.append([(run.kernel, run.grid) for run in runs if not run.kernel.kernel.startswith("up")])
            found[-1].append(core.layer(each).workspace(each.tensors()))
        assert found[0] == found[1]


def test_a_tactic_of_kernels_in_cuda_is_left_for_the_table(core: Core, driver: Driver) -> None:
    case = GluCase(leading=(700,), model_dim=768, hidden_dim=768)
    layer, in_cuda = core.layer(case), next(i for i, entry in enumerate(entries()) if entry.language == "cuda")
    assert layer.set_tactic(in_cuda + 1)
    assert layer.enqueue(case.tensors()), core.error
    assert any(run.kernel.kernel == "up_glu" for run in driver.launches())


WRONG = [
    (GluCase(), {"v1": (64, 64)}, "v1 has shape [64, 64], expected [64, 128]"),
    (GluCase(), {"c1": (129,)}, "c1 has shape [129], expected [128]"),
    (GluCase(), {"v1": "float32"}, "v1 is float32; with x of float16 it must be float16"),
    (GluCase(), {"c1": "float32"}, "c1 is float32; with x of float16 it must be float16"),
    (QuantizedGluCase(), {"v1": (2047,)}, "v1 has shape [2047], expected [2048]"),
    (QuantizedGluCase(), {"t1": (64,)}, "t1 has shape [64], expected [128]"),
    (QuantizedGluCase(), {"c1": (1, 128)}, "c1 has rank 2, expected 1"),
    (QuantizedGluCase(), {"v1": "int8"}, "v1 is int8; files for TensorRT pack int8 values into int32"),
    (QuantizedGluCase(), {"t1": "float16"}, "t1 is float16; with x of float16 it must be float32"),
]


@pytest.mark.parametrize(("case", "change", "reason"), WRONG, ids=[reason[:24] for *_, reason in WRONG])
def test_wrong_types_and_shapes_are_rejected_with_both_values(
    core: Core, driver: Driver, case: Case, change: dict[str, tuple[int, ...] | str], reason: str
) -> None:
    layer = core.layer(case)
    for step in (layer.prepare, layer.enqueue):
        assert not step(case.tensors(**change))
        assert reason in core.error
    assert driver.launches() == []
