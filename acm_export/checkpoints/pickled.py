"""Weights in ``pytorch_model.bin``: read by torch with ``weights_only``, which runs no code of the file."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import torch

from acm_export.base.errors import CheckpointError
from acm_export.checkpoints.unpickle import check_sharing

if TYPE_CHECKING:
    from pathlib import Path

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip  # a table


def pickled_header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype, in the notation of safetensors, of every tensor of a file; values stay on disk.

    Raises:
        CheckpointError: The file is truncated, in the format before PyTorch 1.6, or contains something else.
    """
    return {
        name: (tuple(tensor.shape), _DTYPES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.").upper()))
        for name, tensor in read_pickled(path).items()
    }


def read_pickled(path: Path) -> dict[str, torch.Tensor]:
    """Map the tensors of a file into memory.

    Raises:
        CheckpointError: The file is truncated, compressed, in the format before PyTorch 1.6, or contains something else
            than dense tensors whose sizes fit the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated, or in the format that PyTorch wrote before version 1.6",
            "copy it again, or load the model with transformers and save it with save_pretrained",
        ) from error
    if compressed:  # a small file could claim any amount of memory
        raise CheckpointError(
            f"{path} is compressed; torch.save writes weights without compression",
            "load the model with transformers on a machine that trusts it, and save it with save_pretrained",
        )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # broken pickles raise many types
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} is not a file of weights: {reason}",
            "load the model with transformers on a machine that trusts it, and save it with save_pretrained",
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(
            f"{path} contains {type(content).__name__} with other values than tensors; expected weights by name",
            "save the model with save_pretrained of transformers",
        )
    for name, tensor in content.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
            raise CheckpointError(
                f"{path} has weights that are not dense: {name}", "save the model with save_pretrained of transformers"
            )
    check_sharing(content.values(), path)
    return {str(name): tensor for name, tensor in content.items()}
