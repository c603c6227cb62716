"""Follow the data through one forward pass of any module."""

from __future__ import annotations

import copy
import inspect
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from acm_export.modules import ACMLayer
from acm_export.modules.evaluating import evaluating
from acm_export.surgery.dataflow import Call, Dataflow, Operation, Value
from acm_export.surgery.linear_maps import linear_shape
from acm_export.surgery.prepare import disable_ffn_chunking

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

_SAME = frozenset({"clone", "contiguous", "detach", "alias", "to", "_to_copy", "lift_fresh"})


def follow(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Dataflow:
    """Run a module once and record where every tensor came from, in evaluation mode and without gradients.

    A copy that shares nothing but the names runs on the device ``meta``, where nothing is computed. If the forward pass
    needs values, a copy that shares the parameters runs on the device of the inputs.

    Args:
        model: Module to follow; unchanged.
        inputs: Example inputs by the names of ``forward``'s parameters.

    Raises:
        Exception: Whatever the forward pass raises on these inputs.
    """
    try:
        meta = {name: value.to("meta") for name, value in inputs.items()}
        return _record(abstract_copy(model), meta)
    except Exception as error:  # values are needed, or an operator does not run on meta
        if all(value.is_meta for value in inputs.values()):
            raise
        return _record_again(model, inputs, error)


def _record_again(model: nn.Module, inputs: Mapping[str, torch.Tensor], first: Exception) -> Dataflow:
    try:
        return _record(_copy(model, None), inputs)
    except Exception as error:
        raise error from first


def abstract_copy(model: nn.Module) -> nn.Module:
    """A copy of a model on the device ``meta``; nothing is copied in memory."""
    copied: Any = _copy(model, "meta")
    if getattr(getattr(copied, "config", None), "use_cache", None) is False and "use_cache" in _parameters(copied):
        copied.config.use_cache = True  # without a cache, decoders look at the values of positions
    abstract: nn.Module = copied
    return abstract


def _parameters(module: nn.Module) -> Collection[str]:
    return inspect.signature(module.forward).parameters


def _copy(model: nn.Module, device: str | None) -> nn.Module:
    """A copy whose parameters are empty, or shared where no device is given."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = nn.Parameter(torch.empty_like(parameter, device=device), parameter.requires_grad) if device else None
        memo[id(parameter)] = parameter if empty is None else empty
    for buffer in model.buffers() if device else ():
        memo[id(buffer)] = torch.empty_like(buffer, device=device)
    copied = copy.deepcopy(model, memo)
    disable_ffn_chunking(copied)  # an FFN that runs once per chunk of tokens would look like a shared one
    return copied


def _record(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Dataflow:
    recorder = _Recorder(model)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())  # operators arrive whole, and keep the identity of tensors
        stack.enter_context(evaluating(model))
        stack.enter_context(_without_fast_path())
        stack.enter_context(recorder.hooks())
        given = {name: value.detach() for name, value in inputs.items()}
        recorder.start(given.values())
        with recorder:
            output = model(**given)
        returned = frozenset(recorder.value(tensor) for tensor in _tensors(output))
    batch = next((value.shape[0] for value in inputs.values() if value.ndim), 1)
    operations, calls = tuple(recorder.operations), tuple(recorder.calls)
    return Dataflow(operations, calls, batch, returned, recorder.names, recorder.parameters())


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Keep ``nn.TransformerEncoderLayer`` and ``nn.MultiheadAttention`` from running as one fused operator."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(value=enabled)


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.calls: list[Call] = []
        names: dict[int, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            names.setdefault(id(module), []).append(name)
        self.names = {key: tuple(found) for key, found in names.items()}
        self._model = model
        self._values: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._bases: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._count = 0
        self._stack: list[tuple[str, int]] = []
        self._in_whole = 0

    @contextmanager
    def hooks(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self._model.modules():
                stack.callback(module.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(self._leave, with_kwargs=True).remove)
            yield

    def start(self, inputs: Iterable[torch.Tensor]) -> None:
        for tensor in inputs:
            self._values[tensor] = self._new(tensor, None, ())
            self._values[tensor].is_data = self._values[tensor].is_computed = True

    def value(self, tensor: torch.Tensor) -> Value:
        """The value that a tensor holds; a tensor seen for the first time is a parameter or a constant."""
        found: Value | None = self._values.get(tensor)
        if found is None:
            found = self._values[tensor] = self._new(tensor, None, ())
        return found

    def parameters(self) -> dict[Value, str]:
        """Names of the parameters and buffers that the pass read, by the value that it read."""
        named = (*self._model.named_parameters(), *self._model.named_buffers())
        return {self._values[tensor]: name for name, tensor in named if tensor in self._values}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._in_whole:
            self._add(func, args, kwargs or {}, result)
        return result

    def _add(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: object) -> None:
        outputs = _tensors(result)
        written = [tensor for tensor in _tensors((args, kwargs)) if func._schema.is_mutable]  # noqa: SLF001
        written = [tensor for tensor in written if any(tensor is output for output in outputs)]
        if not written and any(output is tensor for output in outputs for tensor in _tensors((args, kwargs))):
            return  # dropout, casts: nothing happened
        name = func._schema.name.split("::")[-1]  # noqa: SLF001
        operation = self._operation(name.rstrip("_") if written else name, args, kwargs, func)
        operation.outputs = tuple(self._made(tensor, operation) for tensor in outputs)
        if operation.name in _SAME and len(outputs) == 1 and operation.inputs:
            source, made = operation.inputs[0], operation.outputs[0]
            if (source.shape, source.dtype) == (made.shape, made.dtype):
                made.origin = source.origin
        self._follow_views(func, args, outputs)

    def _follow_views(self, func: Any, args: tuple[Any, ...], outputs: Sequence[torch.Tensor]) -> None:
        """Remember what views show, so that writing to a view changes the value of its base too."""
        for tensor in outputs:
            base = self._bases.get(tensor)
            if base is not None and func._schema.is_mutable:  # noqa: SLF001
                write = self._operation("write", (base, tensor), {}, None)
                write.outputs = (self._made(base, write),)
            elif func.is_view and args and isinstance(args[0], torch.Tensor):
                self._bases[tensor] = self._bases.get(args[0], args[0])

    def _operation(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], func: Any) -> Operation:
        held_args, held_kwargs = pytree.tree_map_only(torch.Tensor, self.value, (args, kwargs))
        inputs = tuple(leaf for leaf in pytree.tree_leaves((held_args, held_kwargs)) if isinstance(leaf, Value))
        module = self._stack[-1][0] if self._stack else ""
        operation = Operation(len(self.operations), name, module, held_args, held_kwargs, inputs, func)
        for value in dict.fromkeys(inputs):
            value.consumers.append(operation)
        self.operations.append(operation)
        return operation

    def _made(self, tensor: torch.Tensor, operation: Operation) -> Value:
        made = self._values[tensor] = self._new(tensor, operation, operation.inputs)
        return made

    def _new(self, tensor: torch.Tensor, producer: Operation | None, inputs: Sequence[Value]) -> Value:
        ancestors = 1 << self._count
        for value in inputs:
            ancestors |= value.ancestors
        is_data = any(value.is_data for value in inputs)
        is_linear = producer is not None and producer.linear is not None
        is_computed = is_linear or any(value.is_computed for value in inputs)
        made = Value(self._count, tuple(tensor.shape), tensor.dtype, producer, is_data, is_computed, ancestors)
        self._count += 1
        return made

    def _enter(self, module: nn.Module, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        parent = self._stack[-1][0] if self._stack else ""
        names = self.names.get(id(module), ("",))
        below = (name for name in names if not parent or name.startswith(f"{parent}."))
        self._stack.append((next(below, names[0]), len(self.operations)))
        self._in_whole += _is_whole(module)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        name, start = self._stack[-1]
        if _is_whole(module):
            self._in_whole -= 1
            result = next(iter(_tensors(output)), None)  # some linear modules return their bias too
            if not self._in_whole and result is not None:
                shape = linear_shape(module)
                operation = self._operation("acm_layer" if shape is None else "linear_map", args, kwargs, None)
                operation.linear = shape
                operation.outputs = (self._made(result, operation),)
        self._stack.pop()
        inputs = tuple(self.value(tensor) for tensor in _tensors(args))
        one = len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor)
        returned = self.value(output) if isinstance(output, torch.Tensor) else None
        inside = range(start, len(self.operations))
        self.calls.append(Call(name, module, inputs, one and returned is not None, returned, inside))


def _is_whole(module: nn.Module) -> bool:
    """Whether a call of the module is one operation."""
    return isinstance(module, ACMLayer) or linear_shape(module) is not None


def _tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
