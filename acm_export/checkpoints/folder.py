"""Checkpoint folders: folders of transformers or timm whose ``config.json`` may have a section ``acm``.

    config.json         the model's config; "acm": {"schema", "layers", "source"}, and "part" if the folder
                        contains only a decoder; layers: by name, the fields of ACMSpec, and "emptied", the modules
                        that became identities
    model.safetensors   every tensor under its module's name; or shards and model.safetensors.index.json
    preprocessor_config.json and similar files, if the model has them

Dense folders, which lack the section, are loaded through transformers or timm.
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
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from acm_export.base.errors import AcmError, CheckpointError, OutputError
from acm_export.base.files import move_folder_into_place, staging_folder
from acm_export.checkpoints.architecture import read_config_json
from acm_export.checkpoints.blueprint import Blueprint, describe_model, read_blueprint, wanted_part
from acm_export.checkpoints.dense import construction_options
from acm_export.checkpoints.location import find_folder, is_hub_id
from acm_export.checkpoints.tied import load_untied, tied_names, untied_state
from acm_export.checkpoints.weights import (
    WEIGHTS,
    check_not_quantised,
    compare_shapes,
    find_weights,
    warn_about_values,
)
from acm_export.data.processor_files import processor_files
from acm_export.modules import ACMSpec, acm_layers
from acm_export.op.precision import PRECISIONS
from acm_export.surgery import ModelFamily, ModelInterface, PlacedLayer, install_acm_layers, prepare_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

    from torch import nn

    from acm_export.base.json_fields import JsonObject, JsonValue
    from acm_export.checkpoints.weights import Weights

SCHEMA = 2
_EMPTIED_BEFORE_SCHEMA_2: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "bert": {"intermediate": ("output.dense",)},
    "whisper": {"fc1": ("activation_fn", "fc2")},
}
"""Folders of schema 1 do not name the emptied modules: by family and name of the place, relative to its parent."""

_WEIGHT_DTYPES = tuple(precision.safetensors_name for precision in PRECISIONS.values())


@dataclass(frozen=True)
class Checkpoint:
    """A model loaded from disk.

    Args:
        model: Model in evaluation mode, in its saved dtype: of transformers, a part of one, or of timm.
        family: Family of the model.
        interface: How to run the model.
        path: Checkpoint folder.
        sha256: Hex SHA-256 of its weights.
        source: Origin of the weights, from the ``acm`` section.
        name: Name of the folder, or of the model on the Hugging Face Hub.
        part: Part of the folder's model that was read, as in :func:`load_checkpoint`; None for the default.
    """

    model: PreTrainedModel
    family: ModelFamily
    interface: ModelInterface
    path: Path
    sha256: str
    source: JsonObject = field(default_factory=dict)
    name: str = ""
    part: str | None = None


def save_checkpoint(
    model: nn.Module,
    folder: str | PathLike[str],
    *,
    source: Mapping[str, JsonValue] | None = None,
    processor_from: str | PathLike[str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a model as a checkpoint folder, atomically.

    Args:
        model: Model of transformers or timm, or a part of one, with or without ACM layers.
        folder: Folder to create; an existing folder is replaced only if it holds nothing but an earlier checkpoint.
        source: Origin of the weights, stored in the ``acm`` section.
        processor_from: Folder whose preprocessor files are copied.
        texts: Contents of additional text files, by name.

    Raises:
        CheckpointError: No config can be written for the model.
        OutputError: The folder cannot be written or contains other files.
    """
    folder = Path(folder)
    layers = {name: asdict(layer.spec) | {"emptied": layer.emptied} for name, layer in acm_layers(model)}
    with staging_folder(folder) as staging:
        content = staging / "checkpoint"
        content.mkdir()
        described = describe_model(model)
        if layers or not isinstance(model, PreTrainedModel):
            config: dict[str, Any] = dict(described.config)
            if layers or described.section:
                section = {"schema": SCHEMA, "layers": layers, "source": dict(source or {})}
                config["acm"] = {**section, **described.section}
            (content / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            _save_weights(untied_state(model), content / WEIGHTS)
        else:
            model.save_pretrained(content)
        for path in processor_files(Path(processor_from)) if processor_from else ():
            shutil.copy(path, content / path.name)
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


def load_checkpoint(folder: str | PathLike[str], part: str | None = None) -> Checkpoint:
    """Load a checkpoint, dense or with ACM layers.

    No code from the folder runs, and no memory is allocated before the shapes in the config have been compared with the
    weights. An ``AcmWarning`` names tensors that contain NaN or infinity, and weights that the model does not use.

    Args:
        folder: Folder of transformers, sentence-transformers or timm, or a name on the Hugging Face Hub (``org/name``).
        part: Part of the model: ``whole``; ``encoder`` or ``decoder`` of an encoder-decoder model; ``vision`` or
            ``text`` of a model with two towers. By default the whole model, but of Whisper the encoder, and of a model
            for masked pre-training the base model.

    Returns:
        The model in evaluation mode, bit-identical to the saved one.

    Raises:
        CheckpointError: A file is missing, broken or contradicts another, or the model cannot be built.
        UsageError: The folder does not exist, or the model has no such part.
    """
    given = Path(folder)
    folder = find_folder(given)
    config_json = read_config_json(folder)
    weights = find_weights(folder)
    blueprint = read_blueprint(folder, config_json, weights, part)
    check_not_quantised(weights)
    section = config_json.get("acm")
    layers = None if section is None else _read_section(section, blueprint.family)
    model = blueprint.load_dense(weights) if layers is None else _load_acm(weights, blueprint, layers)
    model, part = wanted_part(model, part, blueprint.family, dense=layers is None)
    prepare_model(model)
    warn_about_values(model.state_dict())
    source = section.get("source") if isinstance(section, dict) else None
    origin = source if isinstance(source, dict) else {}
    interface = blueprint.family.interface(model)
    name = str(given) if is_hub_id(given) else given.name
    return Checkpoint(model.eval(), blueprint.family, interface, folder, weights.sha256(), origin, name, part)


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


def _load_acm(weights: Weights, blueprint: Blueprint, layers: Mapping[str, PlacedLayer]) -> nn.Module:
    with torch.device("meta"):
        trial = build_model(blueprint.make, blueprint.family, layers)
        missing = trial.state_dict().keys() - weights.shapes.keys()
        if options := construction_options(type(trial), missing):
            trial = build_model(blueprint.make, blueprint.family, layers, **options)
    tied = tied_names(trial)
    expected = {name: tuple(tensor.shape) for name, tensor in trial.state_dict().items() if name not in tied}
    compare_shapes(expected, weights.shapes, weights.path)
    _check_dtypes(weights)
    with no_init_weights():
        model = build_model(blueprint.make, blueprint.family, layers, **options)
    load_untied(model, weights.read(), tied)
    return model


def build_model(
    make: Callable[..., nn.Module], family: ModelFamily, layers: Mapping[str, PlacedLayer], **options: object
) -> nn.Module:
    """Build a model with untrained weights, and with ACM layers.

    Args:
        make: Builds the dense model; keyword arguments are ``options``.
        family: Family of the model.
        layers: ACM layers by place.
        options: Options of the model's class.

    Raises:
        CheckpointError: The config does not describe the model, or a place does not exist.
    """
    model = make(**options)
    if layers:
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
