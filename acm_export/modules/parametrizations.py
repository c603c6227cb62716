"""Weights that PyTorch computes from others in every pass, such as those under weight norm, computed once."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize


def fold_parametrizations(module: nn.Module) -> nn.Module:
    """The module itself where nothing is parametrized, else a copy without parametrizations that shares the weights.

    Folding comes before any conversion to half precision: the norm of a large weight is to be taken in float32.
    """
    found = [(name, part) for name, part in module.named_modules() if parametrize.is_parametrized(part)]
    if not found:
        return module
    if found[0][0] == "":
        return _plain(module)
    shared = copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
    for name, part in found:
        shared.set_submodule(name, _plain(part))
    return shared


def _plain(module: nn.Module) -> nn.Module:
    """The same layer of its original class, with the parametrized tensors as parameters.

    ``parametrize.remove_parametrizations`` would change the class that the original and its copies share.
    """
    original: type[nn.Module] = type(module).__bases__[0]  # PyTorch puts a class of its own on top
    plain = original.__new__(original)
    vars(plain).update({name: copy.copy(value) for name, value in vars(module).items()})
    names = list(module.parametrizations)  # type: ignore[arg-type]
    del plain._modules["parametrizations"]  # noqa: SLF001
    for name in names:
        value: torch.Tensor = getattr(module, name)
        plain.register_parameter(name, nn.Parameter(value.detach(), requires_grad=value.requires_grad))
    return plain
