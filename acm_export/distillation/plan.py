"""The plan of a run: the sites to replace, their ACM layers, and the cost. Planning trains nothing."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from acm_export.base.errors import CheckpointError, UsageError
from acm_export.distillation.settings import TEACHER
from acm_export.modules import acm_layers
from acm_export.modules.flops import ModelFlops, gate_share, learner_flops, learners_share
from acm_export.surgery import install_acm_layers, model_flops, select_sites, spec_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from acm_export.distillation.settings import AcmizeSettings
    from acm_export.modules import ACMSpec
    from acm_export.surgery import ModelFamily, Site


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
    """

    replacements: tuple[Replacement, ...]
    parameters: tuple[int, int]
    flops: tuple[ModelFlops, ModelFlops]
    tokens: Mapping[str, tuple[int, ...]]

    @property
    def specs(self) -> dict[str, ACMSpec]:
        """Descriptions of the ACM layers by place."""
        return {item.site.place: item.spec for item in self.replacements}

    @property
    def costs(self) -> dict[str, float]:
        """FLOPs of one learner, by place, relative to their mean over all places."""
        flops = {item.site.place: learner_flops(item.spec) for item in self.replacements}
        mean = sum(flops.values()) / len(flops)
        return {place: value / mean for place, value in flops.items()}

    def to_json(self) -> dict[str, Any]:
        """The object that ``acmize --dry-run --json`` prints."""
        sites = [
            {"site": item.site.place, "kind": item.site.kind}
            | asdict(item.spec)
            | {"learners_share": item.learners_share, "gate_share": item.gate_share}
            for item in self.replacements
        ]
        return {
            "sites": sites,
            "parameters": {"dense": self.parameters[0], "acm": self.parameters[1]},
            "flops": {"dense": asdict(self.flops[0]), "acm": asdict(self.flops[1])},
            "inputs": {name: list(shape) for name, shape in self.tokens.items()},
        }


def replacements_for(model: PreTrainedModel, family: ModelFamily, settings: AcmizeSettings) -> tuple[Replacement, ...]:
    """Select the sites of a run, and size their ACM layers.

    Learners initialised from a linear map have no activation.

    Raises:
        UsageError: A pattern selects nothing, learners would have no hidden units, or all learners always run.
        CheckpointError: A selected site cannot be replaced.
    """
    items = []
    for site in select_sites(model, family, settings.sites):
        always = settings.min_learners if settings.min_learners is not None else int(not site.under_residual)
        if always >= settings.num_learners:
            raise UsageError(
                f"{site.place}: {always} of {settings.num_learners} learners always run, so the gate would have no "
                "choice",
                "increase --learners or decrease --min-learners",
            )
        spec = spec_for(site, settings.num_learners, settings.flops_factor, always)
        linear = settings.origin == TEACHER and len(site.modules) == 1
        items.append(Replacement(site, replace(spec, activation="identity") if linear else spec))
    return tuple(items)


def make_plan(model: PreTrainedModel, family: ModelFamily, settings: AcmizeSettings) -> AcmizePlan:
    """Find sites, sizes, parameters and FLOPs, from one pass of an example input on the ``meta`` device.

    Raises:
        UsageError: A pattern selects nothing, learners would have no hidden units, or all learners always run.
        CheckpointError: A selected site cannot be replaced, or the model has ACM layers.
    """
    if (acm := next(acm_layers(model), None)) is not None:
        raise CheckpointError(f"{acm[0]} is already an ACM layer", "give the dense model that this one was made from")
    items = replacements_for(model, family, settings)
    interface = family.interface(model)
    lengths = {"batch": 1, **interface.lengths}
    shapes = {
        spec.name: (tuple(lengths[d] if isinstance(d, str) else d for d in spec.shape), spec.dtype)
        for spec in interface.inputs
        if spec.name != "attention_mask"
    }
    inputs = {
        name: torch.zeros(shape, dtype=getattr(torch, dtype), device="meta") for name, (shape, dtype) in shapes.items()
    }
    shadow = copy.deepcopy(model).to("meta")
    before, dense = model_flops(shadow, family, inputs), _size(shadow)
    with torch.device("meta"):
        install_acm_layers(shadow, family, {item.site.place: item.spec for item in items})
    after = model_flops(shadow, family, inputs)
    return AcmizePlan(
        items, (dense, _size(shadow)), (before, after), {name: shape for name, (shape, _) in shapes.items()}
    )


def _size(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
