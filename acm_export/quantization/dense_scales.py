"""Scales of dense linear layers that read one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.onnx_file.quantization.dense import QuantizedSite, QuantizedWeight
from acm_export.op.quantized_reference import token_range
from acm_export.quantization.scales import (
    Floats,
    as_stored,
    migration,
    quantize_columns,
    round_symmetric,
    symmetric_scale,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray

    from acm_export.quantization.observed import Observed
    from acm_export.quantization.options import Options

MIGRATION_GAIN = 0.8
"""A migration that no norm takes over is another pass over the activations. It is used only where it lowers the squared
error of the layers to this share or less."""


@dataclass(frozen=True)
class SiteResult:
    """Scales of a site, and the error that they cause.

    Args:
        scales: The scales and the int8 weights.
        errors: Squared error of each layer's product, relative to the product, by the name of its weight; None without
            data.
    """

    scales: QuantizedSite
    errors: Mapping[str, float | None]


def static_site(
    weights: Mapping[str, NDArray[np.float32]],
    biases: Mapping[str, NDArray[np.float32]],
    seen: Observed,
    options: Options,
    *,
    foldable: bool,
    dtype: DTypeLike = np.float32,
) -> SiteResult:
    """Fixed scales for a site.

    Args:
        weights: Weights ``[D, out_features]`` of the linear layers, by name.
        biases: Biases of those that have one, by the name of the weight.
        seen: Values of the tensor.
        options: How to quantise.
        foldable: Whether a norm before the site takes over the migration at no cost.
        dtype: Type in which the file stores the scales.
    """
    plain = _with(None, weights, biases, seen, options, dtype)
    if not options.migration:
        return plain
    divisor = migration(seen.largest, channel_reach(weights), options.migration)
    return _better(_with(divisor, weights, biases, seen, options, dtype), plain, foldable=foldable)


def dynamic_site(
    weights: Mapping[str, NDArray[np.float32]], seen: Observed | None, options: Options, *, foldable: bool
) -> SiteResult:
    """int8 weights for a site whose rows are scaled at run time.

    Args:
        weights: As for :func:`static_site`.
        seen: Values of the tensor; None without data.
        options: How to quantise.
        foldable: As for :func:`static_site`.
    """
    plain = _with_rows(None, weights, seen, options)
    if seen is None or not options.migration:
        return plain
    divisor = migration(seen.largest, channel_reach(weights), options.migration)
    return _better(_with_rows(divisor, weights, seen, options), plain, foldable=foldable)


def channel_reach(weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Largest absolute weight of each input channel, over all layers that read it."""
    return np.asarray(np.max([np.abs(weight).max(1) for weight in weights.values()], axis=0))


def relative_error(values: Floats, exact: Floats) -> float:
    """Squared error of values, relative to the sum of squares of the exact ones; 0 if these are all 0."""
    power = float(np.square(exact, dtype=np.float64).sum())
    return float(np.square(values - exact, dtype=np.float64).sum()) / power if power else 0.0


def _with(
    divisor: NDArray[np.float32] | None,
    weights: Mapping[str, NDArray[np.float32]],
    biases: Mapping[str, NDArray[np.float32]],
    seen: Observed,
    options: Options,
    dtype: DTypeLike,
) -> SiteResult:
    multiplier = None if divisor is None else (1 / divisor).astype(np.float32)
    values = seen.sample if multiplier is None else seen.sample * multiplier
    moved = {name: weight if divisor is None else weight * divisor[:, None] for name, weight in weights.items()}
    importance = np.sum([np.square(weight).sum(1) for weight in moved.values()], axis=0)
    largest = seen.largest if multiplier is None else seen.largest * multiplier
    exact_scale = symmetric_scale(values, importance, float(largest.max()))
    scale = np.float32(as_stored(np.array(exact_scale), dtype))
    rounded = round_symmetric(values, scale) * scale
    found, errors = {}, {}
    for name, weight in moved.items():
        int8 = QuantizedWeight(*quantize_columns(weight, options.levels, dtype))
        exact, approximate = values @ weight, rounded @ _floats(int8)
        if name in biases:
            shift = (exact - approximate).mean(0)
            approximate = approximate + shift
            int8 = QuantizedWeight(int8.values, int8.scale, biases[name] + shift)
        found[name], errors[name] = int8, relative_error(approximate, exact)
    return SiteResult(QuantizedSite(float(scale), multiplier, found), errors)


def _with_rows(
    divisor: NDArray[np.float32] | None,
    weights: Mapping[str, NDArray[np.float32]],
    seen: Observed | None,
    options: Options,
) -> SiteResult:
    multiplier = None if divisor is None else (1 / divisor).astype(np.float32)
    moved = {name: weight if divisor is None else weight * divisor[:, None] for name, weight in weights.items()}
    found = {name: QuantizedWeight(*quantize_columns(weight, options.levels)) for name, weight in moved.items()}
    errors: dict[str, float | None] = dict.fromkeys(weights)
    if seen is not None:
        values = seen.sample if multiplier is None else seen.sample * multiplier
        rows = token_range(values) / 127
        rounded = np.rint(values / rows) * rows
        errors = {n: relative_error(rounded @ _floats(found[n]), seen.sample @ w) for n, w in weights.items()}
    return SiteResult(QuantizedSite(None, multiplier, found), errors)


def _better(moved: SiteResult, plain: SiteResult, *, foldable: bool) -> SiteResult:
    """The migrated result if it is worth its cost, otherwise the plain one."""
    gain = 1.0 if foldable else MIGRATION_GAIN
    return moved if _total(moved) < gain * _total(plain) else plain


def _floats(weight: QuantizedWeight) -> NDArray[np.float32]:
    return np.asarray(weight.values * weight.scale, np.float32)


def _total(result: SiteResult) -> float:
    return sum(error or 0.0 for error in result.errors.values())
