"""The table of precisions agrees with the libraries whose names it lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import safe_open, save_file

from acm_export.modules.gated_learners import TORCH_DTYPES
from acm_export.op.precision import PRECISIONS, Precision
from acm_export.verification.report import MARGIN_TOLERANCE, OUTPUT_TOLERANCE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=str)
def test_the_names_match_torch_onnx_and_safetensors(precision: Precision, tmp_path: Path) -> None:
    dtype = TORCH_DTYPES[precision.name]
    assert str(dtype) == f"torch.{precision.torch_name}"
    save_file({"w": torch.zeros(2, dtype=dtype)}, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.get_slice("w").get_dtype() == precision.safetensors_name
    element = TensorProto.DataType.Name(precision.onnx_type)
    assert element.lower() in (precision.torch_name, "float")
    assert helper.tensor_dtype_to_np_dtype(precision.onnx_type).itemsize == dtype.itemsize
    assert precision.onnx_name == f"tensor({element.lower()})"


def test_verification_has_a_tolerance_for_every_precision() -> None:
    assert OUTPUT_TOLERANCE.keys() == MARGIN_TOLERANCE.keys() == PRECISIONS.keys()
