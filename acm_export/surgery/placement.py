"""Which modules to replace, so that an ACM layer computes exactly what a site computed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from acm_export.surgery.dataflow import Call, Dataflow, Operation
    from acm_export.surgery.ffn_pattern import FFNPath


@dataclass(frozen=True)
class Placement:
    """Modules to replace.

    Args:
        place: Module that becomes the ACM layer.
        emptied: Modules that become identities.
    """

    place: str
    emptied: tuple[str, ...] = ()


def placement_of(flow: Dataflow, path: FFNPath) -> Placement | str:
    """Find the modules that compute an FFN and nothing else.

    That is the outermost module whose only argument is the FFN's input and whose result is the FFN's output; or else a
    chain of modules, each of which takes the result of the one before and computes a part of the FFN.

    Returns:
        The modules, or the reason why the FFN cannot be replaced.
    """
    times = Counter(call.name for call in flow.calls)
    indices = {operation.index for operation in path.operations}
    x, y = path.x.origin, path.y.origin
    plain = [call for call in flow.calls if call.is_plain and call.name and times[call.name] == 1]
    for call in reversed(plain):  # calls are in the order in which they ended: an outer module follows its parts
        if call.output is None or call.inputs[0].origin is not x or call.output.origin is not y:
            continue
        if all(index in call.operations for index in indices) and not _leaks(flow, call, path):
            return Placement(call.name)
    return _chain(path, plain, indices)


def _leaks(flow: Dataflow, call: Call, path: FFNPath) -> bool:
    """Whether a value made inside a module, other than its result, is used outside."""
    for index in call.operations:
        for value in flow.operations[index].outputs:
            if value.origin is path.y.origin:
                continue
            if value in flow.outputs or any(consumer.index not in call.operations for consumer in value.consumers):
                return True
    return False


def _chain(path: FFNPath, plain: list[Call], indices: set[int]) -> Placement | str:
    value, covered, names = path.x.origin, set[int](), list[str]()
    while value is not path.y.origin:
        steps = [
            call
            for call in plain
            if call.inputs[0].origin is value and call.output is not None and call.operations and _inside(call, indices)
        ]
        if not steps:
            return _refusal(path, plain, indices - covered)
        step = max(reversed(steps), key=lambda call: len(call.operations))
        assert step.output is not None  # noqa: S101
        value = step.output.origin
        covered |= set(step.operations)
        names.append(step.name)
    if indices - covered:
        return _refusal(path, plain, indices - covered)
    return Placement(names[0], tuple(names[1:]))


def _inside(call: Call, indices: set[int]) -> bool:
    return all(index in indices for index in call.operations)


def _refusal(path: FFNPath, plain: list[Call], missing: set[int]) -> str:
    """Name the first operation that no module of its own computes."""
    covered = {index for call in plain if _inside(call, indices=missing) for index in call.operations}
    functions = [op for op in path.operations if op.index in missing - covered and op.linear is None]
    first: Operation | None = min(functions, key=lambda operation: operation.index, default=None)
    if first is None:
        return "no module takes its input and returns its output, and its modules do not follow each other directly"
    where = first.module or "the model itself"
    return (
        f"{first.name} between its linear maps is a function call in {where}, which does more than the FFN; "
        "put the FFN into a module of its own, or use a module for the activation"
    )
