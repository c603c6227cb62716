"""The rivals of benchmarks/kernels.py match the loop, and the program keeps its results.

On a CPU, with the host's clock instead of device events: the tests check values and files, not times.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from gpu_reference import Inputs, random_inputs, reference

from acm_export.op.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Callable

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    import common
    import dense_rivals
    import device_timing
    import kernel_bench
    import kernel_cases
    import kernel_figures
    import kernel_report
    import kernels
    import skipping_rivals
finally:
    sys.path.remove(str(BENCHMARKS))

SIZES = (64, 32, 4)
PRECISE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


class Graph:
    """A fake of a captured CUDA graph."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.replay = call


class Event:
    """A fake of a CUDA event."""

    def __init__(self, **_options: bool) -> None:
        self._at = 0.0

    def record(self) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end._at - self._at)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> kernel_bench.Bench:
    """A quick run on the CPU; nothing is compiled."""
    monkeypatch.setattr(device_timing, "_capture", Graph)
    monkeypatch.setattr(device_timing, "_SETTLING_MS", 0.0)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    return new_bench(tmp_path, seconds=600)


def new_bench(folder: Path, seconds: float) -> kernel_bench.Bench:
    options = common.parser("A test.").parse_args(["--quick", "--device", "cpu", "--output", str(folder)])
    setting = kernel_bench.Setting(device="cpu", **kernel_bench.QUICK)
    report = kernel_report.Report(common.ResultFile("kernels", options), seconds)
    return kernel_bench.Bench(setting, report)


def written(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "cpu" / "kernels-quick.json").read_text())
    return content


def layer_and_inputs(dtype: torch.dtype, tokens: int = 300) -> tuple[Any, Inputs]:
    inputs = random_inputs(tokens, SIZES[0], SIZES[1], Signature(SIZES[2], 0, "gelu"), dtype, device="cpu")
    layer = kernel_cases.steered_layer(SIZES, "cpu").to(dtype)
    names = ("w1", "b1", "w2", "b2")
    for name, value in zip(names, inputs.tensors[3:], strict=True):
        getattr(layer, name).data = value
    return layer, inputs


@pytest.mark.parametrize("dtype", PRECISE)
@pytest.mark.parametrize("name", ["masked_loop", "one_product_per_learner", "grouped_products"])
def test_a_rival_that_skips_learners_matches_the_loop(name: str, dtype: torch.dtype) -> None:
    if name == "grouped_products":
        needs_grouped_mm(dtype)
    layer, inputs = layer_and_inputs(dtype)
    expected, counts = reference(inputs)
    routed = skipping_rivals.Routed.of(inputs.tensors[0], counts, SIZES[2])
    y = getattr(skipping_rivals, name)(routed, skipping_rivals.Learners.of(layer))
    assert y.dtype == dtype
    assert skipping_rivals.relative_error(y, expected) < PRECISE[dtype]


def needs_grouped_mm(dtype: torch.dtype) -> None:
    try:
        a, b = torch.ones(8, 16, dtype=dtype), torch.ones(1, 16, 16, dtype=dtype)
        skipping_rivals.grouped_mm()(a, b, offs=torch.tensor([8], dtype=torch.int32))
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"no grouped product of {dtype} on a CPU in PyTorch {torch.__version__}: {error}")


def all_learners(inputs: Inputs) -> torch.Tensor:
    """Y where every token runs every learner, float64."""
    x, logits, thresholds, *weights = inputs.tensors
    return reference(Inputs((x, logits, torch.full_like(thresholds, -torch.inf), *weights), inputs.signature))[0]


@pytest.mark.parametrize("dtype", PRECISE)
def test_a_plain_dense_rival_computes_all_learners(dtype: torch.dtype) -> None:
    layer, inputs = layer_and_inputs(dtype)
    rivals = dense_rivals.plain_rivals(dense_rivals.Weights.of(layer))
    assert len(rivals) == 4
    for rival in rivals.values():
        assert skipping_rivals.relative_error(rival(inputs.tensors[0]), all_learners(inputs)) < PRECISE[dtype]


@pytest.mark.parametrize("name", ["float8", "int8"])
def test_a_low_precision_rival_is_close_to_all_learners(name: str) -> None:
    layer, inputs = layer_and_inputs(torch.bfloat16)
    x = inputs.tensors[0]
    arguments = getattr(dense_rivals.Quantised, f"to_{name}")(dense_rivals.Weights.of(layer), x)
    try:
        y = getattr(dense_rivals, name)(x, *arguments)
    except (NotImplementedError, RuntimeError) as error:
        pytest.skip(f"no product of {name} on a CPU in PyTorch {torch.__version__}: {error}")
    error = skipping_rivals.relative_error(y, all_learners(inputs))
    assert 1e-3 < error < 0.1


def test_a_narrowed_mlp_is_the_first_learners() -> None:
    layer, inputs = layer_and_inputs(torch.float32)
    weights = dense_rivals.Weights.of(layer)
    x, half = inputs.tensors[0], 2 * SIZES[1]
    first = torch.nn.functional.gelu(x @ layer.w1[:, :half] + layer.b1[:half]) @ layer.w2[:half] + layer.b2[-1]
    assert skipping_rivals.relative_error(dense_rivals.eager(x, *weights.narrowed(half)), first) < 1e-5


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_the_gate_of_a_case_runs_the_requested_share(share: float) -> None:
    given = kernel_cases.case(SIZES, 5000, share, device="cpu")
    assert given.share() == pytest.approx(share, abs=0.02)
    assert all(torch.equal(z.argmax(-1).int(), c) for z, c in zip(given.logits, given.counts(), strict=True))
    assert torch.equal(given.forward(given.tokens[0]), given.run(given.tokens[0], given.logits[0])[0])


def test_a_compilation_that_takes_too_long_is_interrupted() -> None:
    with pytest.raises(TimeoutError, match="longer than"), dense_rivals.time_limit(0.1):
        time.sleep(5)


ON_A_GPU_ALONE = {"routing", "entries", "energy", "pack"}


@pytest.mark.slow
def test_the_whole_program_runs_and_writes_every_figure(
    bench: kernel_bench.Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(_bench: kernel_bench.Bench) -> None:
        raise kernel_report.UnavailableError("not installed: c++")

    monkeypatch.setattr(kernels, "packed", no_compiler)
    kernels.measure(bench)
    result = written(tmp_path)
    states = {name: part["state"] for name, part in result["parts"].items()}
    assert {name for name, state in states.items() if state != "run"} <= ON_A_GPU_ALONE
    assert [row["what"] for row in result["rows"]] == [row.what for row in bench.report.rows]
    failed = {row["what"]: row["facts"] for row in result["rows"] if {"failed", "skipped"} & set(row["facts"])}
    assert not {what for what in failed if not what.startswith(("grouped_mm", "dense in"))}, failed
    bench.report.show()
    kernels.plot(bench.report.rows, tmp_path / "kernels.json")
    assert (tmp_path / "kernels.png").stat().st_size > 0


def test_a_part_that_fails_does_not_stop_the_next(bench: kernel_bench.Bench, tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("no such kernel\nlong explanation")

    bench.report.attempt("first", broken)
    bench.report.attempt("second", lambda: bench.report.add(kernel_report.Row("second", "a figure", 1.0)))
    parts = written(tmp_path)["parts"]
    assert (parts["first"]["state"], parts["first"]["reason"]) == ("failed", "RuntimeError: no such kernel")
    assert parts["second"]["state"] == "run"
    assert bench.report.failed


def test_a_compilation_that_takes_too_long_is_skipped(
    bench: kernel_bench.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrapping(*_arguments: torch.Tensor) -> None:
        try:
            time.sleep(5)
        except TimeoutError as error:
            raise RuntimeError("backend failed") from error

    monkeypatch.setattr(torch, "compile", lambda _function, **_options: wrapping)
    bench.compare_dense(40, {"compiled": None}, seconds=0.1)
    assert bench.report.rows[-1].facts == {"skipped": "TimeoutError: takes longer than 0 s"}
    assert not bench.report.failed


def test_rows_measured_before_time_runs_out_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(kernel_report, "time", SimpleNamespace(monotonic=lambda: clock.now))
    report = new_bench(tmp_path, seconds=3).report

    def long() -> None:
        for number in range(100):
            clock.now += 1
            report.add(kernel_report.Row("long", f"figure {number}"))

    report.attempt("long", long)
    report.attempt("late", long)
    result = written(tmp_path)
    assert len(result["rows"]) == 3
    assert result["parts"]["long"]["state"] == "cut short"
    assert result["parts"]["late"] == {"state": "not run", "seconds": 0.0, "reason": "out of time"}
    assert not report.failed


@pytest.mark.parametrize(
    ("must", "holds"),
    [
        (kernel_report.Must(1.1, 1.1), True),
        (kernel_report.Must(1.2, 1.1), False),
        (kernel_report.Must(0.6, 0.6, at_most=False), True),
        (kernel_report.Must(0.5, 0.6, at_most=False), False),
        (kernel_report.Must(float("nan"), 1.0), False),
        (kernel_report.Must(float("nan"), 1.0, at_most=False), False),
    ],
)
def test_limits_are_checked(must: kernel_report.Must, holds: bool) -> None:
    assert must.holds is holds


@pytest.mark.parametrize("packed", [True, False])
def test_entries_to_compare_are_all_others_that_can_run(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    launch = kernel_figures.launch
    monkeypatch.setattr(launch, "architecture", lambda _device: "sm_90")
    monkeypatch.setattr(launch, "usable_pack", lambda _device: object() if packed else None)
    given = kernel_cases.case((192, 192, 4), 600, 0.5, device="cpu")
    others = kernel_figures.entries_that_run(given)
    assert given.entry.language == ("cuda" if packed else "triton")
    assert given.entry not in others
    assert {entry.language for entry in others} == ({"cuda", "triton"} if packed else {"triton"})
    assert {entry.max_tokens for entry in others} == {None}
    assert {entry.split for entry in others} >= {0, 1, 2}
    for entry in others:
        chosen = kernel_cases.choose((entry,), "sm_90", given.problem, packed=packed)
        assert chosen == entry
