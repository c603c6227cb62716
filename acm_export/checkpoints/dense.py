"""Load dense folders through transformers, after checking the names and shapes of their weights.

Names in files differ from module names: transformers renames, splits and merges tensors as it loads them. The check is
therefore a load on the ``meta`` device, which takes no memory and reports what would be missing or of another shape.
"""

from __future__ import annotations

import inspect
import re
import warnings
from typing import TYPE_CHECKING, Any

import torch

from acm_export.base.errors import AcmWarning, CheckpointError
from acm_export.checkpoints.weights import ONE_SAVE, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from transformers import PretrainedConfig, PreTrainedModel

    from acm_export.checkpoints.weights import Weights
    from acm_export.surgery import ModelFamily

_TRAINING_ONLY = re.compile(r"(?:^|\.)(?:masked_spec_embed|mask_token|num_batches_tracked)$")
"""Parameters of masked pre-training, and counters of batch norm."""

_BUFFERS = re.compile(r"(?:^|\.)(?:position_ids|inv_freq|relative_position_index|num_batches_tracked|masked_bias)$")


def load_dense(
    weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig, family: ModelFamily
) -> PreTrainedModel:
    """Load a model that transformers saved; names and shapes of its tensors must match the config.

    The weights may contain heads that the architecture does not have, because a base model can be loaded from a model
    with a head. A base model without pooler weights is built without a pooler. An ``AcmWarning`` names other weights
    that the model does not have.

    Args:
        weights: Weights of the folder.
        model_class: Class to build.
        config: Config of the folder.
        family: Family of the model.

    Raises:
        CheckpointError: The config does not describe a model, or its names or shapes differ from the weights.
    """
    _check_names_once(weights, model_class.base_model_prefix)
    empty = {
        name: torch.empty(shape, dtype=_DTYPES.get(weights.dtypes[name], torch.float32), device="meta")
        for name, shape in weights.shapes.items()
    }
    options: dict[str, Any] = {}
    trial, report = _from_state(model_class, config, empty, weights, device_map="meta", ignore_mismatched_sizes=True)
    if without := construction_options(model_class, report["missing_keys"]):
        options = without
        trial, report = _from_state(
            model_class, config, empty, weights, device_map="meta", ignore_mismatched_sizes=True, **options
        )
    names = list(trial.state_dict())
    lacking = {name for name in report["missing_keys"] if _may_lack(name, family, model_class)}
    _check_report(report, lacking, weights)
    _check_unexpected(report["unexpected_keys"], names, model_class, family, weights)
    model, _ = _from_state(model_class, config, weights.read(), weights, **options)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name in lacking:  # so that every load gives the same model
        torch.nn.init.zeros_(tensors[name])
    return model


def construction_options(model_class: type[PreTrainedModel], missing: Iterable[str]) -> dict[str, Any]:
    """Keyword arguments for a model's class: a base model saved without a pooler is built without one.

    Args:
        model_class: Class of the model.
        missing: Names of the tensors, of a model built without options, that the weights lack.
    """
    optional = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if optional and any(n.startswith("pooler.") for n in missing) else {}


_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip  # a table


def _from_state(
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    state: dict[str, torch.Tensor],
    weights: Weights,
    **options: Any,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = model_class.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, dtype=weights.dtype, **options
        )
    except Exception as error:  # transformers raises many types for invalid values
        reason = " ".join(str(error).split())[:500]
        raise CheckpointError(
            f"config.json does not describe a {model_class.__name__}: {reason}", "correct the value in config.json"
        ) from error
    return loaded


def _check_names_once(weights: Weights, prefix: str) -> None:
    for name in weights.shapes:
        if prefix and f"{prefix}.{name}" in weights.shapes:
            raise CheckpointError(
                f"the weights contain {prefix}.{name} under two names, one of them {name}", "remove one of them"
            )


def _may_lack(name: str, family: ModelFamily, model_class: type[PreTrainedModel]) -> bool:
    inner = name.removeprefix(f"{model_class.base_model_prefix}.")
    return bool(_TRAINING_ONLY.search(name)) or inner in family.training_only


def _check_report(report: dict[str, Any], lacking: set[str], weights: Weights) -> None:
    if missing := sorted(set(report["missing_keys"]) - lacking):
        raise CheckpointError(f"{weights.path.name} contradicts config.json: it lacks {quoted(missing)}", ONE_SAVE)
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"{weights.path.name} contradicts config.json: {name} is {list(found)}; expected {list(expected)}", ONE_SAVE
        )


def _check_unexpected(
    unexpected: Collection[str],
    names: Collection[str],
    model_class: type[PreTrainedModel],
    family: ModelFamily,
    weights: Weights,
) -> None:
    """Refuse weights of layers that the config does not have, ignore heads of a base model, and name the others."""
    prefix = f"{model_class.base_model_prefix}."
    numbered = {_unnumbered(name) for name in names}
    if layers := sorted(name for name in unexpected if re.search(r"\.\d+\.", name) and _unnumbered(name) in numbered):
        raise CheckpointError(f"{weights.path.name} contradicts config.json: it has {quoted(layers)}", ONE_SAVE)
    is_base = not any(name.startswith(prefix) for name in names)
    parts = {name.partition(".")[0] for name in names}
    strange = sorted(
        name
        for name in unexpected
        if not _BUFFERS.search(name)
        and not name.removeprefix(prefix).startswith(family.unused or ("\0",))
        and not (is_base and "." in name and name.removeprefix(prefix).partition(".")[0] not in parts)
    )
    if strange:
        warnings.warn(
            f"{weights.path.name} has weights that a {model_class.__name__} does not use: {quoted(strange)}",
            AcmWarning,
            stacklevel=4,
        )


def _unnumbered(name: str) -> str:
    return re.sub(r"\.\d+\.", ".#.", name)
