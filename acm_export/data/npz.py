"""Inputs that a user brings."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Shape = tuple[int | str, ...]


def load_npz(path: Path, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray[Any, Any]]:
    """Read arrays for a model's inputs; nothing in the file is executed.

    Args:
        path: A ``.npz`` file.
        shapes: Expected shape of each input; names stand for any size.

    Returns:
        float32 arrays for floating inputs, others as they are; other arrays of the file are left out.

    Raises:
        UsageError: The file is missing or broken, an array is missing, or its shape or dtype does not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in shapes if name in archive.files}
            names = list(archive.files)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}") from error
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise UsageError(f"{path} is not an .npz file of plain arrays: {error}") from error
    if missing := [name for name in shapes if name not in arrays]:
        raise UsageError(f"{path} holds {', '.join(names) or 'nothing'}; the model takes {', '.join(missing)}")
    for name, array in arrays.items():
        _check(name, array, shapes[name], path)
    if len({len(array) for array in arrays.values()}) > 1:
        raise UsageError(f"{path}: the arrays have different lengths: { {k: len(v) for k, v in arrays.items()} }")
    return {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in arrays.items()}


def _check(name: str, array: np.ndarray[Any, Any], shape: Shape, path: Path) -> None:
    fits = array.ndim == len(shape) and all(
        isinstance(want, str) or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise UsageError(f"{path}: {name} has shape {list(array.shape)}, expected {list(shape)}")
    if array.dtype.kind not in "fiub":
        raise UsageError(f"{path}: {name} has dtype {array.dtype}, expected numbers")
    if not len(array):
        raise UsageError(f"{path}: {name} has no samples")
