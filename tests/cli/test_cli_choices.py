"""The choices that the command line repeats, to stay quick, are those of the code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from acm_export.cli import main
from acm_export.cli.export import TARGETS as OFFERED
from acm_export.cli.export import export
from acm_export.demo.digits import ACM
from acm_export.exporter.options import MAX_OPSET
from acm_export.onnx_file.lowering import OPSET as TENSORRT_8_OPSET
from acm_export.onnx_file.targets import TARGETS
from acm_export.op.precision import PRECISIONS

if TYPE_CHECKING:
    from pathlib import Path


def test_export_offers_every_dtype_and_target() -> None:
    (option,) = [parameter for parameter in export.params if parameter.name == "dtype"]
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == tuple(PRECISIONS)
    assert tuple(TARGETS) == OFFERED


def test_export_offers_every_opset() -> None:
    (option,) = [parameter for parameter in export.params if parameter.name == "opset"]
    assert isinstance(option.type, click.IntRange)
    assert (option.type.min, option.type.max) == (TENSORRT_8_OPSET, MAX_OPSET)


def test_help_explains_every_target() -> None:
    text = CliRunner().invoke(main, ["export", "--help"]).stdout
    for target in TARGETS:
        assert f"  {target} " in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target", "tensorrt-8", "--dtype", "bf16"], "fp16 or fp32"),
        (["--target", "tensorrt-8", "--opset", "20"], "17"),
        (["--opset", "17"], "18..22"),
        (["--target", "tensorrt-8", "--opset", "16"], "a whole number from 17 to 22"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(options: list[str], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["export", str(ACM), "-o", str(tmp_path / "m.onnx"), *options])
    assert result.exit_code == 2
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_for_tensorrt_8_goes_through_export_inspect_and_verify(tmp_path: Path) -> None:
    path = str(tmp_path / "m.onnx")
    for args in (
        ["export", str(ACM), "-o", path, "--target", "tensorrt-8"],
        ["verify", path, "--checkpoint", str(ACM)],
    ):
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 0, result.stderr
        assert "tensorrt-8" in result.stdout
    shown = CliRunner().invoke(main, ["inspect", path]).stdout
    assert "TensorRT 8.5 and 8.6" in shown
    assert "opset 17" in shown
