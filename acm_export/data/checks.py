"""Check that samples fit a model: one check and one error per mistake, for every verb."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.token_masks import MASK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from acm_export.data.batches import GraphInput

_ENCODED = "encoder_hidden_states"
BRIGHTEST = 16
"""Normalised pixels are smaller: (1 - mean) / std is, for every std above 1/16, and at most 2.64 for ImageNet."""


def check_rows(
    value: GraphInput, rows: np.ndarray, where: Callable[[int], str], *, raw_pixels: bool = False
) -> np.ndarray:
    """Check samples of one shape against an input of a model.

    Args:
        value: The input.
        rows: ``[samples, ...]``.
        where: Names the sample of a row, for errors.
        raw_pixels: Whether the model takes pixels from 0 to 255.

    Returns:
        The rows in the dtype that the model takes.

    Raises:
        UsageError: Shape, dtype or values do not fit.
    """
    _check_shape(value, rows, where(0))
    if value.is_image and not raw_pixels:
        _refuse_raw_pixels(value, rows, where)
    _check_dtype(value, rows, where(0))
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(rows, value.dtype)
    _check_values(value, rows, cast, where)
    return cast


def _check_shape(value: GraphInput, rows: np.ndarray, where: str) -> None:
    have, want = rows.shape[1:], value.shape[1:]
    if len(have) != len(want) or any(
        isinstance(size, int) and size != given for given, size in zip(have, want, strict=True)
    ):
        hint = None
        if len(have) == len(want) + 1:
            hint = (
                "samples have no batch axis: give one mapping per sample; a processor adds the axis with "
                "return_tensors, so give the rows of its batch"
            )
        raise UsageError(f"{where}: {_mismatch(value, rows)}", hint)
    for given, size in zip(have, want, strict=True):
        least, most = value.lengths.get(str(size), (1, None))
        if given < least or (most is not None and given > most):
            allowed = f"at least {least}" if most is None else f"{least} to {most}"
            raise UsageError(
                f"{where}: {value.name} has {given} {size}; the model takes {allowed}", "truncate it or leave it out"
            )


def _check_dtype(value: GraphInput, rows: np.ndarray, where: str) -> None:
    floats = value.dtype.kind == "f"
    if rows.dtype.kind not in ("f" if floats else "iub"):
        hint = None
        if rows.dtype.kind in "iubf":
            hint = f'convert it as the model was trained: {value.name}.astype("{value.dtype}")'
        raise UsageError(f"{where}: {_mismatch(value, rows)}", hint)


def _check_values(value: GraphInput, rows: np.ndarray, cast: np.ndarray, where: Callable[[int], str]) -> None:
    if value.dtype.kind == "f":
        if (row := _first(~np.isfinite(rows))) is not None:
            raise UsageError(f"{where(row)}: {value.name} contains NaN or infinity", "leave those samples out")
        if (row := _first(~np.isfinite(cast))) is not None:
            raise UsageError(f"{where(row)}: {value.name} has values out of range for {value.dtype}, the model's dtype")
        return
    if (row := _first(np.not_equal(cast, rows))) is not None:
        raise UsageError(f"{where(row)}: {value.name} has values out of range for {value.dtype}, the model's dtype")
    if value.below is not None and (row := _first(np.asarray((cast < 0) | (cast >= value.below)))) is not None:
        bad = int(cast[row].min()) if cast[row].min() < 0 else int(cast[row].max())
        raise UsageError(
            f"{where(row)}: {value.name} contains {bad}; the model takes 0 to {value.below - 1}",
            "use this model's tokenizer" if value.name == "input_ids" else None,
        )
    if value.name == MASK and (row := _first(np.asarray(~cast.astype(bool).any(-1)))) is not None:
        raise UsageError(f"{where(row)}: {MASK} masks the whole sample", "leave those samples out")


def _refuse_raw_pixels(value: GraphInput, rows: np.ndarray, where: Callable[[int], str]) -> None:
    if rows.dtype.kind in "iu":
        row = 0
    elif rows.dtype.kind == "f" and rows.size:
        flat = rows.reshape(len(rows), -1)
        found = _first((flat.min(1) >= 0) & (flat.max(1) > BRIGHTEST))
        if found is None:
            return
        row = found
    else:
        return
    low, high = (rows[row].min(), rows[row].max()) if rows[row].size else (0, 0)
    raise UsageError(
        f"{where(row)}: {value.name} is {_kind(rows)} with values from {low:g} to {high:g}, which are raw pixels; the "
        f"model takes normalised {value.dtype}",
        "normalise them as in training: (pixels / 255 - image_mean) / image_std, with the numbers of the model's "
        "preprocessor_config.json",
    )


def missing_inputs(where: str, held: Iterable[str], missing: Iterable[str]) -> UsageError:
    """The error for data without an array that the model takes.

    Args:
        where: Name of the sample or file.
        held: Names of the arrays that are there.
        missing: Names of the missing arrays.
    """
    hint = "name the arrays as the model's inputs"
    if _ENCODED in (missing := list(missing)):
        hint = f"{_ENCODED} are outputs of the encoder: run it on your data, and give them in an .npz"
    return UsageError(f"{where} has {', '.join(sorted(held)) or 'nothing'}; the model takes {', '.join(missing)}", hint)


def label_rows(rows: np.ndarray, where: str) -> np.ndarray:
    """Labels of samples as int64 or float32 ``[samples, ...]``.

    Raises:
        UsageError: The labels are not numbers.
    """
    if rows.dtype.kind not in "iuf":
        raise UsageError(f"{where}: labels are {rows.dtype}; expected numbers", "number the classes from 0")
    return rows.astype(np.float32 if rows.dtype.kind == "f" else np.int64)


def check_classes(labels: NDArray[np.int64], classes: int) -> None:
    """Refuse labels that are not a class of the model.

    Args:
        labels: Labels of any shape.
        classes: Number of the model's classes.

    Raises:
        UsageError: A label is out of range.
    """
    bad = labels[(labels < 0) | (labels >= classes)]
    if len(bad):
        raise UsageError(
            f"label {int(bad[0])} is out of range: the model has {classes} classes, 0 to {classes - 1}",
            "number the classes as in the model's training, or leave labels out",
        )


def _first(wrong: NDArray[np.bool_]) -> int | None:
    """The first row with a wrong element, or None."""
    if not wrong.any():
        return None
    return int(wrong.reshape(len(wrong), -1).any(1).argmax())


def _mismatch(value: GraphInput, rows: np.ndarray) -> str:
    expected = f"{value.dtype} [{', '.join(map(str, value.shape[1:]))}]"
    return f"{value.name} is {_kind(rows)}; the model takes {expected}"


def _kind(rows: np.ndarray) -> str:
    return f"{rows.dtype} [{', '.join(map(str, rows.shape[1:]))}]"
