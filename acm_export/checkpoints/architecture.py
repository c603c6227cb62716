"""``config.json``: the model class that it describes, and checks of values that transformers does not explain."""

from __future__ import annotations

import json
import re
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

import transformers
from transformers.activations import ACT2FN

from acm_export.base.errors import AcmWarning, CheckpointError
from acm_export.base.file_kinds import FileKind, file_kind
from acm_export.base.files import check_input

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from acm_export.surgery import ModelFamily

_MAX_CONFIG_BYTES = 16 << 20
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_CONVERT = "for a file of the ACM authors' code: acm-export convert FILE --num-heads H -o DIR"
_CORRECT = "correct the value in config.json"
_LAYER_COUNTS = ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers", "n_layer", "n_layers")
"""Names of the config entries with the numbers of transformer layers, in all families."""

_COUNTS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "patch_size",
    "image_size",
    "num_channels",
    "vocab_size",
    "type_vocab_size",
    "max_position_embeddings",
    "d_model",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "num_mel_bins",
    "max_source_positions",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
)
_ACTIVATIONS = ("hidden_act", "activation_function", "feat_extract_activation")


def read_config_json(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a checkpoint folder as JSON.

    Raises:
        UsageError: The folder does not exist.
        CheckpointError: ``config.json`` does not exist, or is not a JSON object.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        check_input(folder, "folder", _missing_folder_hint(folder))
        kind = file_kind(folder) or FileKind("a file")
        raise CheckpointError(f"{folder} is {kind.description}, not a checkpoint folder", kind.hint or _CONVERT)
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json", "give the folder that contains config.json")
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes; a config has at most {_MAX_CONFIG_BYTES}")
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", "copy or save it again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} contains a {type(config).__name__}; expected an object")
    return config


def _missing_folder_hint(folder: Path) -> str:
    if _HUB_ID.fullmatch(str(folder)) and folder.parts[0] not in (".", "..") and not folder.parent.exists():
        return f"to download it from the Hugging Face Hub: hf download {folder} --local-dir {folder.name}"
    return "give a checkpoint folder with config.json and model.safetensors"


def parse_config(folder: Path) -> PretrainedConfig:
    """Read ``config.json`` through transformers; no code of the folder runs.

    Raises:
        CheckpointError: The file is not a config of transformers.
    """
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many types for invalid values
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder / 'config.json'} is not a config of transformers: {reason}", _CORRECT
        ) from error


def model_class_of(config: dict[str, Any], family: ModelFamily) -> type[PreTrainedModel]:
    """The model class of a config's architecture, or of the part of it that the family reads.

    Raises:
        CheckpointError: The architecture is not supported.
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
        warnings.warn(f"reading only the {read} of this {name}", AcmWarning, stacklevel=3)
    kind = family.model_type
    home = transformers if hasattr(transformers, read) else import_module(f"transformers.models.{kind}.modeling_{kind}")
    model_class: type[PreTrainedModel] = getattr(home, read)
    return model_class


def construction_options(expected: Collection[str], found: Collection[str]) -> dict[str, Any]:
    """Keyword arguments for a model's class: a base model saved without a pooler is built without one.

    Args:
        expected: Names of the tensors of a model built without options.
        found: Names of the tensors in the weights.
    """
    poolers = {name for name in expected if name.startswith("pooler.")}
    return {"add_pooling_layer": False} if poolers and not poolers & set(found) else {}


def check_fields(config: dict[str, Any]) -> None:
    """Check counts and activations, because the errors of transformers do not name the field.

    Raises:
        CheckpointError: A count is below 1 or an activation is unknown; the message has the field and the value.
    """
    for field in _COUNTS:
        value = config.get(field)
        if any(isinstance(item, int) and item < 1 for item in (value if isinstance(value, list) else [value])):
            raise CheckpointError(
                f"config.json has {field} = {value!r}; expected at least 1", f"correct {field} in config.json"
            )
    for field in _ACTIVATIONS:
        activation = config.get(field)
        if isinstance(activation, str) and activation not in ACT2FN:
            raise CheckpointError(
                f"config.json has {field} = {activation!r}, which is not a known activation",
                f"choose one of {', '.join(sorted(ACT2FN))}",
            )


def check_layer_count(config: dict[str, Any], num_tensors: int) -> None:
    """Check the numbers of transformer layers before any is built.

    Raises:
        CheckpointError: The number is below 1, or above the number of tensors in the weights.
    """
    for field in _LAYER_COUNTS:
        count = config.get(field)
        if isinstance(count, int) and not 1 <= count <= num_tensors:
            raise CheckpointError(
                f"the config has {field} = {count}, but the weights contain {num_tensors} tensors", _CORRECT
            )
