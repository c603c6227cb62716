"""Whether a residual connection bypasses a part of a dataflow."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from acm_export.surgery.dataflow import Operation, Value

_SUMS = ("add", "sub")
_PRODUCTS = ("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "linear")
_MIXING = (*_PRODUCTS, "softmax", "scaled_dot_product", "conv", "acm_layer")


def is_mixing(operation: Operation) -> bool:
    """Whether an operation is a linear map, an ACM layer, a matrix product, a convolution or a softmax."""
    name = operation.name.lstrip("_")
    return operation.linear is not None or any(name.startswith(kind) for kind in _MIXING)


def has_residual(x: Value, y: Value) -> bool:
    """Whether the tokens that ``y`` was computed from are added to ``y`` behind it.

    Norms, dropout, scaling by parameters, reshapes and whatever else reads nothing but ``y`` are transparent, and so is
    the sum with a parallel branch. A product with other data (squeeze-excite), a linear map and an attention are not.

    Args:
        x: Input of the part.
        y: Output of the part.
    """
    region = {y}
    waiting = [(operation.index, operation) for operation in y.consumers]
    heapq.heapify(waiting)
    done: set[int] = set()
    while waiting:
        index, operation = heapq.heappop(waiting)
        if index in done:
            continue
        done.add(index)
        if is_mixing(operation):
            continue
        others = [value for value in operation.inputs if value not in region]
        if operation.name in _SUMS and any(_bypasses(value, x) for value in others):
            return True
        if operation.name not in _SUMS and any(value.is_data for value in others):
            continue
        for value in operation.outputs:
            region.add(value)
            for consumer in value.consumers:
                heapq.heappush(waiting, (consumer.index, consumer))
    return False


def _bypasses(value: Value, x: Value) -> bool:
    """Whether ``x`` depends on a value, or on what the value is a scaled, normalised or reshaped copy of.

    Of a sum (the stream after a parallel attention), one part is enough.
    """
    waiting = [value]
    seen: set[Value] = set()
    while waiting:
        found = waiting.pop()
        if x.depends_on(found):
            if found.is_data or found.producer is not None:  # not a parameter, which other modules may read too
                return True
            continue
        operation = found.producer
        if found in seen or operation is None or is_mixing(operation):
            continue
        seen.add(found)
        if len(operation.data_inputs) == 1 or operation.name in _SUMS:
            waiting.extend(operation.data_inputs)
    return False
