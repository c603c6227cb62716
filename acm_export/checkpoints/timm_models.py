"""Folders of timm: ``config.json`` with the name of an architecture, as timm saves them for the Hub."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

from acm_export.base.errors import CheckpointError
from acm_export.base.optional import require
from acm_export.checkpoints.weights import compare_shapes
from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from torch import nn

    from acm_export.base.json_fields import JsonObject
    from acm_export.checkpoints.weights import Weights

_DESCRIPTION = "acm_timm_config"
"""Attribute of a loaded model: its ``config.json`` without the section ``acm``."""

_FIELDS = ("architecture", "num_classes", "num_features", "global_pool", "pretrained_cfg", "model_args")


def is_timm(config: dict[str, Any]) -> bool:
    """Whether ``config.json`` describes a model of timm."""
    return "architecture" in config and "model_type" not in config


def create_timm(config: dict[str, Any]) -> nn.Module:
    """Build a model of timm with untrained weights.

    Args:
        config: ``config.json`` of the folder: ``architecture``, and optionally ``num_classes``, ``global_pool``,
            ``model_args`` and ``pretrained_cfg``.

    Raises:
        CheckpointError: timm has no such architecture, or it refuses a value.
        MissingDependencyError: timm is not installed.
    """
    timm = require("timm")
    name, arguments = config["architecture"], config.get("model_args") or {}
    if not isinstance(name, str) or not timm.is_model(name):
        raise CheckpointError(
            f"timm {timm.__version__} has no architecture {name!r}",
            "correct 'architecture' in config.json, or update timm",
        )
    if not isinstance(arguments, dict):
        raise CheckpointError(f"model_args is {arguments!r}; expected an object", "correct it in config.json")
    given = {key: config[key] for key in ("num_classes", "global_pool") if config.get(key) is not None}
    described = config.get("pretrained_cfg")
    try:
        model: nn.Module = timm.create_model(
            name,
            pretrained=False,
            **({"pretrained_cfg": described} if isinstance(described, dict) else {}),
            **(given | arguments),
        )
    except Exception as error:  # timm raises many types for invalid values
        raise CheckpointError(
            f"config.json does not describe a {name}: {error}", "correct the value in config.json"
        ) from error
    setattr(model, _DESCRIPTION, {key: config[key] for key in _FIELDS if key in config})
    return model


def load_timm(weights: Weights, config: dict[str, Any]) -> nn.Module:
    """Load a dense model of timm, after comparing its names and shapes with the weights.

    Raises:
        CheckpointError: The config does not describe a model, or its names or shapes differ from the weights.
    """
    with torch.device("meta"):
        trial = create_timm(config)
    expected = {name: tuple(tensor.shape) for name, tensor in trial.state_dict().items()}
    state = None
    if expected.keys() != weights.shapes.keys() and (convert := _converter(trial)):
        size = sum(torch.Size(shape).numel() for shape in expected.values())
        if size > 2 * sum(torch.Size(shape).numel() for shape in weights.shapes.values()):
            compare_shapes(expected, weights.shapes, weights.path)
        state = convert(weights.read(), create_timm(config))
    found = weights.shapes if state is None else {name: tuple(tensor.shape) for name, tensor in state.items()}
    compare_shapes(expected, {n: s for n, s in found.items() if n in expected or not _is_buffer(n)}, weights.path)
    model = create_timm(config)
    model.load_state_dict({n: t for n, t in (state or weights.read()).items() if n in expected}, assign=True)
    return model


def describe_timm(model: nn.Module) -> JsonObject | None:
    """``config.json`` of a model of timm; None for other models.

    Raises:
        CheckpointError: The model was built with arguments that timm does not record.
    """
    if (known := getattr(model, _DESCRIPTION, None)) is not None:
        return dict(known)
    described = getattr(model, "pretrained_cfg", None)
    if not isinstance(described, dict) or "architecture" not in described:
        return None
    config = {
        "architecture": described["architecture"],
        "num_classes": getattr(model, "num_classes", None),
        "pretrained_cfg": {key: value for key, value in described.items() if _is_plain(value)},
        "model_args": dict(getattr(model, "model_args", None) or {}),
    }
    _check_description(model, config)
    return config


def _check_description(model: nn.Module, config: JsonObject) -> None:
    """Compare a model with one that is built from its description; ACM layers have other tensors."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in create_timm(config).state_dict().items()}
    inside = tuple(f"{name}." for name, _ in acm_layers(model))
    for name, tensor in model.state_dict().items():
        if not name.startswith(inside) and shapes.get(name) != tensor.shape:
            raise CheckpointError(
                f"this {config['architecture']} was not built with timm's defaults: its {name} is "
                f"{list(tensor.shape)}, not {list(shapes.get(name, ()))}",
                "set model.model_args to the keyword arguments that timm.create_model got, such as {'img_size': 64}",
            )


def _converter(model: nn.Module) -> Any:
    """The function of an architecture that renames the tensors of older files, if timm has one."""
    return getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)


def _is_buffer(name: str) -> bool:
    return name.rpartition(".")[2] in ("relative_position_index", "attn_mask", "num_batches_tracked")


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
