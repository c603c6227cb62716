"""Timing int8 files, beside the dense model in float and in int8."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from calibration_files import write_images
from click.testing import CliRunner, Result
from exported_files import images
from quantized_files import quantize_file
from tiny_models import tiny_vit

from acm_export.base.errors import UsageError
from acm_export.cli import main
from acm_export.exporter import export
from acm_export.modules import ACMSpec
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.report.latency import describe_latency, latency_table
from acm_export.timing import warm_up
from acm_export.timing.latency import latency
from acm_export.timing.result_file import read_result

if TYPE_CHECKING:
    from pathlib import Path

WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``m.onnx`` (float), ``static.onnx``, ``dynamic.onnx``, ``dense.onnx`` (wide), and images."""
    folder = tmp_path_factory.mktemp("latency")
    torch.manual_seed(0)
    layers = {"vit.layers.0.mlp": ACMSpec(64, 4, 16), "vit.layers.1.mlp": ACMSpec(64, 4, 16)}
    for name, specs in (("m", layers), ("dense", {})):
        model = tiny_vit(specs, **WIDE)
        export(model, images(2), folder / f"{name}.onnx", verify=False, output_fields=("logits",))
    for name in ("static", "dynamic"):
        feeds = {"pixel_values": images(8)}
        quantize_file(folder / "m.onnx", folder / f"{name}.onnx", feeds, dynamic=name == "dynamic")
    write_images(folder / "d.npz", 20)
    return folder


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(warm_up, "MAX_WARM_UP_RUNS", 10)


def run(folder: Path, *args: object) -> Result:
    paths = [str(folder / str(a)) if str(a).endswith((".onnx", ".npz")) else str(a) for a in args]
    return CliRunner().invoke(main, ["latency", "--runs", "3", "--warm-up", "0", *paths])


@pytest.mark.parametrize(
    ("name", "data"), [("static", ("--data", "d.npz")), ("dynamic", ()), ("m", ("--data", "d.npz"))]
)
def test_both_baselines_are_timed_with_every_run(
    name: str, data: tuple[str, ...], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, plot, scratch = tmp_path / "r.json", tmp_path / "r.svg", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    args = (f"{name}.onnx", "--baseline", "dense.onnx", "--baseline-int8", *data, "-o", output, "--plot", plot)
    result = run(folder, *args)
    assert result.exit_code == 0, result.output
    read = read_result(output)
    assert read.baseline is not None
    assert read.baseline_int8 is not None
    assert read.baseline.model.file == str(folder / "dense.onnx")
    assert read.baseline_int8.model.file == f"{folder / 'dense.onnx'}, quantised to int8"
    assert read.baseline_int8.model.sha256 not in (None, read.baseline.model.sha256)
    for baseline in (read.baseline, read.baseline_int8):
        assert len(baseline.runs) == len(read.runs) == 4
        for timed, beside in zip(read.runs, baseline.runs, strict=True):
            assert beside.ratio == pytest.approx(timed.host_ms.p50 / beside.host_ms.p50)
    assert read.precision == ("fp32" if name == "m" else f"int8 {name} and fp32")
    assert (read.precision in str(latency_table(read).title)) == (name != "m")
    headers = [str(column.header) for column in latency_table(read).columns]
    assert headers[-2:] == ["÷ baseline", "÷ int8 baseline"]
    assert any("quantised to int8" in line for line in describe_latency(read))
    assert "int8 baseline: p50" in plot.read_text().replace("&#xf7;", "÷")
    assert list(scratch.iterdir()) == []


def test_the_rival_is_quantized_with_the_options_of_the_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def record(dense: Path, output: Path, **options: Any) -> None:
        asked.append(options)
        quantize_file(dense, output, {"pixel_values": images(8)})

    monkeypatch.setattr("acm_export.quantization.quantize.quantize", record)
    weight = "vit.layers.0.attention.q_proj.weight.T"
    changes = {"weight_bits": 7, "kept": ["vit.layers.1.mlp", weight], "migration": None, "samples": 11}
    model = read_model(folder / "static.onnx")
    entry = next(p for p in model.metadata_props if p.key == "acm")
    content = json.loads(entry.value)
    content["quantization"] |= changes
    entry.value = json.dumps(content)
    (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
    given = {"baseline": folder / "dense.onnx", "baseline_int8": True, "runs": 2, "warm_up": 0.0}
    latency(tmp_path / "changed.onnx", data=folder / "d.npz", **given)
    latency(folder / "dynamic.onnx", data=folder / "d.npz", **given)
    latency(folder / "m.onnx", data=folder / "d.npz", **given)
    same = {
        "activations": "static",
        "weight_bits": 7,
        "keep": [weight],
        "embeddings": False,
        "migration": 0.0,
        "samples": 11,
    }
    data = {"data": str(folder / "d.npz"), "processor": None}
    assert asked[0] == same | data
    assert (asked[1]["activations"], asked[1]["data"]) == (
        "dynamic",
        None,
    )  # quantised without data, so its rival is too
    assert asked[2] == data


def test_an_int8_baseline_needs_a_baseline_data_and_a_runtime_for_it(folder: Path) -> None:
    with pytest.raises(UsageError, match="no effect without --baseline"):
        latency(folder / "static.onnx", baseline_int8=True)
    for name in ("static", "m"):
        with pytest.raises(UsageError, match="--baseline-int8 needs --data"):
            latency(folder / f"{name}.onnx", baseline=folder / "dense.onnx", baseline_int8=True)
    options = {"baseline": folder / "dense", "baseline_int8": True, "checkpoint": folder}
    with pytest.raises(UsageError, match="does not apply to --runtime pytorch") as refused:
        latency(folder / "static.onnx", runtime="pytorch", **options)
    assert "onnxruntime" in str(refused.value.hint)


def test_an_int8_baseline_that_is_int8_already_is_refused(folder: Path) -> None:
    quantize_file(folder / "dense.onnx", folder / "dense8.onnx", {"pixel_values": images(8)})
    result = run(folder, "static.onnx", "--baseline", "dense8.onnx", "--baseline-int8", "--data", "d.npz")
    assert result.exit_code == 1
    assert "already" in result.output
    assert run(folder, "static.onnx", "--baseline", "dense8.onnx").exit_code == 0


def test_an_int8_file_beside_a_float_baseline_gets_a_warning(folder: Path) -> None:
    quantize_file(folder / "dense.onnx", folder / "rival.onnx", {"pixel_values": images(8)})
    warned = []
    for model, baseline in (("static", "dense"), ("static", "rival"), ("m", "dense")):
        result = latency(folder / f"{model}.onnx", baseline=folder / f"{baseline}.onnx", runs=2, warm_up=0.0)
        warned.append(any("add --baseline-int8" in text for text in result.warnings))
    assert warned == [True, False, False]


def test_pytorch_does_not_time_an_int8_file(folder: Path) -> None:
    with pytest.raises(UsageError, match="is int8, but PyTorch would run its float checkpoint"):
        latency(folder / "static.onnx", runtime="pytorch", checkpoint=folder / "checkpoint")


def test_an_int8_file_is_timed_like_a_float_file(folder: Path) -> None:
    result = latency(folder / "static.onnx", runs=2, warm_up=0.0)
    assert [run.routing for run in result.runs] == ["data", "skewed", "least", "most"]
    assert result.baseline_int8 is None
    assert result.to_json()["baseline_int8"] is None
    budgets = {run.routing: run.budget_measured for run in result.runs}
    assert (budgets["least"], budgets["most"]) == (0, 1)
    assert read_manifest(read_model(folder / "static.onnx"), "static").quantization is not None
