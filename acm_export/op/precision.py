"""The precisions of weights and activations, and the names that other libraries have for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """One precision.

    Args:
        name: Name in manifests, options and results.
        torch_name: Name of the ``torch.dtype``.
        safetensors_name: Name in the header of a safetensors file.
        onnx_type: Element type, ``onnx.TensorProto.DataType``; a number, so that the command line need not import onnx.
        onnx_name: Type string of a schema.
    """

    name: str
    torch_name: str
    safetensors_name: str
    onnx_type: int
    onnx_name: str


FP32 = Precision("fp32", "float32", "F32", 1, "tensor(float)")
FP16 = Precision("fp16", "float16", "F16", 10, "tensor(float16)")
BF16 = Precision("bf16", "bfloat16", "BF16", 16, "tensor(bfloat16)")

PRECISIONS = {precision.name: precision for precision in (FP32, FP16, BF16)}
