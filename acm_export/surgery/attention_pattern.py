"""Attention in a dataflow: the linear maps that make queries, keys, values and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.surgery.residual import is_mixing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from acm_export.surgery.dataflow import Dataflow, Operation, Value

_PRODUCTS = ("matmul", "bmm", "baddbmm", "einsum")


@dataclass(frozen=True, eq=False)
class Projection:
    """A linear map that makes queries, keys, values or outputs of one or more attentions.

    Args:
        operation: Call of the linear map, or a linear operation on parameters of another module.
        kinds: What it makes: q_proj, k_proj, v_proj, o_proj; several for a fused map.
    """

    operation: Operation
    kinds: tuple[str, ...]


def projections(flow: Dataflow) -> Iterator[Projection]:
    """Find the projections around every scaled dot product, and around every softmax between two matrix products."""
    kinds: dict[Operation, dict[str, None]] = {}
    for operation in flow.operations:
        core = _core(operation)
        if core is None:
            continue
        for kind, operations in zip(("q_proj", "k_proj", "v_proj"), map(_linear_behind, core[:3]), strict=True):
            if len(operations) == 1:
                kinds.setdefault(operations.pop(), {})[kind] = None
        ahead = _linear_ahead(core[3])
        if len(ahead) == 1:
            kinds.setdefault(ahead.pop(), {})["o_proj"] = None
    for operation in sorted(kinds, key=lambda found: found.index):
        yield Projection(operation, tuple(kinds[operation]))


def _core(operation: Operation) -> tuple[Value, Value, Value, Value] | None:
    """Queries, keys, values and output of the attention whose softmax this operation computes."""
    if "scaled_dot_product" in operation.name:
        query, key, value = operation.inputs[:3]
        return query, key, value, operation.outputs[0]
    if operation.name not in ("softmax", "_softmax") or not operation.data_inputs:
        return None
    scores = _search(operation.data_inputs, _sources, _is_product)
    mixing = _search(operation.outputs, _users, _is_product)
    if not scores or not mixing:
        return None
    first, last = min(scores, key=_index), min(mixing, key=_index)
    query, key = first.computed_inputs[-2:]
    values = [value for value in last.computed_inputs if not value.depends_on(operation.outputs[0])]
    return (query, key, values[0], last.outputs[0]) if values else None


def _index(operation: Operation) -> int:
    return operation.index


def _is_product(operation: Operation) -> bool:
    return operation.name in _PRODUCTS and len(operation.computed_inputs) > 1


def _linear_behind(value: Value) -> set[Operation]:
    return _search((value,), _sources, _is_linear)


def _linear_ahead(value: Value) -> set[Operation]:
    return _search((value,), _users, _is_linear)


def _is_linear(operation: Operation) -> bool:
    return operation.linear is not None or operation.name in ("linear", "addmm")


def _sources(values: Iterable[Value]) -> Iterator[tuple[Operation, tuple[Value, ...]]]:
    for value in values:
        if value.producer is not None:
            yield value.producer, value.producer.data_inputs


def _users(values: Iterable[Value]) -> Iterator[tuple[Operation, tuple[Value, ...]]]:
    for value in values:
        for operation in value.consumers:
            if operation.linear is not None or is_mixing(operation) or len(operation.data_inputs) == 1:
                yield operation, operation.outputs


def _search(
    start: tuple[Value, ...],
    step: Callable[[Iterable[Value]], Iterator[tuple[Operation, tuple[Value, ...]]]],
    wanted: Callable[[Operation], bool],
) -> set[Operation]:
    """The nearest wanted operations; linear maps and matrix products end the search."""
    found: set[Operation] = set()
    seen: set[Operation] = set()
    waiting = list(step(start))
    while waiting:
        operation, values = waiting.pop()
        if operation in seen:
            continue
        seen.add(operation)
        if wanted(operation):
            found.add(operation)
        elif not is_mixing(operation):
            waiting.extend(step(values))
    return found
