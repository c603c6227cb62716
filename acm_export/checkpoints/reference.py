"""Read what the ACM authors' code saves (github.com/bartwojcik/adaptive_computation_modules).

Its Vision Transformers use torchvision's names. An ACM layer has ``w1``, ``w2``, optionally ``b1`` and ``b2``, and a
gate under ``gating_network``. Each row of its b2 is the bias of one learner; our b2 is the cumulative sum of its rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.initialization import no_init_weights

from acm_export.base.errors import CheckpointError, UsageError
from acm_export.base.files import check_input
from acm_export.checkpoints.acm_inference import MinLearners, group_acm_layers, infer_learners
from acm_export.checkpoints.blueprint import construct
from acm_export.checkpoints.folder import build_model
from acm_export.checkpoints.reference_names import SAVE_AGAIN, State, rename, rename_dense
from acm_export.checkpoints.unpickle import load_state
from acm_export.checkpoints.weights import warn_about_values
from acm_export.surgery import PlacedLayer, family_of

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from acm_export.modules import ACMSpec


@dataclass(frozen=True)
class ConvertedModel:
    """A converted model, and what was inferred from its weights.

    Args:
        model: ``ViTForImageClassification``, in evaluation mode.
        num_learners: N, or None for a dense model.
        inferred: One line for each value that was inferred, for the user to check.
    """

    model: PreTrainedModel
    num_learners: int | None
    inferred: tuple[str, ...]


def convert_reference(
    path: Path,
    *,
    num_heads: int | None = None,
    num_learners: int | None = None,
    min_learners: MinLearners | None = None,
) -> ConvertedModel:
    """Turn a file of the authors' code into a Hugging Face Vision Transformer.

    Args:
        path: ``.pth`` file saved by that code, or its ``model_state`` as ``.safetensors``.
        num_heads: Number of attention heads, which cannot be inferred from the weights; optional if the file's config
            records it.
        num_learners: N; by default inferred from b2, or from the widest gate if no layer has b2.
        min_learners: Learners that always run, by a part of the layer name (``{"q_proj": 1}``); by default inferred
            from N and the width of the gate.

    Returns:
        The model, dense or with ACM layers.

    Raises:
        CheckpointError: The file cannot be read safely, or contradicts itself or the options.
        UsageError: An option is out of range, or does not fit this file.
    """
    state, args = _load(path)
    groups, dense = group_acm_layers(state)
    places, renamed = {name: rename(name) for name in groups}, rename_dense(dense)  # names are checked before values
    if strange := [f"{name} ({t.dtype})" for name, t in state.items() if not t.is_floating_point()]:
        raise CheckpointError(
            f"weights must be floating point, but {', '.join(strange[:5])}", "save the weights before quantizing them"
        )
    warn_about_values(state)
    groups, renamed = {name: _float32(tensors) for name, tensors in groups.items()}, _float32(renamed)
    if not groups and (num_learners is not None or min_learners):
        raise CheckpointError(
            f"{path} has no ACM layers, but --num-learners or --min-learners was given", "leave out these options"
        )
    layers = infer_learners(groups, num_learners, min_learners or {})
    specs: dict[str, ACMSpec] = {}
    for name, layer in layers.items():
        specs[places[name]] = layer.spec
        renamed |= {f"{places[name]}.{key}": value for key, value in layer.state.items()}
    heads, heads_note = _heads(num_heads, args, renamed["vit.embeddings.cls_token"].shape[-1])
    config = _config(renamed, heads, specs)
    model = _assemble(config, {name: PlacedLayer(spec) for name, spec in specs.items()}, renamed)
    counts = sorted({spec.num_learners for spec in specs.values()})
    notes = [heads_note] if num_heads is None else []
    if specs and num_learners is None:
        notes.append(f"N = {counts[0]}, {_learners_note(groups)}")
    notes += sorted({f"min_learners = {s.min_learners} for {_kind(n)}" for n, s in specs.items() if s.min_learners})
    return ConvertedModel(model, counts[0] if counts else None, tuple(notes))


def _float32(state: State) -> State:
    return {name: tensor.float() for name, tensor in state.items()}


def _learners_note(groups: dict[str, State]) -> str:
    if any("b2" in tensors for tensors in groups.values()):
        return "from the rows of b2"
    return "from the widest gate; give --num-learners and --min-learners if learners always run in every layer"


def _load(path: Path) -> tuple[State, dict[str, Any]]:
    check_input(path, hint="give a .pth file that the authors' code saved, or its model_state as .safetensors")
    if path.suffix != ".safetensors":
        return load_state(path)
    try:
        return load_file(path), {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file: {error}", "copy or save it again"
        ) from error


def _heads(given: int | None, args: dict[str, Any], model_dim: int) -> tuple[int, str]:
    model_args = args.get("model_args")
    recorded = model_args.get("num_heads") if isinstance(model_args, dict) else None
    heads = given if given is not None else recorded
    if not isinstance(heads, int):
        raise CheckpointError("the file does not record the number of attention heads", "give it with --num-heads")
    if given is not None and isinstance(recorded, int) and given != recorded:
        raise CheckpointError(
            f"--num-heads is {given}, but the file records num_heads = {recorded}",
            f"leave out --num-heads, or give {recorded}",
        )
    if given is not None and (given < 1 or model_dim % given):
        raise UsageError(
            f"--num-heads is {given}, which does not divide the width {model_dim}", "give the value used in training"
        )
    if heads < 1 or model_dim % heads:
        raise CheckpointError(
            f"the file records num_heads = {heads}, which does not divide the width {model_dim}", SAVE_AGAIN
        )
    return heads, f"num_heads = {heads}, recorded in the file"


def _config(state: State, heads: int, specs: dict[str, ACMSpec]) -> PretrainedConfig:
    kernel = state["vit.embeddings.patch_embeddings.projection.weight"]
    positions = state["vit.embeddings.position_embeddings"].shape[1]
    layers = {int(match[1]) for name in state if (match := re.match(r"vit\.layers\.(\d+)\.", name))}
    if layers != set(range(len(layers))):
        raise CheckpointError(
            f"the transformer layers are numbered {sorted(layers)}; expected 0 to {len(layers) - 1}; one is missing",
            SAVE_AGAIN,
        )
    side = round((positions - 1) ** 0.5)
    if kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3] or side * side != positions - 1 or side < 1:
        raise CheckpointError(
            f"conv_proj.weight is {list(kernel.shape)} with {positions} positions; expected square patches and images",
            "only square patches and images are supported",
        )
    model_dim, channels, patch, _ = kernel.shape
    dense_ffn = next((t for name, t in state.items() if name.endswith(".mlp.fc1.weight")), None)
    ffn = [spec for name, spec in specs.items() if name.endswith(".mlp")]
    width = (
        dense_ffn.shape[0] if dense_ffn is not None else max((s.num_learners * s.hidden_dim for s in ffn), default=1)
    )
    config: PretrainedConfig = transformers.ViTConfig(
        hidden_size=model_dim,
        num_hidden_layers=len(layers),
        num_attention_heads=heads,
        intermediate_size=width,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        image_size=side * patch,
        patch_size=patch,
        num_channels=channels,
        num_labels=state["classifier.weight"].shape[0],
        qkv_bias=True,
    )
    return config


def _assemble(config: PretrainedConfig, layers: dict[str, PlacedLayer], state: State) -> PreTrainedModel:
    make = partial(construct, transformers.ViTForImageClassification, config)
    with torch.device("meta"):
        expected = build_model(make, family_of("vit"), layers).state_dict()
    for name in sorted(expected.keys() | state.keys()):
        if name not in state or name not in expected:
            where = "lack" if name not in state else "contain an unexpected"
            raise CheckpointError(f"the weights {where} {name} (Hugging Face name)", SAVE_AGAIN)
        if expected[name].shape != state[name].shape:
            raise CheckpointError(
                f"{name} is {list(state[name].shape)}; expected {list(expected[name].shape)}", SAVE_AGAIN
            )
    with no_init_weights():
        model = build_model(make, family_of("vit"), layers)
    model.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, assign=True)
    return model.eval()


def _kind(name: str) -> str:
    return name.rpartition(".")[2]
