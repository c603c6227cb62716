"""The record of one forward pass of a module: which tensor came from which, in which module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from acm_export.surgery.linear_maps import MapShape

_ELEMENTWISE = frozenset({"hardswish", "log_sigmoid", "prelu", "rsub", "where", "masked_fill"})
"""Element-wise operators of which some overloads lack PyTorch's tag."""


@dataclass(eq=False)
class Value:
    """One tensor of the pass; an operation in place makes a new value.

    Args:
        index: Number of the value, in the order of creation.
        shape: Shape in this pass.
        dtype: Type of the elements.
        producer: Operation that made it; None for inputs, parameters and constants.
        is_data: Whether it depends on an input of the pass.
        is_computed: Whether it depends on an input of the pass or on the output of a linear map; a decoder's queries
            may start from constants.
        ancestors: Bit set of the indices of all values that it depends on.
        consumers: Operations that read it.
        origin: The value that this one copies (for example a cast to its own type); itself if it is not a copy.
    """

    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    producer: Operation | None
    is_data: bool
    is_computed: bool
    ancestors: int
    consumers: list[Operation] = field(default_factory=list)
    origin: Value = field(init=False)

    def __post_init__(self) -> None:
        self.origin = self

    def depends_on(self, other: Value) -> bool:
        """Whether ``other`` is this value, or one that it was computed from."""
        return bool(self.ancestors >> other.index & 1)


@dataclass(eq=False)
class Operation:
    """One operation, or one call of a linear module.

    Args:
        index: Position in the order of execution.
        name: Name of the operator without namespace and without the underscore of in-place operations, such as
            ``gelu``; ``linear_map`` for a call of a linear module, ``acm_layer`` for a call of an ACM layer.
        module: Qualified name of the innermost module that ran it.
        args: Arguments, with tensors replaced by values.
        kwargs: Keyword arguments, with tensors replaced by values.
        inputs: All values among the arguments.
        outputs: Values it made.
        func: The operator; None for a linear module.
        linear: Shape of the linear module; None for other operations.
    """

    index: int
    name: str
    module: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[Value, ...]
    func: Any = None
    linear: MapShape | None = None
    outputs: tuple[Value, ...] = ()

    @property
    def data_inputs(self) -> tuple[Value, ...]:
        """Inputs that depend on an input of the pass."""
        return tuple(value for value in self.inputs if value.is_data)

    @property
    def computed_inputs(self) -> tuple[Value, ...]:
        """Inputs that are neither parameters nor constants, nor computed from these alone."""
        return tuple(value for value in self.inputs if value.is_computed)

    @property
    def is_pointwise(self) -> bool:
        """Whether every output element depends on the input elements at its position only."""
        return self.func is not None and (torch.Tag.pointwise in self.func.tags or self.name in _ELEMENTWISE)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module.

    Args:
        name: Qualified name; where one module has several names, the one below its caller.
        module: The module that was called.
        inputs: Values among its positional arguments.
        is_plain: Whether the call had exactly one argument, a tensor, and returned a tensor.
        output: The value it returned; None unless it is a tensor.
        operations: Range of the indices of the operations inside.
    """

    name: str
    module: nn.Module
    inputs: tuple[Value, ...]
    is_plain: bool
    output: Value | None
    operations: range


@dataclass(frozen=True, eq=False)
class Dataflow:
    """The record of one forward pass.

    Args:
        operations: Operations in the order of execution.
        calls: Calls of modules in the order in which they ended.
        batch: Number of samples in the pass.
        outputs: Values that the pass returned.
        names: All names of every module, by its identity.
        parameters: Names of the parameters and buffers that the pass read.
    """

    operations: tuple[Operation, ...]
    calls: tuple[Call, ...]
    batch: int
    outputs: frozenset[Value]
    names: Mapping[int, tuple[str, ...]]
    parameters: Mapping[Value, str]
