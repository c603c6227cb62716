"""The verb ``verify`` on int8 files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper
from quantized_files import quantize_file

from acm_export.cli import main
from acm_export.demo.digits import ACM, load_test_images

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def int8_digits(tmp_path_factory: pytest.TempPathFactory, digits_file: Path) -> Path:
    """Folder with ``m8.onnx``, the embedded model in int8, and ``d.npz``, the images."""
    folder = tmp_path_factory.mktemp("int8")
    pixels, _ = load_test_images()
    quantize_file(digits_file, folder / "m8.onnx", {"pixel_values": pixels[:64]})
    np.savez(folder / "d.npz", pixel_values=pixels[64:])
    return folder


def verify(folder: Path, *options: object, model: str = "m8.onnx") -> Result:
    given = ["verify", folder / model, "--checkpoint", ACM, "--data", folder / "d.npz", *options]
    return CliRunner().invoke(main, [str(word) for word in given])


def test_an_int8_file_passes_on_real_images(int8_digits: Path) -> None:
    shown = verify(int8_digits, "--samples", 8)
    assert shown.exit_code == 0, shown.output
    assert "int8 static and fp32" in shown.output
    assert "the file computes what the checkpoint computes" in shown.output
    content = json.loads(verify(int8_digits, "--samples", 8, "--json").stdout)
    assert (content["passed"], content["dtype"], content["int8"]) == (True, "fp32", "static")
    for setting in content["settings"]:
        assert setting["cosine"] > 0.999
        assert len(setting["integers"]) == 15
        assert all(one["failure"] is None and one["wrong_inputs"] == 0 for one in setting["integers"])


def test_an_absolute_tolerance_replaces_the_cosine_rule(int8_digits: Path) -> None:
    shown = verify(int8_digits, "--atol", "1e-6")
    assert shown.exit_code == 1
    assert "tolerance 1e-06" in shown.stderr
    assert verify(int8_digits, "--atol", "1e3").exit_code == 0


def test_a_failure_says_what_to_do(int8_digits: Path) -> None:
    model = onnx.load(int8_digits / "m8.onnx")
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".int8.w2"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) // 2, tensor.name))
    onnx.save(model, int8_digits / "halved.onnx")
    shown = verify(int8_digits, model="halved.onnx")
    assert shown.exit_code == 1
    assert "cosine similarity" in shown.stderr
    assert "hint: quantize the float file again" in shown.stderr
    assert "--keep PATTERN" in shown.stderr
