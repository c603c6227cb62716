"""Our checkpoint: a Hugging Face folder whose ``config.json`` has a section ``acm``.

    config.json         the transformer's config; "acm": {"schema", "layers": {name: ACMSpec}, "source"}
    model.safetensors   every tensor under its module's name
    preprocessor_config.json and the like, where the model has them

Dense folders, without the section, are read through transformers itself.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.initialization import no_init_weights

from acm_export.base.errors import AcmError, CheckpointError, OutputError
from acm_export.base.file_kinds import FileKind, file_kind
from acm_export.base.files import check_input, move_folder_into_place, sha256_of, staging_folder
from acm_export.checkpoints.architecture import construction_options, model_class_of, parse_config
from acm_export.checkpoints.config_fields import check_fields
from acm_export.checkpoints.dense import load_dense
from acm_export.checkpoints.health import warn_about_values
from acm_export.checkpoints.shapes import compare_shapes
from acm_export.modules import ACMSpec, acm_layers
from acm_export.op.precision import PRECISIONS
from acm_export.surgery import ModelFamily, family_of, install_acm_layers, keep_ffns_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig, PreTrainedModel

SCHEMA = 1
_CORRECT = "correct the value in config.json"
WEIGHTS = "model.safetensors"
_MAX_CONFIG_BYTES = 16 << 20
_WEIGHT_DTYPES = tuple(precision.safetensors_name for precision in PRECISIONS.values())
PROCESSOR_FILES = (
    "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "normalizer.json",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A model read from disk.

    Args:
        model: In evaluation mode, in the dtype that was saved.
        family: The table entry of its architecture.
        path: The folder.
        sha256: Of its weights file, hex.
        source: What the ``acm`` section says about where the weights came from.
    """

    model: PreTrainedModel
    family: ModelFamily
    path: Path
    sha256: str
    source: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    model: PreTrainedModel,
    folder: Path,
    *,
    source: Mapping[str, Any],
    processor_from: Path | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a model as a checkpoint folder, whole or not at all.

    Args:
        model: A model of a supported family, with or without ACM layers.
        folder: Is made, or replaced where it holds nothing but an earlier checkpoint.
        source: Where the weights came from, kept in the ``acm`` section.
        processor_from: A folder whose preprocessor files are copied along.
        texts: More files, by name.

    Raises:
        OutputError: The folder cannot be written or holds other files.
    """
    layers = {name: asdict(layer.spec) for name, layer in acm_layers(model)}
    with staging_folder(folder) as staging:
        content = staging / "checkpoint"
        content.mkdir()
        if layers:
            config = model.config.to_dict() | {"architectures": [type(model).__name__]}
            config.pop("_name_or_path", None)  # a path of the machine that loaded the model
            config["acm"] = {"schema": SCHEMA, "layers": layers, "source": dict(source)}
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
    except SafetensorError as error:  # in the place of an OSError
        raise OutputError(f"cannot write {path.name}: {error}", "nothing was changed") from error


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder, dense or with ACM layers.

    Nothing from the folder is executed, and no memory is reserved before the shapes that the config announces have
    been found in the weights file. Values that are not finite are named in an ``AcmWarning``.

    Args:
        folder: A folder with ``config.json`` and ``model.safetensors``.

    Returns:
        The model in evaluation mode, bit-identical to what was saved.

    Raises:
        CheckpointError: A file is missing, broken or contradicts the other; the family is unknown.
    """
    config_json = _read_config(folder)
    weights = folder / WEIGHTS
    family = family_of(str(config_json.get("model_type")), _weight_shapes(weights) if weights.is_file() else ())
    model_class = model_class_of(config_json, family)
    section = config_json.get("acm")
    shapes = _weight_shapes(weights)
    _check_layer_count(config_json, family, len(shapes))
    check_fields(config_json)
    config = parse_config(folder)
    if section is None:
        model = load_dense(weights, model_class, config, family, shapes)
        keep_ffns_whole(model)
    else:
        model = _load_acm(weights, model_class, config, family, _read_section(section), shapes)
    warn_about_values(model.state_dict())
    source = section.get("source") if isinstance(section, dict) else None
    return Checkpoint(model.eval(), family, folder, sha256_of(weights), source if isinstance(source, dict) else {})


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not folder.is_dir():
        check_input(folder, "folder", "give a checkpoint folder, which holds config.json and model.safetensors")
        kind = file_kind(folder) or FileKind("a file")
        raise CheckpointError(
            f"{folder} is {kind.description}, not a checkpoint folder",
            kind.hint or "for a file of the ACM authors' code: acm-export convert FILE --num-heads H -o DIR",
        )
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json", "give the folder that holds config.json")
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes; a config has at most {_MAX_CONFIG_BYTES}")
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", "copy or save it again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a {type(config).__name__}, expected an object")
    return config


def _weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes from the header of the weights file; no tensor is read."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {WEIGHTS}", "sharded and pickled weights are not supported")
    try:
        with safe_open(path, "pt") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file: {error}", "copy or save it again"
        ) from error


def _check_layer_count(config: dict[str, Any], family: ModelFamily, num_tensors: int) -> None:
    count = config.get(family.num_layers)
    if isinstance(count, int) and not 1 <= count <= num_tensors:
        raise CheckpointError(
            f"the config has {family.num_layers} = {count}, the weights {num_tensors} tensors", _CORRECT
        )


def _read_section(section: Any) -> dict[str, ACMSpec]:
    if not isinstance(section, dict) or not isinstance(section.get("layers"), dict):
        raise CheckpointError("the 'acm' section of config.json has no 'layers'")
    if section.get("schema") != SCHEMA:
        raise CheckpointError(
            f"the 'acm' section has schema {section.get('schema')!r}, this version reads {SCHEMA}",
            "update acm-export",
        )
    try:
        return {name: ACMSpec(**spec) for name, spec in section["layers"].items()}
    except (TypeError, AcmError) as error:
        raise CheckpointError(f"the 'acm' section of config.json describes an impossible layer: {error}") from error


def _load_acm(
    weights: Path,
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    family: ModelFamily,
    specs: dict[str, ACMSpec],
    shapes: dict[str, tuple[int, ...]],
) -> PreTrainedModel:
    with torch.device("meta"):
        expected = build_model(model_class, config, family, specs).state_dict()
        if options := construction_options(expected, shapes):
            expected = build_model(model_class, config, family, specs, **options).state_dict()
    compare_shapes({name: tuple(tensor.shape) for name, tensor in expected.items()}, shapes, weights)
    _check_dtypes(expected, weights)
    with no_init_weights():
        model = build_model(model_class, config, family, specs, **options)
    with safe_open(weights, "pt") as file:
        state = {name: file.get_tensor(name) for name in shapes}
    model.load_state_dict(state, assign=True)
    return model


def build_model(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    family: ModelFamily,
    specs: dict[str, ACMSpec],
    **options: Any,
) -> PreTrainedModel:
    """A model with untrained weights and ACM layers at the places that ``specs`` names."""
    try:
        model = model_class(config, **options)
    except Exception as error:  # transformers raises whatever a strange value leads to
        raise CheckpointError(f"config.json does not describe a {model_class.__name__}: {error}", _CORRECT) from error
    install_acm_layers(model, family, specs)
    return model


def _check_dtypes(expected: Mapping[str, torch.Tensor], path: Path) -> None:
    """Gates and thresholds are float32; all other weights have one of the op's types, the same for all."""
    with safe_open(path, "pt") as weights:
        found = {name: str(weights.get_slice(name).get_dtype()) for name in expected}
    pinned = {name for name in found if ".gate." in name or name.endswith(".thresholds")}
    common = Counter(found[name] for name in found.keys() - pinned).most_common(1)[0][0]
    for name in sorted(found):
        if found[name] not in (("F32",) if name in pinned else _WEIGHT_DTYPES):
            raise CheckpointError(
                f"{path.name}: {name} is {found[name]}, expected float32" + (" or half" * (name not in pinned))
            )
    for name in sorted(found.keys() - pinned):
        if found[name] != common:
            raise CheckpointError(f"{path.name}: {name} is {found[name]}, but most weights are {common}")
