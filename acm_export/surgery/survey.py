"""Survey a model: the sites that ACM layers can replace, and what was left and why."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn.utils.parametrize import is_parametrized

from acm_export.base.documentation import page
from acm_export.base.errors import CheckpointError
from acm_export.surgery.activation import hidden_of
from acm_export.surgery.attention_pattern import projections
from acm_export.surgery.candidates import candidates
from acm_export.surgery.examples import unpadded_inputs
from acm_export.surgery.ffn_pattern import ffn_paths
from acm_export.surgery.follow import follow
from acm_export.surgery.linear_maps import LAST, LinearMap, computes_linear_map
from acm_export.surgery.placement import placement_of
from acm_export.surgery.residual import has_residual
from acm_export.surgery.sites import FFN, QKVO, Left, Site, Survey, abridged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from torch import nn

    from acm_export.surgery.attention_pattern import Projection
    from acm_export.surgery.dataflow import Dataflow, Operation, Value
    from acm_export.surgery.ffn_pattern import Branch, FFNPath
    from acm_export.surgery.interface import ModelInterface
    from acm_export.surgery.placement import Placement

_EXPERTS = re.compile(r"(^|\.)experts?(\.|$)")
_NOT_AN_FFN = "two linear maps in a row"


@dataclass(frozen=True)
class _Found:
    index: int
    result: Site | Left


def survey(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Survey:
    """Find the sites of any module by following the data through one forward pass.

    Args:
        model: Module; unchanged, and run in evaluation mode.
        inputs: Example inputs by the names of ``forward``'s parameters, on any device; on ``meta`` nothing is computed.

    Raises:
        Exception: Whatever the forward pass raises on these inputs.
    """
    return survey_of(model, follow(model, inputs))


def find_sites(model: nn.Module, interface: ModelInterface) -> Survey:
    """Survey a model with example inputs made from its interface.

    Raises:
        CheckpointError: The model does not run on these inputs.
    """
    return survey_of(model, example_flow(model, interface))


def example_flow(model: nn.Module, interface: ModelInterface) -> Dataflow:
    """Follow the data of one sample without padding through a model.

    Raises:
        CheckpointError: The model does not run on such inputs; the message has its error, and the pairs of linear maps
            that look like feed-forward networks.
    """
    inputs = unpadded_inputs(model, interface)
    try:
        return follow(model, inputs)
    except Exception as error:  # whatever the model raises
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        pairs = [" -> ".join(pair) for pair in candidates(model)]
        looks = f"; candidates for feed-forward networks, by their shapes alone: {abridged(pairs)}" if pairs else ""
        raise CheckpointError(
            f"{type(model).__name__} does not run on example inputs ({shapes}): {type(error).__name__}: {error}{looks}",
            f"describe inputs on which it runs with acm_export.register_family: {page('families.md')}",
        ) from error


def survey_of(model: nn.Module, flow: Dataflow) -> Survey:
    """Find the sites of a module in the record of one forward pass."""
    context = _Context(model, flow)
    found = [*context.ffns(), *context.projections()]
    ordered = [item.result for item in sorted(found, key=lambda item: item.index)]
    sites = {item.place: item for item in ordered if isinstance(item, Site)}
    left = {item.name: item for item in [*context.experts(), *ordered] if isinstance(item, Left)}
    linear_maps = sum(operation.linear is not None for operation in flow.operations)
    remaining = tuple(item for name, item in left.items() if name not in sites)
    return Survey(tuple(sites.values()), remaining, linear_maps)


class _Context:
    def __init__(self, model: nn.Module, flow: Dataflow) -> None:
        self._model, self._flow = model, flow
        self._aliases: dict[int, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._aliases.setdefault(id(module), []).append(name)
        self._calls = Counter(flow.names[id(call.module)][0] for call in flow.calls)
        self._plain = {call.name for call in flow.calls if call.is_plain}
        self._owners: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._owners.setdefault(id(parameter), []).append(name.rpartition(".")[0])

    def experts(self) -> Iterator[Left]:
        """Layers that already choose among experts for every token."""
        for name, module in self._model.named_modules():
            if "experts" in dict(module.named_children()):
                yield Left(
                    name or type(module).__name__,
                    "a mixture of experts: its router already chooses what a token computes",
                )

    def ffns(self) -> Iterator[_Found]:
        for path in ffn_paths(self._flow):
            result = self._ffn(path)
            if isinstance(result, Site):
                yield _Found(path.branches[0].operation.index, result)
            elif result not in (None, _NOT_AN_FFN):
                yield _Found(path.branches[0].operation.index, Left(self._name(path), str(result)))

    def _ffn(self, path: FFNPath) -> Site | str | None:
        d, width, output = path.widths
        residual = has_residual(path.x, path.y)
        if path.blocker is not None:
            return path.blocker if residual and d == output and width >= d else None
        names = [branch.operation.module for branch in path.branches] + [path.down.module]
        if any(_EXPERTS.search(name) for name in names):
            return None  # listed once, with the whole layer
        reason = self._ffn_reason(path, residual=residual) or self._map_reason(path)
        if reason is not None:
            return reason
        hidden = hidden_of(path)
        if hidden is None:
            return "its two branches do not meet in a product of one with an activation of the other"
        placement = self._placement(path)
        if isinstance(placement, str):
            return placement
        up, down = path.branches[hidden.gate], path.down.linear
        assert down is not None  # noqa: S101
        return Site(
            place=placement.place,
            kind=FFN,
            up=_branch_map(up, d),
            down=LinearMap(path.down.module, width, output),
            value=None if hidden.value is None else _branch_map(path.branches[hidden.value], d),
            activation=None if hidden.activation is None else hidden.activation.name,
            scale=1.0 if hidden.activation is None else hidden.activation.scale,
            residual=True,
            emptied=placement.emptied,
            axis=down.axis,
        )

    def _placement(self, path: FFNPath) -> Placement | str:
        placement = placement_of(self._flow, path)
        if isinstance(placement, str):
            return placement
        reasons = map(self._alias_reason, (placement.place, *placement.emptied))
        return next((reason for reason in reasons if reason is not None), placement)

    def _ffn_reason(self, path: FFNPath, *, residual: bool) -> str | None:
        d, width, output = path.widths
        if not (residual and d == output) and not any(operation.is_pointwise for operation in path.between):
            return _NOT_AN_FFN
        if d != output:
            return f"it maps width {d} to {output}; an ACM layer needs equal widths"
        if not residual:
            return "no residual connection bypasses it: a head, a pooler or a gate"
        if self._tokens(path.y, path.down.linear.axis if path.down.linear else LAST) == 1:
            return "it sees one token per sample, so there is no easy token to save on"
        if width < d:
            return f"a bottleneck: its hidden width {width} is below the model's width {d}"
        return None

    def _map_reason(self, path: FFNPath) -> str | None:
        """Why the weights cannot be taken over; None if they can."""
        for operation in (*(branch.operation for branch in path.branches), path.down):
            if reason := self._linear_reason(operation):
                return reason
        for operation in path.operations - {path.down}:
            for value in operation.outputs:
                others = [user for user in value.consumers if user not in path.operations]
                if others:
                    where = others[0].module or "the model itself"
                    return f"its hidden values are also used by {others[0].name} in {where}"
                if value in self._flow.outputs:
                    return "the model returns its hidden values"
        return None

    def _linear_reason(self, operation: Operation) -> str | None:
        name = operation.module
        leaf = name.rpartition(".")[-1]
        assert operation.linear is not None  # noqa: S101  the caller chose linear maps
        module = self._model.get_submodule(name)
        if operation.linear.reason is not None and not computes_linear_map(module):
            return f"{leaf} {operation.linear.reason}; load the model with ordinary weights"
        names = self._aliases[id(module)]
        if (times := self._calls[names[0]]) > 1:
            return f"{leaf} is used {times} times in one pass: layers share its weights"
        if is_parametrized(module):
            return f"{leaf} is parametrised; remove it with torch.nn.utils.parametrize.remove_parametrizations"
        for parameter in module.parameters():
            if sharing := [owner for owner in self._owners.get(id(parameter), ()) if owner not in names]:
                return f"{leaf} shares its weights with {sharing[0]}"
        return None

    def _alias_reason(self, name: str) -> str | None:
        """Why a module that has two names cannot be replaced: it would stay, or be exported, under the other one."""
        others = [other for other in self._aliases[id(self._model.get_submodule(name))] if other != name]
        return f"{others[0]} is the same module as {name}; register it under one name" if others else None

    def _tokens(self, value: Value, axis: int) -> int:
        """Tokens per sample."""
        total = 1
        for size in value.shape:
            total *= size
        return total // max(value.shape[axis] * self._flow.batch, 1)

    def _name(self, path: FFNPath) -> str:
        """The smallest module around the linear maps that has no others, or the first linear map."""
        names = [branch.operation.module for branch in path.branches] + [path.down.module]
        parts = [name.split(".")[:-1] for name in names]
        common = parts[0]
        for other in parts[1:]:
            common = [a for a, b in zip(common, other, strict=False) if a == b]
        parent = ".".join(common)
        maps = {op.module for op in self._flow.operations if op.linear and op.module.startswith(f"{parent}.")}
        return parent if parent and maps <= set(names) else names[0]

    def projections(self) -> Iterator[_Found]:
        for projection in projections(self._flow):
            operation = projection.operation
            name = operation.module
            reason = self._projection_reason(projection)
            if reason is not None:
                yield _Found(operation.index, Left(name or "the model itself", reason, QKVO))
                continue
            shape = operation.linear
            assert shape is not None  # noqa: S101
            linear = LinearMap(name, shape.in_features, shape.out_features)
            (kind,) = projection.kinds
            residual = kind == "o_proj" and has_residual(operation.inputs[0], operation.outputs[0])
            yield _Found(operation.index, Site(name, kind, linear, residual=residual, axis=shape.axis))

    def _projection_reason(self, projection: Projection) -> str | None:
        operation = projection.operation
        kinds = ", ".join(kind[0] for kind in projection.kinds)
        if operation.linear is None:
            return "its attention projections are computed by a function call with the module's parameters"
        if (reason := self._linear_reason(operation)) is not None:
            return reason
        reads, writes = operation.linear.in_features, operation.linear.out_features
        if len(projection.kinds) > 1:
            return f"one linear map computes {kinds}; an ACM layer replaces one projection"
        if reads != writes:
            return f"its projection ({kinds}) maps width {reads} to {writes}; an ACM layer needs equal widths"
        if self._tokens(operation.outputs[0], operation.linear.axis) == 1:
            return f"its projection ({kinds}) sees one token per sample, so there is no easy token to save on"
        several = f"its projection ({kinds}) is called with more than one argument"
        return self._alias_reason(operation.module) if operation.module in self._plain else several


def _branch_map(branch: Branch, d: int) -> LinearMap:
    return LinearMap(branch.operation.module, d, branch.width, branch.first)
