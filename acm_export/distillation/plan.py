"""The plan of a run: the sites to replace, their ACM layers, and the cost. Planning trains nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from acm_export.base.errors import CheckpointError, UsageError
from acm_export.distillation.settings import TEACHER
from acm_export.modules import acm_layers
from acm_export.modules.flops import ModelFlops, gate_flops, gate_share, learner_flops, learners_share
from acm_export.surgery import PlacedLayer, install_acm_layers, select_sites, spec_for
from acm_export.surgery.accounting import flow_flops, tokens_at
from acm_export.surgery.examples import unpadded_inputs
from acm_export.surgery.follow import abstract_copy
from acm_export.surgery.survey import example_flow, survey_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from acm_export.distillation.settings import AcmizeSettings
    from acm_export.modules import ACMSpec
    from acm_export.surgery import ModelInterface, Site, Survey


@dataclass(frozen=True)
class Replacement:
    """A site and the ACM layer that replaces it."""

    site: Site
    spec: ACMSpec

    @property
    def learners_share(self) -> float:
        """FLOPs of all learners ÷ FLOPs of the dense modules."""
        return learners_share(self.spec, self.site.flops)

    @property
    def gate_share(self) -> float:
        """FLOPs of the gate ÷ FLOPs of the dense modules."""
        return gate_share(self.spec, self.site.flops)


@dataclass(frozen=True)
class AcmizePlan:
    """All replacements in one model.

    Args:
        replacements: Replacements in the order of the model.
        parameters: Number of parameters of the dense model and of the ACM model.
        flops: FLOPs of one example input through each model, with all learners running.
        tokens: Shapes of the example inputs, by name.
        found: All sites of the model, and what was left and why.
    """

    replacements: tuple[Replacement, ...]
    parameters: tuple[int, int]
    flops: tuple[ModelFlops, ModelFlops]
    tokens: Mapping[str, tuple[int, ...]]
    found: Survey

    @property
    def layers(self) -> dict[str, PlacedLayer]:
        """ACM layers by place."""
        return {item.site.place: PlacedLayer(item.spec, item.site.emptied) for item in self.replacements}

    @property
    def costs(self) -> dict[str, float]:
        """FLOPs of one learner, by place, relative to their mean over all places."""
        flops = {item.site.place: learner_flops(item.spec) for item in self.replacements}
        mean = sum(flops.values()) / len(flops)
        return {place: value / mean for place, value in flops.items()}

    def to_json(self) -> dict[str, Any]:
        """The object that ``acmize --dry-run --json`` prints."""
        sites = [
            {"site": item.site.place, "kind": item.site.kind, "emptied": list(item.site.emptied)}
            | asdict(item.spec)
            | {"learners_share": item.learners_share, "gate_share": item.gate_share}
            | {"replaced_activation": item.site.replaced_activation}
            for item in self.replacements
        ]
        return {
            "sites": sites,
            "not_selected": [
                {"site": site.place, "kind": site.kind} for site in self.found.sites if site.place not in self.layers
            ],
            "left": [asdict(item) for item in self.found.left],
            "parameters": {"dense": self.parameters[0], "acm": self.parameters[1]},
            "flops": {"dense": asdict(self.flops[0]), "acm": asdict(self.flops[1])},
            "inputs": {name: list(shape) for name, shape in self.tokens.items()},
        }


def replacements_for(found: Survey, settings: AcmizeSettings) -> tuple[Replacement, ...]:
    """Select the sites of a run, and size their ACM layers.

    Learners initialised from a linear map have no activation.

    Raises:
        UsageError: A pattern selects nothing, learners would have no hidden units, or all learners always run.
    """
    items = []
    for site in select_sites(found, settings.sites):
        always = settings.min_learners if settings.min_learners is not None else int(not site.residual)
        if always >= settings.num_learners:
            raise UsageError(
                f"{site.place}: {always} of {settings.num_learners} learners always run, so the gate would have no "
                "choice",
                "increase --learners or decrease --min-learners",
            )
        spec = spec_for(site, settings.num_learners, settings.flops_factor, always)
        linear = settings.origin == TEACHER and site.down is None
        items.append(Replacement(site, replace(spec, activation="identity") if linear else spec))
    return tuple(items)


def make_plan(model: nn.Module, interface: ModelInterface, settings: AcmizeSettings) -> AcmizePlan:
    """Find sites, sizes, parameters and FLOPs, from one pass of an example input.

    Nothing is computed if the model runs on the device ``meta``.

    Raises:
        UsageError: A pattern selects nothing, learners would have no hidden units, or all learners always run.
        CheckpointError: The model has ACM layers, or does not run on example inputs.
    """
    if (acm := next(acm_layers(model), None)) is not None:
        raise CheckpointError(f"{acm[0]} is already an ACM layer", "give the dense model that this one was made from")
    flow = example_flow(model, interface)
    found = survey_of(model, flow)
    items = replacements_for(found, settings)
    dense = flow_flops(model, flow, found.sites)
    acm_flops = dense
    for item in items:
        acm_flops = _with_layer(acm_flops, item, tokens_at(flow, item.site))
    shapes = {name: tuple(value.shape) for name, value in unpadded_inputs(model, interface).items()}
    return AcmizePlan(items, _sizes(model, interface, items), (dense, acm_flops), shapes, found)


def _with_layer(flops: ModelFlops, item: Replacement, tokens: int) -> ModelFlops:
    """FLOPs of a model after one more replacement."""
    return replace(
        flops,
        learners=flops.learners + tokens * item.spec.num_learners * learner_flops(item.spec),
        gates=flops.gates + tokens * gate_flops(item.spec),
        dense_sites=flops.dense_sites - tokens * item.site.flops,
    )


def _sizes(model: nn.Module, interface: ModelInterface, items: Sequence[Replacement]) -> tuple[int, int]:
    """Number of parameters before and after the replacements."""
    shadow = abstract_copy(model)
    dense = sum(parameter.numel() for parameter in shadow.parameters())
    with torch.device("meta"):
        layers = {item.site.place: PlacedLayer(item.spec, item.site.emptied) for item in items}
        install_acm_layers(shadow, interface, layers)
    return dense, sum(parameter.numel() for parameter in shadow.parameters())
