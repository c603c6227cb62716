"""Load dense folders through transformers, after checking the names and shapes of their weights."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from acm_export.base.errors import CheckpointError
from acm_export.checkpoints.architecture import construction_options
from acm_export.checkpoints.weights import Shapes, compare_shapes

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from acm_export.checkpoints.weights import Weights
    from acm_export.surgery import ModelFamily


def load_dense(
    weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig, family: ModelFamily
) -> PreTrainedModel:
    """Load a model that transformers saved; names and shapes of its tensors must match the config.

    The weights may contain heads that the architecture does not have: a base model can be loaded from a model with a
    head, and Whisper's encoder from the whole model. A base model without pooler weights is built without a pooler.

    Args:
        weights: Weights of the folder.
        model_class: Class to build.
        config: Config of the folder.
        family: Family of the model.

    Raises:
        CheckpointError: The config does not describe a model, or its names or shapes differ from the weights.
    """
    expected = _expected_shapes(model_class, config, {})
    prefix = f"{model_class.base_model_prefix}."
    found = _module_names(weights.shapes, family, expected, prefix)
    options = construction_options(expected, found)
    expected = _expected_shapes(model_class, config, options) if options else expected
    unused = {n for n in found.keys() - expected.keys() if n.removeprefix(prefix).startswith(family.optional)}
    lacking = {n for n in expected.keys() - found.keys() if n.removeprefix(prefix) in family.training_only}
    compare_shapes(
        {name: shape for name, shape in expected.items() if name not in lacking},
        {name: shape for name, shape in found.items() if name not in unused},
        weights.path,
    )
    if family.read_as:  # transformers only knows the names of whole models
        options["key_mapping"] = dict(family.stored_names)
    model = _from_pretrained(weights.path.parent, model_class, config, options, lacking)
    for name in lacking:  # so that every load gives the same model
        torch.nn.init.zeros_(model.get_parameter(name))
    return model


def _expected_shapes(model_class: type[PreTrainedModel], config: PretrainedConfig, options: dict[str, Any]) -> Shapes:
    try:
        with torch.device("meta"):
            state = model_class(config, **options).state_dict()
    except Exception as error:  # transformers raises many types for invalid values
        raise CheckpointError(
            f"config.json does not describe a {model_class.__name__}: {error}", "correct the value in config.json"
        ) from error
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _module_names(shapes: Shapes, family: ModelFamily, expected: Shapes, prefix: str) -> Shapes:
    """Shapes by the names of the modules, with the base model's prefix if the architecture has one."""
    renamed: Shapes = {}
    for stored, shape in shapes.items():
        name = stored
        for pattern, replacement in family.stored_names.items():
            name = re.sub(pattern, replacement, name)
        choices = (name, f"{prefix}{name}", name.removeprefix(prefix))
        place = next((choice for choice in choices if choice in expected), name)
        if place in renamed:
            raise CheckpointError(
                f"the weights contain {place} under two names, one of them {stored}", "remove one of them"
            )
        renamed[place] = shape
    return renamed


def _from_pretrained(
    folder: Path,
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    options: dict[str, Any],
    may_lack: set[str],
) -> PreTrainedModel:
    try:
        model, report = model_class.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype="auto",
            **options,
        )
    except Exception as error:  # transformers raises many types for invalid values
        reason = " ".join(str(error).split())[:500]
        raise CheckpointError(f"the weights in {folder} contradict its config: {reason}") from error
    if missing := sorted(set(report["missing_keys"]) - may_lack):
        raise CheckpointError(f"the weights in {folder} lack {', '.join(missing[:5])}")
    return model
