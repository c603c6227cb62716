"""Hugging Face names for the tensors of the ACM authors' Vision Transformers, which use torchvision's names."""

from __future__ import annotations

import re

import torch

from acm_export.base.errors import CheckpointError

State = dict[str, torch.Tensor]

_PARTS = "give the complete model_state of a Vision Transformer of that code, without other tensors"
SAVE_AGAIN = "the file is damaged or was changed after training: save it again"
_LAYER = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.(.+)")
_OUTER = {
    "class_token": "vit.embeddings.cls_token",
    "encoder.pos_embedding": "vit.embeddings.position_embeddings",
    "conv_proj.weight": "vit.embeddings.patch_embeddings.projection.weight",
    "conv_proj.bias": "vit.embeddings.patch_embeddings.projection.bias",
    "encoder.ln.weight": "vit.layernorm.weight",
    "encoder.ln.bias": "vit.layernorm.bias",
    "heads.head.weight": "classifier.weight",
    "heads.head.bias": "classifier.bias",
}
_MODULES = {
    "ln_1": "layernorm_before",
    "ln_2": "layernorm_after",
    "mlp.0": "mlp.fc1",
    "mlp.3": "mlp.fc2",
    "mlp.linear_1": "mlp.fc1",
    "mlp.linear_2": "mlp.fc2",
    "mlp": "mlp",
    "self_attention.out_proj": "attention.o_proj",
    **{f"self_attention.{p}_proj": f"attention.{p}_proj" for p in "qkvo"},
}


def rename(name: str) -> str:
    """The Hugging Face name of a module of a transformer layer, from its name in the authors' code.

    Raises:
        CheckpointError: That code's Vision Transformer has no such module.
    """
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _MODULES:
        raise CheckpointError(
            f"the weights contain {name!r}, which is not part of that code's Vision Transformer", _PARTS
        )
    return f"vit.layers.{match[1]}.{_MODULES[match[2]]}"


def rename_dense(state: State) -> State:
    """The tensors outside of ACM layers by their Hugging Face names; in_proj is cut into queries, keys and values.

    Raises:
        CheckpointError: A tensor is unknown, missing, or has an unexpected shape.
    """
    renamed: State = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if name in _OUTER:
            renamed[_OUTER[name]] = tensor
        elif kind in ("in_proj_weight", "in_proj_bias"):
            if tensor.ndim == 0 or tensor.shape[0] % 3:
                raise CheckpointError(
                    f"{name} is {list(tensor.shape)}; expected queries, keys and values, 3·D rows", SAVE_AGAIN
                )
            attention = rename(f"{module}.q_proj").removesuffix("q_proj")
            suffix = kind.removeprefix("in_proj_")
            for projection, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{attention}{projection}_proj.{suffix}"] = part
        elif name.startswith(("conv_proj.", "heads.")):
            raise CheckpointError(
                f"the weights contain {name!r}: convolutional stems and pre-logits are not supported", _PARTS
            )
        else:
            renamed[f"{rename(module)}.{kind}"] = tensor
    missing = sorted(set(_OUTER.values()) - renamed.keys())
    if missing:
        names = [old for old, new in _OUTER.items() if new in missing]
        raise CheckpointError(
            f"the weights lack {', '.join(names)}, so they are not that code's Vision Transformer", _PARTS
        )
    for old, rank in (("class_token", 3), ("encoder.pos_embedding", 3), ("heads.head.weight", 2)):
        if renamed[_OUTER[old]].ndim != rank:
            raise CheckpointError(
                f"{old} is {list(renamed[_OUTER[old]].shape)}; expected {rank} dimensions", SAVE_AGAIN
            )
    return renamed
