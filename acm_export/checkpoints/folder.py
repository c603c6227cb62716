"""Checkpoint folders: Hugging Face folders whose ``config.json`` may have a section ``acm``.

    config.json         the transformer's config; "acm": {"schema", "layers", "source"}
                        layers: by name, the fields of ACMSpec, and "emptied", the modules that became identities
    model.safetensors   every tensor under its module's name; or shards and model.safetensors.index.json
    preprocessor_config.json and similar files, if the model has them

Dense folders, which lack the section, are loaded through transformers.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers.initialization import no_init_weights

from acm_export.base.errors import AcmError, CheckpointError, OutputError
from acm_export.base.files import move_folder_into_place, staging_folder
from acm_export.checkpoints.architecture import (
    check_fields,
    check_layer_count,
    construction_options,
    model_class_of,
    parse_config,
    read_config_json,
)
from acm_export.checkpoints.dense import load_dense
from acm_export.checkpoints.weights import INDEX, WEIGHTS, compare_shapes, find_weights, warn_about_values
from acm_export.modules import ACMSpec, acm_layers
from acm_export.op.precision import PRECISIONS
from acm_export.surgery import (
    ModelFamily,
    ModelInterface,
    PlacedLayer,
    disable_ffn_chunking,
    family_of,
    install_acm_layers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from transformers import PretrainedConfig, PreTrainedModel

    from acm_export.base.json_fields import JsonObject, JsonValue
    from acm_export.checkpoints.weights import Weights

SCHEMA = 2
_EMPTIED_BEFORE_SCHEMA_2: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "bert": {"intermediate": ("output.dense",)},
    "whisper": {"fc1": ("activation_fn", "fc2")},
}
"""Folders of schema 1 do not name the emptied modules: by family and name of the place, relative to its parent."""

_WEIGHT_DTYPES = tuple(precision.safetensors_name for precision in PRECISIONS.values())
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "normalizer.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """A model loaded from disk.

    Args:
        model: Model in evaluation mode, in its saved dtype.
        family: Family of the model.
        interface: How to run the model.
        path: Checkpoint folder.
        sha256: Hex SHA-256 of its weights.
        source: Origin of the weights, from the ``acm`` section.
    """

    model: PreTrainedModel
    family: ModelFamily
    interface: ModelInterface
    path: Path
    sha256: str
    source: JsonObject = field(default_factory=dict)


def save_checkpoint(
    model: PreTrainedModel,
    folder: str | PathLike[str],
    *,
    source: Mapping[str, JsonValue] | None = None,
    processor_from: str | PathLike[str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a model as a checkpoint folder, atomically.

    Args:
        model: Model of a supported family, with or without ACM layers.
        folder: Folder to create; an existing folder is replaced only if it holds nothing but an earlier checkpoint.
        source: Origin of the weights, stored in the ``acm`` section.
        processor_from: Folder whose preprocessor files are copied.
        texts: Contents of additional text files, by name.

    Raises:
        OutputError: The folder cannot be written or contains other files.
    """
    folder = Path(folder)
    layers = {name: asdict(layer.spec) | {"emptied": layer.emptied} for name, layer in acm_layers(model)}
    with staging_folder(folder) as staging:
        content = staging / "checkpoint"
        content.mkdir()
        if layers:
            config = model.config.to_dict() | {"architectures": [type(model).__name__]}
            config.pop("_name_or_path", None)  # a path on the machine that loaded the model
            config["acm"] = {"schema": SCHEMA, "layers": layers, "source": dict(source or {})}
            (content / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            _save_weights(state, content / WEIGHTS)
        else:
            model.save_pretrained(content)
        for name in PROCESSOR_FILES if processor_from else ():
            if (path := Path(processor_from or ".") / name).is_file():
                shutil.copy(path, content / name)
        for name, text in (texts or {}).items():
            (content / name).write_text(text, encoding="utf-8")
        move_folder_into_place(content, folder)


def _save_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(state, path, metadata={"format": "pt"})
    except SafetensorError as error:  # safetensors raises it instead of an OSError
        raise OutputError(
            f"cannot write {path.name}: {error}", "free some space; the previous checkpoint is unchanged"
        ) from error


def load_checkpoint(folder: str | PathLike[str]) -> Checkpoint:
    """Load a checkpoint folder, dense or with ACM layers.

    No code from the folder runs, and no memory is allocated before the shapes in the config have been compared with the
    weights. An ``AcmWarning`` names tensors that contain NaN or infinity.

    Args:
        folder: Folder with ``config.json``, and ``model.safetensors`` or its shards and their index.

    Returns:
        The model in evaluation mode, bit-identical to the saved one.

    Raises:
        CheckpointError: A file is missing, broken or contradicts another, or the family is not supported.
    """
    folder = Path(folder)
    config_json = read_config_json(folder)
    weights = find_weights(folder) if any((folder / name).is_file() for name in (WEIGHTS, INDEX)) else None
    family = family_of(str(config_json.get("model_type")))
    model_class = model_class_of(config_json, family)
    weights = weights or find_weights(folder)  # a family that is not supported is reported before missing weights
    section = config_json.get("acm")
    check_layer_count(config_json, len(weights.shapes))
    check_fields(config_json)
    config = parse_config(folder)
    if section is None:
        model = load_dense(weights, model_class, config, family)
        disable_ffn_chunking(model)
    else:
        model = _load_acm(weights, model_class, config, family, _read_section(section, family))
    warn_about_values(model.state_dict())
    source = section.get("source") if isinstance(section, dict) else None
    origin = source if isinstance(source, dict) else {}
    return Checkpoint(model.eval(), family, family.interface(model), folder, weights.sha256(), origin)


def _read_section(section: object, family: ModelFamily) -> dict[str, PlacedLayer]:
    if not isinstance(section, dict) or not isinstance(section.get("layers"), dict):
        raise CheckpointError("the 'acm' section of config.json has no 'layers'")
    schema = section.get("schema")
    if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        raise CheckpointError(
            f"the 'acm' section has schema {schema!r}, this version reads schemas 1 to {SCHEMA}", "update acm-export"
        )
    try:
        return {name: _placed(name, entry, schema, family) for name, entry in section["layers"].items()}
    except (TypeError, ValueError, AcmError) as error:
        raise CheckpointError(f"the 'acm' section of config.json describes an invalid layer: {error}") from error


def _placed(name: str, entry: Mapping[str, Any], schema: int, family: ModelFamily) -> PlacedLayer:
    if schema > 1:
        spec = dict(entry)
        emptied = spec.pop("emptied", None)
        if not isinstance(emptied, list) or not all(isinstance(part, str) for part in emptied):
            raise ValueError(f"{name!r} has emptied = {emptied!r}; expected a list of module names")
        return PlacedLayer(ACMSpec(**spec), tuple(emptied))
    parent, _, leaf = name.rpartition(".")
    parts = _EMPTIED_BEFORE_SCHEMA_2.get(family.model_type, {}).get(leaf, ())
    return PlacedLayer(ACMSpec(**entry), tuple(f"{parent}.{part}" if parent else part for part in parts))


def _load_acm(
    weights: Weights,
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    family: ModelFamily,
    layers: Mapping[str, PlacedLayer],
) -> PreTrainedModel:
    with torch.device("meta"):
        expected = build_model(model_class, config, family, layers).state_dict()
        if options := construction_options(expected, weights.shapes):
            expected = build_model(model_class, config, family, layers, **options).state_dict()
    compare_shapes({name: tuple(tensor.shape) for name, tensor in expected.items()}, weights.shapes, weights.path)
    _check_dtypes(weights)
    with no_init_weights():
        model = build_model(model_class, config, family, layers, **options)
    model.load_state_dict(weights.read(), assign=True)
    return model


def build_model(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    family: ModelFamily,
    layers: Mapping[str, PlacedLayer],
    **options: object,
) -> PreTrainedModel:
    """Build a model with untrained weights, and with ACM layers.

    Raises:
        CheckpointError: The config does not describe a model of this class, or a place does not exist.
    """
    try:
        model = model_class(config, **options)
    except Exception as error:  # transformers raises many types for invalid values
        raise CheckpointError(
            f"config.json does not describe a {model_class.__name__}: {error}", "correct the value in config.json"
        ) from error
    install_acm_layers(model, family.interface(model), layers)
    return model


def _check_dtypes(weights: Weights) -> None:
    """Check that gates and thresholds are float32, and that all other weights share one of the op's types."""
    found, file = weights.dtypes, weights.path.name
    pinned = {name for name in found if ".gate." in name or name.endswith(".thresholds")}
    common = Counter(found[name] for name in found.keys() - pinned).most_common(1)[0][0]
    for name in sorted(found):
        if found[name] not in (("F32",) if name in pinned else _WEIGHT_DTYPES):
            expected = "float32" if name in pinned else "float32, float16 or bfloat16"
            raise CheckpointError(f"{file}: {name} is {found[name]}; expected {expected}")
    for name in sorted(found.keys() - pinned):
        if found[name] != common:
            raise CheckpointError(f"{file}: {name} is {found[name]}, but most weights are {common}")
