"""Requests of different lengths: their choice, their blocks, and the rows of the result."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_families import acm_model, dense_model
from user_data import write_wav

from acm_export.base.errors import UsageError
from acm_export.checkpoints import save_checkpoint
from acm_export.cli import main
from acm_export.data.batches import GraphInput
from acm_export.data.open_data import open_data
from acm_export.exporter import export
from acm_export.timing import warm_up
from acm_export.timing.backends.backend import DeviceTimes
from acm_export.timing.backends.onnx_backend import OnnxBackend
from acm_export.timing.inputs import MAX_BATCHES, MAX_REQUESTS, data_batches
from acm_export.timing.latency import latency
from acm_export.timing.lengths import Lengths, length_buckets
from acm_export.timing.measure import SETTLING_RUNS
from acm_export.timing.measure_requests import RequestCalls, measure_requests
from acm_export.timing.request import LatencyRequest
from acm_export.timing.result_file import read_result
from acm_export.timing.runs import _open_inputs

if TYPE_CHECKING:
    from pathlib import Path

IDS = GraphInput("input_ids", ("batch", "tokens"), np.dtype(np.int64))
MASK = GraphInput("attention_mask", ("batch", "tokens"), np.dtype(np.int64))
SIZES = (3, 5, 9, 17, 4, 8, 30, 16)


def sentences(sizes: tuple[int, ...] = SIZES) -> list[dict[str, Any]]:
    return [{"input_ids": np.arange(size) % 19 + 1} for size in sizes]


def request(size: int) -> dict[str, Any]:
    return {"input_ids": np.zeros((1, size), np.int64)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lengths")
    torch.manual_seed(0)
    for name, family in (("text", "bert sequences"), ("sound", "wav2vec2")):
        (folder / name).mkdir()
        save_checkpoint(acm_model(family, "ffn"), folder / name / "acm")
        save_checkpoint(dense_model(family), folder / name / "dense")
        for kind in ("acm", "dense"):
            export(folder / name / kind, output=folder / name / f"{kind}.onnx", verify=False)
    return folder


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(warm_up, "MAX_WARM_UP_RUNS", 10)
    made = types.ModuleType("mine_for_lengths")
    vars(made).update(make=sentences, equal=lambda: sentences((4,) * 20))
    monkeypatch.setitem(sys.modules, "mine_for_lengths", made)


DATA, EQUAL = "mine_for_lengths:make", "mine_for_lengths:equal"


def test_buckets_end_at_powers_of_two_and_hold_every_request_once() -> None:
    whole, *parts = length_buckets([IDS], [request(size) for size in SIZES])
    assert whole.lengths == Lengths("tokens", 3, 30, 8, whole=True)
    assert [(b.lengths.low, b.lengths.high, b.lengths.requests) for b in parts] == [
        (3, 4, 2),
        (5, 8, 2),
        (9, 16, 2),
        (17, 32, 2),
    ]
    assert sorted(index for b in parts for index in b.requests) == list(range(8))
    assert all(b.lengths.low <= SIZES[index] <= b.lengths.high for b in parts for index in b.requests)
    assert [b.lengths.whole for b in length_buckets([IDS], [request(5), request(6)])] == [True], "one bucket is all"
    assert length_buckets([IDS], [request(5), request(5)]) == ()


def test_requests_are_spread_over_the_data_and_have_their_own_shapes(tmp_path: Path) -> None:
    data = open_data(sentences(tuple(range(1, 201))), [IDS, MASK], model_folder=tmp_path)
    fed = data_batches(data, 1)
    sizes = [batch["input_ids"].shape[1] for batch in fed.batches]
    assert len(sizes) == MAX_REQUESTS
    assert sizes[0] == 1
    assert sizes[-1] > 190
    assert all(batch["attention_mask"].all() for batch in fed.batches), "no padding at batch 1"
    assert fed.shapes == {"input_ids": [1, max(sizes)], "attention_mask": [1, max(sizes)]}


def test_a_batch_is_padded_to_its_longest_sample(tmp_path: Path) -> None:
    fed = data_batches(open_data(sentences((2, 5, 3, 4)), [IDS, MASK], model_folder=tmp_path), 2)
    assert [batch["input_ids"].shape for batch in fed.batches] == [(2, 5), (2, 4)]
    assert fed.batches[0]["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]


def test_equal_lengths_are_timed_as_before(tmp_path: Path) -> None:
    fed = data_batches(open_data(sentences((4,) * 20), [IDS, MASK], model_folder=tmp_path), 1)
    assert (len(fed.batches), fed.buckets, fed.shapes["input_ids"]) == (MAX_BATCHES, (), [1, 4])


class FakeClock:
    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        """Nothing waits."""


class Model:
    """Takes a sixteenth of a second for each token, times a factor."""

    def __init__(self, clock: FakeClock, factor: float = 1.0) -> None:
        self.clock, self.factor, self.sizes = clock, factor, list[int]()

    def run(self, feeds: dict[str, Any]) -> DeviceTimes:
        size = feeds["input_ids"].shape[1]
        self.sizes.append(size)
        self.clock.time += size * self.factor / 16
        return DeviceTimes()


@pytest.mark.parametrize(("runs", "passes"), [(1, 1), (3, 1), (7, 3)])
def test_every_block_runs_all_requests_equally_often(runs: int, passes: int) -> None:
    clock = FakeClock()
    models = [Model(clock), Model(clock, 2.0)]
    requests = [request(size) for size in (2, 8, 4)]
    calls = [[RequestCalls(model.run, requests, 2)] for model in models]
    timed = measure_requests(*calls, runs=runs, clock=clock)
    for model, measurement in zip(models, timed, strict=True):
        assert len(measurement.host_ms) == 3 * passes
        block = len(measurement.blocks[0])
        assert model.sizes[-block - SETTLING_RUNS :] == [8, 4] + [2, 8, 4] * (block // 3), "settled, then in order"
    assert timed[0].by_request(3) == (125.0, 500.0, 250.0)
    assert timed[1].by_request(3) == (250.0, 1000.0, 500.0)
    part = timed[0].of([0, 2], 3)
    assert sorted(set(part.host_ms)) == [125.0, 250.0]
    assert part.seconds == pytest.approx(passes * 0.375)
    assert part.runs_per_second == pytest.approx(2 / 0.375)


def test_the_duration_holds_whole_passes() -> None:
    clock = FakeClock()
    model = Model(clock)
    calls = [RequestCalls(model.run, [request(2), request(14)], 0)]
    (measurement,) = measure_requests(calls, seconds=10.5, clock=clock)
    assert len(measurement.host_ms) == 20
    assert len(measurement.blocks) == 8
    assert {tuple(sorted(set(block))) for block in measurement.blocks} == {(125.0, 875.0)}
    (least,) = measure_requests(calls, seconds=0.1, clock=clock)
    assert len(least.host_ms) == 4, "at least two passes"


def test_the_result_has_all_requests_and_every_bucket(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    text = folder / "text"
    result = latency(text / "acm.onnx", data=DATA, baseline=text / "dense.onnx", runs=8, output=output)
    assert read_result(output) == result
    routings = list(dict.fromkeys(run.routing for run in result.runs))
    assert len(result.runs) == 5 * len(routings), "all requests and four buckets for each routing"
    assert [run.routing for run in result.runs if run.is_whole] == routings
    whole, *parts = result.runs[:5]
    assert whole.lengths == Lengths("tokens", 3, 30, 8, whole=True)
    assert whole.inputs["input_ids"] == [1, 30]
    assert [run.inputs["input_ids"] for run in parts] == [[1, 4], [1, 8], [1, 16], [1, 30]]
    assert sum(run.host_ms.n for run in parts) == whole.host_ms.n == 8
    assert max(run.host_ms.max for run in parts) == whole.host_ms.max
    budgets = [(run.budget_measured, run.lengths) for run in parts]
    tokens = [sum(size for size in SIZES if at.low <= size <= at.high) for _, at in budgets if at is not None]
    weighted = sum(budget * count for (budget, _), count in zip(budgets, tokens, strict=True) if budget is not None)
    assert whole.budget_measured == pytest.approx(weighted / sum(SIZES))
    assert result.baseline is not None
    assert len(result.baseline.runs) == len(result.runs)
    assert result.fit.fixed_ms is not None
    content = json.loads(output.read_text())
    assert content["runs"][1]["lengths"] == {"axis": "tokens", "low": 3, "high": 4, "requests": 2, "whole": False}


def test_tables_show_lengths_and_checks_apply_to_all_requests(folder: Path, tmp_path: Path) -> None:
    model, old = str(folder / "text" / "acm.onnx"), tmp_path / "old.json"
    shown = CliRunner().invoke(main, ["latency", model, "--data", DATA, "--runs", "8", "-o", str(old)])
    assert shown.exit_code == 0, shown.stderr
    assert "8 requests of 3-30 tokens, each at its own shape and equally often" in shown.stdout
    assert "by length, routed by the gates (ms)" in shown.stdout
    rows = [line.split() for line in shown.stdout.splitlines() if line.split()[1:2] in (["3-4"], ["17-32"])]
    assert [row[2] for row in rows] == ["2", "2"]
    assert "fills only one batch" not in shown.stderr
    result = latency(folder / "text" / "acm.onnx", data=DATA, runs=8, assert_p99=["0.000001ms"], compare=old)
    assert len([text for text in result.failures if text.startswith("p99 is ")]) == 1
    assert not any("lacks" in text for text in result.warnings)
    content = json.loads(old.read_text())
    for run in content["runs"]:
        run["host_ms"]["p50"] *= 1e-6
    old.write_text(json.dumps(content))
    slower = latency(folder / "text" / "acm.onnx", data=DATA, runs=8, compare=old).failures
    assert len(slower) == sum(run.is_whole for run in result.runs)


def test_results_without_lengths_are_still_read(folder: Path, tmp_path: Path) -> None:
    latency(folder / "text" / "acm.onnx", data=EQUAL, runs=1, output=tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    for run in content["runs"]:
        assert run.pop("lengths") is None
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert all(run.lengths is None for run in read_result(tmp_path / "r.json").runs)
    content["runs"][0]["lengths"] = {"axis": "tokens", "low": 1}
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"runs\[0\]\.lengths\.high is missing"):
        read_result(tmp_path / "r.json")


def test_sounds_of_different_lengths_need_no_mask_one_at_a_time(folder: Path, tmp_path: Path) -> None:
    for index in range(6):
        write_wav(tmp_path / f"{index}.wav", (9000 * np.sin(np.arange(300 + 100 * index))).astype("<i2"))
    result = latency(folder / "sound" / "acm.onnx", data=tmp_path, runs=6)
    assert result.runs[0].lengths == Lengths("samples", 300, 800, 6, whole=True)
    with pytest.raises(UsageError, match="input_values has samples of the lengths 300 to 400, and the model takes no"):
        latency(folder / "sound" / "acm.onnx", data=tmp_path, batch=2, runs=6)


def test_a_cuda_graph_and_a_profile_that_is_too_small_are_refused(folder: Path) -> None:
    file = OnnxBackend().read(folder / "text" / "acm.onnx")
    with pytest.raises(UsageError, match=r"a CUDA graph has one shape; .* has requests of 3-30 tokens"):
        _open_inputs(LatencyRequest(file.path, data=DATA, cuda_graph=True), file)
    request = LatencyRequest(file.path, data=DATA)
    assert len(_open_inputs(request, replace(file, profiles={"input_ids": [[1, 3], [1, 8], [1, 30]]}))) == 1
    for low, high in ((4, 30), (3, 29)):
        profiles = {"input_ids": [[1, low], [1, 8], [1, high]]}
        with pytest.raises(UsageError, match=f"from 1x{low} to 1x{high}, not for 1x{3 if low == 4 else 30}"):
            _open_inputs(request, replace(file, profiles=profiles))


@pytest.mark.parametrize("streams", [1, 2])
def test_streams_each_run_all_requests(folder: Path, streams: int) -> None:
    result = latency(folder / "text" / "acm.onnx", data=DATA, runs=16, streams=streams, batch=[1, 2])
    whole = [run for run in result.runs if run.is_whole and run.routing == "data"]
    assert [run.host_ms.n for run in whole] == [16 * streams, 16 * streams]
    assert [run.batch for run in whole] == [1, 2]
