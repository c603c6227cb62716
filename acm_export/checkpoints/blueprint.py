"""How to build the model that a ``config.json`` describes, and how to describe a model: transformers, parts, timm."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import transformers

from acm_export.base.errors import AcmWarning, CheckpointError
from acm_export.checkpoints.architecture import (
    check_fields,
    check_layer_count,
    check_references,
    model_class_of,
    parse_config,
)
from acm_export.checkpoints.dense import load_dense
from acm_export.checkpoints.timm_models import create_timm, describe_timm, is_timm, load_timm
from acm_export.surgery import family_of, parts_of, take_part
from acm_export.surgery.parts import WHOLE, TeacherForcedDecoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    from acm_export.base.json_fields import JsonObject
    from acm_export.checkpoints.weights import Weights
    from acm_export.surgery import ModelFamily

PART = "part"
"""Field of the section ``acm``: the part of the model that the folder contains, if no class of transformers is that."""


@dataclass(frozen=True)
class Blueprint:
    """How to build the model of a folder.

    Args:
        make: Builds it with untrained weights; keyword arguments are options of its class.
        load_dense: Loads it from weights without ACM layers.
        family: Its family.
    """

    make: Callable[..., nn.Module]
    load_dense: Callable[[Weights], nn.Module]
    family: ModelFamily


def read_blueprint(folder: Path, config: dict[str, Any], weights: Weights, part: str | None) -> Blueprint:
    """Read the blueprint of a folder.

    Args:
        folder: Checkpoint folder.
        config: Its ``config.json``.
        weights: Its weights.
        part: Part of the model that is wanted, or None.

    Raises:
        CheckpointError: ``config.json`` does not describe a model of transformers or timm.
    """
    check_references(config)
    check_layer_count(config, len(weights.shapes))
    if is_timm(config):
        return Blueprint(partial(create_timm, config), partial(load_timm, config=config), family_of(None))
    family = family_of(str(config.get("model_type")))
    check_fields(config)
    parsed = parse_config(folder, config)
    model_class = model_class_of(config, parsed, whole=part == WHOLE)
    stored = config["acm"].get(PART) if isinstance(config.get("acm"), dict) else None
    return Blueprint(
        partial(construct, model_class, parsed, part=stored),
        partial(load_dense, model_class=model_class, config=parsed, family=family),
        family,
    )


def construct(
    model_class: type[PreTrainedModel], config: PretrainedConfig, *, part: str | None = None, **options: object
) -> nn.Module:
    """Build a model of transformers, or a part of it, with untrained weights.

    Raises:
        CheckpointError: The config does not describe a model of this class.
    """
    try:
        model: nn.Module = model_class(config, **options)
    except Exception as error:  # transformers raises many types for invalid values
        raise CheckpointError(
            f"config.json does not describe a {model_class.__name__}: {error}", "correct the value in config.json"
        ) from error
    return model if part is None else take_part(model, part)


def wanted_part(
    model: nn.Module, part: str | None, family: ModelFamily, *, dense: bool
) -> tuple[nn.Module, str | None]:
    """The part of a loaded model that is wanted, and its name; the model itself if it is that part already.

    Args:
        model: Loaded model.
        part: Name of a part; None for the whole model, or for the part that the family reads from dense models.
        family: Family of the model.
        dense: Whether the model has no ACM layers.

    Returns:
        The part, and its name; None for the name if neither the caller nor the family names a part.

    Raises:
        UsageError: The model has no such part.
    """
    known = parts_of(model)
    if part is None:
        if not dense or family.default_part not in known:
            return model, None
        taken = take_part(model, family.default_part)
        read, whole = type(taken).__name__, type(model).__name__
        warnings.warn(f"reading only the {read} of this {whole}; --part names another part", AcmWarning, stacklevel=3)
        return taken, family.default_part
    if part not in known and part.title() in type(model).__name__:
        return model, part
    return take_part(model, part), part


@dataclass(frozen=True)
class Description:
    """What a folder says about a model.

    Args:
        config: ``config.json`` without the section ``acm``.
        section: Additional fields of that section.
    """

    config: JsonObject
    section: JsonObject


def describe_model(model: nn.Module) -> Description:
    """Describe a model, so that :func:`read_blueprint` can build it again.

    Raises:
        CheckpointError: It is a module of another library; such modules have no config.
    """
    if isinstance(model, TeacherForcedDecoder):
        whole = describe_model(model.model)
        return Description(whole.config, {PART: "decoder"})
    if isinstance(model, transformers.PreTrainedModel):
        config = model.config.to_dict() | {"architectures": [type(model).__name__]}
        config.pop("_name_or_path", None)  # a path on the machine that loaded the model
        return Description(config, {})
    if (described := describe_timm(model)) is not None:
        return Description(described, {})
    raise CheckpointError(
        f"a {type(model).__name__} is neither a model of transformers nor of timm, so no config can describe it",
        "save its state_dict, and export it from Python: acm_export.export(module, example_inputs, output)",
    )
