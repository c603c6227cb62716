"""Feed-forward networks in a dataflow: linear, element-wise activation, linear, with one or two branches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.surgery.linear_maps import LAST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.surgery.dataflow import Dataflow, Operation, Value

COPIES = frozenset({"clone", "contiguous", "detach", "alias", "to", "_to_copy", "dropout", "native_dropout"})
_VIEWS = frozenset({"view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "flatten", "unflatten"})
_PARTS = frozenset({"chunk", "split", "split_with_sizes", "slice", "narrow", "tensor_split"})
_NORMS = ("norm",)
_MAX_BRANCHES = 2


@dataclass(frozen=True, eq=False)
class Branch:
    """All or a part of the output of a linear map that feeds the activation.

    Args:
        operation: Call of the linear map.
        value: The output, or a part of its features.
        first: First output feature of the part.
        width: Number of features.
    """

    operation: Operation
    value: Value
    first: int
    width: int


@dataclass(frozen=True, eq=False)
class FFNPath:
    """What lies between two linear maps.

    Args:
        branches: One branch, or the two branches of a gated FFN, in the order of execution.
        down: Call of the last linear map.
        between: Operations between the linear maps.
        blocker: Why what lies between them is not an element-wise function of the hidden values; None if it is one.
    """

    branches: tuple[Branch, ...]
    down: Operation
    between: frozenset[Operation]
    blocker: str | None

    @property
    def x(self) -> Value:
        """The input of the FFN."""
        return self.branches[0].operation.inputs[0]

    @property
    def y(self) -> Value:
        """The output of the FFN."""
        return self.down.outputs[0]

    @property
    def operations(self) -> frozenset[Operation]:
        """All operations of the FFN."""
        return self.between | {self.down} | {branch.operation for branch in self.branches}

    @property
    def widths(self) -> tuple[int, int, int]:
        """Widths of the input, of the hidden values and of the output."""
        up, down = self.branches[0].operation.linear, self.down.linear
        assert up is not None  # noqa: S101  branches start at linear maps
        assert down is not None  # noqa: S101
        return up.in_features, down.in_features, down.out_features


def ffn_paths(flow: Dataflow) -> Iterator[FFNPath]:
    """Find pairs of linear maps, and triples in gated FFNs, with nothing but functions of their hidden values between.

    Paths may still contain a norm or a convolution, named by :attr:`FFNPath.blocker`.
    """
    for operation in flow.operations:
        if operation.linear is not None and operation.data_inputs:
            path = _path_to(flow, operation)
            if path is not None:
                yield path


def _path_to(flow: Dataflow, down: Operation) -> FFNPath | None:
    assert down.linear is not None  # noqa: S101  the caller chose a linear map
    axis = down.linear.axis
    branches: dict[Value, Branch] = {}
    between: set[Operation] = set()
    blockers: list[Operation] = []
    waiting = [down.inputs[0]]
    while waiting:
        value = waiting.pop()
        operation = value.producer
        if value in branches:
            continue
        if operation is None or len(branches) > _MAX_BRANCHES:
            return None
        branch = _branch(value, axis)
        if branch is not None:
            branches[value] = branch
            if operation is not branch.operation:
                between.add(operation)
            continue
        if operation in between:
            continue
        data = operation.data_inputs
        if not data or not (operation.is_pointwise or len(data) == 1):
            return None
        between.add(operation)
        if not (operation.is_pointwise or operation.name in COPIES or _keeps_features(operation, axis)):
            blockers.append(operation)
        waiting.extend(data)
    found = sorted(branches.values(), key=lambda branch: (branch.operation.index, branch.first))
    blocker = _blocker(flow, blockers) or _constant(flow, between)
    same_width = all(branch.width == down.linear.in_features for branch in found)
    if not 1 <= len(found) <= _MAX_BRANCHES or not _share_input(found) or not (blocker or same_width):
        return None
    return FFNPath(tuple(found), down, frozenset(between), blocker)


def _branch(value: Value, axis: int) -> Branch | None:
    """The linear map, or the part of one, whose output a value is."""
    operation = value.producer
    if operation is None:
        return None
    if operation.linear is not None:
        return Branch(operation, value, 0, operation.linear.out_features) if operation.linear.axis == axis else None
    source = operation.inputs[0].origin.producer if operation.name in _PARTS and operation.inputs else None
    if source is None or source.linear is None or source.linear.axis != axis:
        return None
    rank = len(value.shape)
    dim = operation.kwargs.get("dim", operation.args[-1 if operation.name == "tensor_split" else 2 :][:1] or (0,))
    if operation.name in ("slice", "narrow"):
        dim, first = operation.args[1], operation.args[2] or 0
        if len(operation.args) > 4 and operation.args[4] != 1:
            return None
        first += source.linear.out_features if first < 0 else 0
    else:
        dim = dim[0] if isinstance(dim, tuple) else dim
        first = sum(part.shape[axis] for part in operation.outputs[: operation.outputs.index(value)])
    return Branch(source, value, first, value.shape[axis]) if dim % rank == axis % rank else None


def _share_input(branches: list[Branch]) -> bool:
    """Whether all branches read one input, which depends on the data."""
    inputs = {branch.operation.inputs[0].origin for branch in branches}
    return len(inputs) == 1 and all(value.is_data for value in inputs)


def _keeps_features(operation: Operation, axis: int) -> bool:
    before, after = operation.inputs[0].shape, operation.outputs[0].shape
    return axis == LAST and operation.name in _VIEWS and bool(before and after) and before[-1] == after[-1]


def _constant(flow: Dataflow, between: set[Operation]) -> str | None:
    """The parameter or constant tensor that the activation reads besides the hidden values."""
    for operation in sorted(between, key=lambda operation: operation.index):
        if not operation.is_pointwise:
            continue
        for value in operation.inputs:
            if not value.is_data:
                name = next((name for read, name in flow.parameters.items() if value.depends_on(read)), None)
                what = "a tensor that does not depend on the input" if name is None else f"a parameter ({name})"
                return f"{what} takes part between its linear maps ({operation.name}); fold it into the linear maps"
    return None


def _blocker(flow: Dataflow, operations: list[Operation]) -> str | None:
    if not operations:
        return None
    named = {call.name: type(call.module).__name__.lower() for call in flow.calls}
    for operation in operations:
        if operation.name.startswith("conv"):
            return f"a convolution ({operation.module}) between its linear maps mixes tokens"
    for operation in operations:
        if any(norm in operation.name or norm in named.get(operation.module, "") for norm in _NORMS):
            return f"a norm ({operation.module}) lies between its linear maps"
    first = operations[-1]
    return f"{first.name} in {first.module or 'the model'} between its linear maps is not element-wise"
