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
from acm_export.checkpoints.location import download_hint, is_hub_id

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

_MAX_CONFIG_BYTES = 16 << 20
_CONVERT = "for a file of the ACM authors' code: acm-export convert FILE --num-heads H -o DIR"
_CORRECT = "correct the value in config.json"
_COUNTS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "patch_size",
    "image_size",
    "num_channels",
    "vocab_size",
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
_MAX_LABELS = 1 << 20
"""transformers makes a name for every label, before any weights are compared."""

_LAYERS = re.compile(r"(?:num_)?(?:hidden_|encoder_|decoder_)?(?:layers?|blocks)|n_layers?|num_.*_layers|depths?")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_BACKBONES = ("backbone", "architecture")
_PRETRAINING = ("ForMaskedLM", "ForPreTraining", "ForMaskedImageModeling")
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
    return download_hint(folder) if is_hub_id(folder) else "give a checkpoint folder with config.json and its weights"


def parse_config(folder: Path, config_json: dict[str, Any]) -> PretrainedConfig:
    """Read ``config.json`` through transformers; no code of the folder runs.

    Raises:
        CheckpointError: The file is not a config of transformers, or describes a model that cannot be taken.
    """
    _check_kind(config_json)
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many types for invalid values
        kind = config_json.get("model_type")
        if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
            raise _unknown_type(folder, kind, "auto_map" in config_json) from error
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder / 'config.json'} is not a config of transformers: {reason}", _CORRECT
        ) from error


def _check_kind(config: dict[str, Any]) -> None:
    """Refuse quantised models and mixtures of experts."""
    if isinstance(quantised := config.get("quantization_config"), dict):
        method = quantised.get("quant_method", "an unnamed method")
        raise CheckpointError(
            f"the weights are quantised ({method}), and learners need floating-point weights",
            "give the original model in float32, float16 or bfloat16, and run acm-export quantize on the file",
        )
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for field in _EXPERTS:
            if isinstance(count := part.get(field), int) and count > 1:
                raise CheckpointError(
                    f"{config.get('model_type')!r} is a mixture of experts ({field} = {count}); its feed-forward "
                    "networks already run for a part of the tokens, and are not replaced",
                    "give a dense model of the same family",
                )


def _unknown_type(folder: Path, kind: object, has_code: bool) -> CheckpointError:
    known = f"transformers {transformers.__version__} has no model_type {kind!r}"
    if has_code:
        return CheckpointError(
            f"{known}: the code of this model is in its folder (auto_map), and acm-export runs no code from a folder",
            "build the model in your own code and call acm_export.export(model, example_inputs, output)",
        )
    return CheckpointError(
        f"{known}, which {folder / 'config.json'} names",
        "update transformers, or correct model_type; timm folders have an 'architecture' instead",
    )


def model_class_of(config_json: dict[str, Any], config: PretrainedConfig, whole: bool) -> type[PreTrainedModel]:
    """The model class of a config's architecture.

    Of architectures for masked pre-training, only the base model is read, with a warning, unless ``whole``.

    Raises:
        CheckpointError: transformers has no such architecture for this config.
    """
    names = config_json.get("architectures") or []
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if not names:
        return _base_class(config)
    model_class = _class_named(name, config) if isinstance(name, str) else None
    if model_class is None or not isinstance(name, str):
        raise CheckpointError(
            f"transformers {transformers.__version__} has no architecture {name!r} of model_type {config.model_type!r}",
            "correct 'architectures' in config.json, or save the model again with transformers",
        )
    if whole or not name.endswith(_PRETRAINING):
        return model_class
    base = _base_class(config)
    warnings.warn(
        f"reading only the {base.__name__} of this {name}; --part whole reads all of it", AcmWarning, stacklevel=3
    )
    return base


def _base_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    try:
        found: Any = transformers.AutoModel._model_mapping[type(config)]  # noqa: SLF001  the only list of base models
    except KeyError as error:
        raise CheckpointError(
            f"config.json names no architecture, and {config.model_type!r} has no base model",
            "add 'architectures' to config.json",
        ) from error
    model_class: type[PreTrainedModel] = found[0] if isinstance(found, (tuple, list)) else found
    return model_class


def _class_named(name: str, config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """A model class of transformers, or of the package that the config comes from, which takes this config."""
    home = type(config).__module__.replace(".configuration_", ".modeling_")
    try:
        found = getattr(import_module(home), name, None) or getattr(transformers, name, None)
    except ImportError:
        found = getattr(transformers, name, None)
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        return None
    model_class: type[PreTrainedModel] = found
    takes = model_class.config_class
    return model_class if takes is None or isinstance(config, takes) else None


def check_fields(config: dict[str, Any]) -> None:
    """Check counts and activations, because the errors of transformers do not name the field.

    Raises:
        CheckpointError: A count is below 1 or too large, or an activation is unknown; the message has the field and the
            value.
    """
    for part in config.values():
        if isinstance(part, dict):
            check_fields(part)
    for field in _COUNTS:
        value = config.get(field)
        if any(isinstance(item, int) and item < 1 for item in (value if isinstance(value, list) else [value])):
            raise CheckpointError(
                f"config.json has {field} = {value!r}; expected at least 1", f"correct {field} in config.json"
            )
    if isinstance(labels := config.get("num_labels"), int) and labels > _MAX_LABELS:
        raise CheckpointError(f"config.json has num_labels = {labels}; expected at most {_MAX_LABELS}", _CORRECT)
    for field in _ACTIVATIONS:
        activation = config.get(field)
        if isinstance(activation, str) and activation not in ACT2FN:
            raise CheckpointError(
                f"config.json has {field} = {activation!r}, which is not a known activation",
                f"choose one of {', '.join(sorted(ACT2FN))}",
            )


def check_layer_count(config: dict[str, Any], num_tensors: int) -> None:
    """Check the numbers of layers before any is built.

    Raises:
        CheckpointError: A number is below 1, or above the number of tensors in the weights.
    """
    for field, value in config.items():
        if isinstance(value, dict):
            check_layer_count(value, num_tensors)
        elif _LAYERS.fullmatch(field):
            counts = value if isinstance(value, list) else [value]
            if any(isinstance(count, int) and not 0 <= count <= num_tensors for count in counts):
                raise CheckpointError(
                    f"the config has {field} = {value}, but the weights contain {num_tensors} tensors", _CORRECT
                )


def check_references(config: dict[str, Any]) -> None:
    """Refuse values with which transformers or timm would load code or weights from elsewhere while they build a model.

    Raises:
        CheckpointError: A value names a kernel, a backbone or a file outside the folder.
    """
    if isinstance(config.get("backbone"), str) and config.get("backbone_kwargs") and not config.get("backbone_config"):
        raise CheckpointError(
            f"config.json has backbone = {config['backbone']!r} with backbone_kwargs and without backbone_config; "
            "transformers would look it up on the Hugging Face Hub; nothing is loaded from elsewhere",
            "describe the backbone in backbone_config in place of backbone and backbone_kwargs",
        )
    for field, value in config.items():
        if isinstance(value, dict):
            check_references(value)
        is_kernel = field.endswith(("attn_implementation", "experts_implementation")) and "/" in str(value)
        is_backbone = field in _BACKBONES and isinstance(value, str) and bool({"/", ":"} & set(value))
        if is_kernel or is_backbone or (field == "checkpoint_path" and value):
            raise CheckpointError(
                f"config.json has {field} = {value!r}, which names code or weights outside the folder; nothing is "
                "loaded from elsewhere",
                f"remove {field} from config.json{'; describe the backbone in backbone_config' * is_backbone}",
            )
