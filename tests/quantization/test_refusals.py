"""What quantize refuses, and that nothing is written then."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from int8_models import rewritten, with_weights

import acm_export as acm
from acm_export.base import interrupts

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def data(int8_sources: Path) -> str:
    return str(int8_sources / "data.npz")


def refuse(error: type[BaseException], message: str | None, source: Path, output: Path, **options: Any) -> str:
    """Check that quantising fails, and that nothing was written; returns the hint."""
    before = sorted(output.parent.iterdir())
    with pytest.raises(error, match=message) as caught:
        acm.quantize(source, output, **options)
    assert sorted(output.parent.iterdir()) == before
    return str(getattr(caught.value, "hint", None))


def test_static_activations_need_data(int8_sources: Path, tmp_path: Path) -> None:
    hint = refuse(acm.UsageError, "need data", int8_sources / "m.onnx", tmp_path / "o.onnx")

    assert "--activations dynamic" in hint


def test_a_file_that_is_already_int8(int8_sources: Path, tmp_path: Path, data: str) -> None:
    acm.quantize(int8_sources / "m.onnx", tmp_path / "m8.onnx", data=data)

    hint = refuse(acm.ModelFileError, "already quantised", tmp_path / "m8.onnx", tmp_path / "o.onnx", data=data)

    assert "float file" in hint


def test_a_bf16_file(int8_sources: Path, tmp_path: Path, data: str) -> None:
    rewritten(int8_sources / "m.onnx", tmp_path / "m.onnx", dtype="bf16")

    hint = refuse(acm.ModelFileError, "bf16", tmp_path / "m.onnx", tmp_path / "o.onnx", data=data)

    assert "--dtype fp32 or fp16" in hint


@pytest.mark.parametrize("target", ["tensorrt", "ort-tensorrt", "tensorrt-8"])
def test_dynamic_activations_for_tensorrt(int8_sources: Path, tmp_path: Path, target: str) -> None:
    rewritten(int8_sources / "m.onnx", tmp_path / "m.onnx", target=target)

    refuse(acm.UsageError, target, tmp_path / "m.onnx", tmp_path / "o.onnx", activations="dynamic")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 4}, "weight bits is 4; expected 7 or 8"),
        ({"activations": "fast"}, "unknown activations 'fast'"),
        ({"migration": 1.5}, "migration is 1.5"),
        ({"migration": float("nan")}, "migration is nan"),
        ({"samples": 0}, "samples is 0"),
        ({"batch": -1}, "batch is -1"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"keep": ["*.mlpp"]}, "--keep '*.mlpp' matches no layer"),
        ({"keep": ["*"]}, "nothing in .* can run in int8"),
    ],
)
def test_wrong_options(int8_sources: Path, tmp_path: Path, data: str, options: dict[str, Any], message: str) -> None:
    pattern = message if ".*" in message else re.escape(message)
    refuse(acm.UsageError, pattern, int8_sources / "m.onnx", tmp_path / "o.onnx", **({"data": data} | options))


def test_wrong_outputs(int8_sources: Path, tmp_path: Path, data: str) -> None:
    source = int8_sources / "m.onnx"
    refuse(acm.UsageError, r"must end in \.onnx", source, tmp_path / "o.plan", data=data)
    with pytest.raises(acm.OutputError, match="does not exist"):
        acm.quantize(source, tmp_path / "no" / "o.onnx", data=data)
    (tmp_path / "ro.onnx").write_bytes(b"mine")
    (tmp_path / "ro.onnx").chmod(0o444)
    refuse(acm.OutputError, "read-only", source, tmp_path / "ro.onnx", data=data)


def test_data_that_do_not_fit(int8_sources: Path, tmp_path: Path) -> None:
    source = int8_sources / "m.onnx"
    refuse(acm.UsageError, "there is no file or folder", source, tmp_path / "o.onnx", data="missing.npz")
    wrong = {"pixel_values": np.zeros((6, 3, 8, 8), np.float32)}
    refuse(acm.UsageError, "pixel_values is float32", source, tmp_path / "o.onnx", data=wrong)
    nan = {"pixel_values": np.full((6, 1, 8, 8), np.nan, np.float32)}
    refuse(acm.UsageError, "NaN or infinity", source, tmp_path / "o.onnx", data=nan)


@pytest.mark.parametrize(
    ("values", "message"), [(0.0, "reads only zeros"), (np.inf, "reads infinite values"), (np.nan, "reads NaN values")]
)
def test_a_layer_whose_input_sets_no_scale_is_named(
    int8_sources: Path, tmp_path: Path, data: str, values: float, message: str
) -> None:
    norm = {"vit_layers_1_layernorm_after_weight": 0.0, "vit_layers_1_layernorm_after_bias": values}
    with_weights(int8_sources / "m.onnx", tmp_path / "m.onnx", **norm)

    hint = refuse(
        acm.QuantizationError, f"vit.layers.1.mlp {message}", tmp_path / "m.onnx", tmp_path / "o.onnx", data=data
    )

    assert ("--keep 'vit.layers.1.mlp'" if values == 0 else "acm-export verify") in hint


def test_an_interrupt_leaves_the_old_file(
    int8_sources: Path, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "o.onnx").write_bytes(b"old")

    def interrupt(*_: object) -> None:
        raise interrupts.Interrupted

    monkeypatch.setattr("acm_export.quantization.run.finish", interrupt)

    refuse(interrupts.Interrupted, None, int8_sources / "m.onnx", tmp_path / "o.onnx", data=data)

    assert (tmp_path / "o.onnx").read_bytes() == b"old"


def test_a_full_disk_leaves_the_old_file(
    int8_sources: Path, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "o.onnx").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("acm_export.onnx_file.staged_file.write_embedded", full)

    refuse(acm.OutputError, "no space left", int8_sources / "m.onnx", tmp_path / "o.onnx", data=data)

    assert (tmp_path / "o.onnx").read_bytes() == b"old"


def test_a_file_of_another_tool(int8_sources: Path, tmp_path: Path, data: str) -> None:
    model = onnx.load(int8_sources / "m.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")

    refuse(acm.ModelFileError, "ACM layers but no manifest", tmp_path / "foreign.onnx", tmp_path / "o.onnx", data=data)


def test_an_output_may_replace_its_source(int8_sources: Path, tmp_path: Path, data: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes((int8_sources / "m.onnx").read_bytes())

    acm.quantize(path, path, data=data)

    assert acm.inspect(path).manifest.quantization is not None
