"""From a config to the class of transformers that it describes."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

import transformers

from acm_export.base.errors import AcmWarning, CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from acm_export.surgery import ModelFamily


def parse_config(folder: Path) -> PretrainedConfig:
    """Read ``config.json`` through transformers; nothing in the folder is run.

    Raises:
        CheckpointError: It is no config.
    """
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever a strange value leads to
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder / 'config.json'} is no config of transformers: {reason}", "correct the value in config.json"
        ) from error


def model_class_of(config: dict[str, Any], family: ModelFamily) -> type[PreTrainedModel]:
    """The class of the architecture that a config names, or of the part of it that the family reads.

    Raises:
        CheckpointError: The family does not support the architecture.
    """
    names = config.get("architectures") or [next(iter(family.outputs))]
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    read = family.read_as.get(name, name) if isinstance(name, str) else name
    if not isinstance(read, str) or read not in family.outputs:
        raise CheckpointError(
            f"architecture {name!r} of model_type {family.model_type!r} is not supported; "
            f"supported: {', '.join((*family.outputs, *family.read_as))}",
            "save the model as one of these with transformers, and give that folder",
        )
    if read != name:
        warnings.warn(f"{name} is read as {read}; what is not part of that is left out", AcmWarning, stacklevel=3)
    kind = family.model_type
    home = transformers if hasattr(transformers, read) else import_module(f"transformers.models.{kind}.modeling_{kind}")
    model_class: type[PreTrainedModel] = getattr(home, read)
    return model_class


def construction_options(expected: Collection[str], found: Collection[str]) -> dict[str, Any]:
    """Arguments for a model's class beside the config, so that a base model saved without its pooler has none.

    Args:
        expected: Names of the tensors of a model made without options.
        found: Names in the weights file.
    """
    poolers = {name for name in expected if name.startswith("pooler.")}
    return {"add_pooling_layer": False} if poolers and not poolers & set(found) else {}
