"""Weights that several modules share, such as the embedding and the head of a language model: stored once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn


def tied_names(model: nn.Module) -> dict[str, str]:
    """The stored name of every further name of a tied tensor."""
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if (stored := first.setdefault(id(tensor), name)) != name:
            tied[name] = stored
    return tied


def untied_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a model by name, each tied one under its first name only."""
    tied = tied_names(model)
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}


def load_untied(model: nn.Module, state: Mapping[str, torch.Tensor], tied: Mapping[str, str]) -> None:
    """Give a model the tensors of :func:`untied_state`, in place, and tie its weights again.

    Args:
        model: Model with the names of the saved one.
        state: Tensors by stored name.
        tied: The stored name of every further name.
    """
    model.load_state_dict({**state, **{name: state[stored] for name, stored in tied.items()}}, assign=True)
    for name, stored in tied.items():
        path, _, attribute = name.rpartition(".")
        owner, _, source = stored.rpartition(".")
        setattr(model.get_submodule(path), attribute, getattr(model.get_submodule(owner), source))
