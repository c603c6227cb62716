"""Dense folders: read through transformers, after the names and shapes of the weights have been compared."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from acm_export.checkpoints.shapes import Shapes, compare_shapes
from acm_export.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from acm_export.surgery import Family


def load_dense(
    weights: Path, model_class: type[PreTrainedModel], config: PretrainedConfig, family: Family, shapes: Shapes
) -> PreTrainedModel:
    """Read a model that transformers saved, where every tensor has its place and every place its tensor.

    Heads that the architecture does not have may be in the file: a base model is read out of a model with a head, and
    Whisper's encoder out of the whole. A base model without a pooler is built without one.

    Raises:
        CheckpointError: The config describes no model, or one with other names or shapes than the weights.
    """
    options: dict[str, Any] = {}
    expected = _expected_shapes(model_class, config, options)
    prefix = f"{model_class.base_model_prefix}."
    found = _module_names(shapes, family, expected, prefix)
    poolers = {name for name in expected if name.startswith("pooler.")}
    if poolers and not poolers & found.keys():
        options = {"add_pooling_layer": False}
        expected = _expected_shapes(model_class, config, options)
    unused = {n for n in found.keys() - expected.keys() if n.removeprefix(prefix).startswith(family.optional)}
    compare_shapes(expected, {name: shape for name, shape in found.items() if name not in unused}, weights)
    if family.read_as:  # transformers knows the names of whole models only
        options["key_mapping"] = dict(family.stored_names)
    return _from_pretrained(weights.parent, model_class, config, options)


def _expected_shapes(model_class: type[PreTrainedModel], config: PretrainedConfig, options: dict[str, Any]) -> Shapes:
    try:
        with torch.device("meta"):
            state = model_class(config, **options).state_dict()
    except Exception as error:  # transformers raises whatever a strange value leads to
        raise CheckpointError(
            f"config.json does not describe a {model_class.__name__}: {error}", "correct the value in config.json"
        ) from error
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _module_names(shapes: Shapes, family: Family, expected: Shapes, prefix: str) -> Shapes:
    """The shapes under the names of the modules, with the base model's prefix where the architecture has it."""
    renamed: Shapes = {}
    for stored, shape in shapes.items():
        name = stored
        for pattern, replacement in family.stored_names.items():
            name = re.sub(pattern, replacement, name)
        choices = (name, f"{prefix}{name}", name.removeprefix(prefix))
        place = next((choice for choice in choices if choice in expected), name)
        if place in renamed:
            raise CheckpointError(f"the weights hold {place} under two names, one of them {stored}", "keep one of them")
        renamed[place] = shape
    return renamed


def _from_pretrained(
    folder: Path, model_class: type[PreTrainedModel], config: PretrainedConfig, options: dict[str, Any]
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
    except Exception as error:  # transformers raises whatever a strange value leads to
        reason = " ".join(str(error).split())[:500]
        raise CheckpointError(f"the weights in {folder} contradict its config: {reason}") from error
    if report["missing_keys"]:
        raise CheckpointError(f"the weights in {folder} lack {', '.join(sorted(report['missing_keys'])[:5])}")
    return model
