"""Whether the inputs of a batch are such as the model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.surgery.padding import MASK

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from acm_export.surgery import InputSpec


def check_shape(spec: InputSpec, shape: list[int], bounds: Mapping[str, tuple[int, int | None]]) -> None:
    """Hold the shape of a sample against what the model's configuration wants.

    Args:
        spec: Of the input.
        shape: Without the batch.
        bounds: Least and greatest length of each dynamic dimension, None for any.

    Raises:
        UsageError: It does not fit.
    """
    expected = spec.shape[1:]
    if len(shape) != len(expected) or any(
        size != want for size, want in zip(shape, expected, strict=True) if not isinstance(want, str)
    ):
        hint = None
        if len(shape) == len(expected) + 1 and shape[0] == 1:
            hint = "processors add a batch dimension with return_tensors: take their result[0]"
        raise UsageError(
            f"{spec.name} of a sample has the shape {shape}, the model takes [{', '.join(map(str, expected))}]", hint
        )
    for size, name in zip(shape, expected, strict=True):
        least, most = bounds.get(str(name), (0, None))
        if size < least or (most is not None and size > most):
            range_ = f"at least {least}" if most is None else f"{least} to {most}"
            raise UsageError(
                f"{spec.name} of a sample has {size} {name}, the model takes {range_}", "cut or leave it out"
            )


def check_values(spec: InputSpec, batch: torch.Tensor) -> None:
    """Hold the values of an input ``[batch, ...]`` against its range.

    Raises:
        UsageError: A number is not finite, out of range, or a mask leaves nothing of a sample.
    """
    if batch.is_floating_point() and not bool(batch.isfinite().all()):
        raise UsageError(f"{spec.name} of a sample holds NaN or infinity", "fix it or leave it out")
    if spec.below is not None and batch.numel():
        lowest, highest = int(batch.min()), int(batch.max())
        if lowest < 0 or highest >= spec.below:
            bad = lowest if lowest < 0 else highest
            raise UsageError(f"{spec.name} of a sample holds {bad}, the model takes 0 to {spec.below - 1}")
    if spec.name == MASK and not bool(batch.bool().any(-1).all()):
        raise UsageError(f"{MASK} of a sample masks all of it", "leave such samples out")
