"""The tensors that a module returns, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Collection


def named_outputs(outputs: object, fields: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """Give names to the tensors that a module returned.

    Args:
        outputs: A tensor, a tuple of tensors, or a mapping such as an output of transformers.
        fields: Fields of a mapping to return; empty for all its tensors.

    Returns:
        ``output`` for a tensor, ``output_0``, ``output_1``, ... for a tuple, and the keys of a mapping.

    Raises:
        ExportError: The module returned something else.
    """
    if isinstance(outputs, torch.Tensor):
        return {"output": outputs}
    if isinstance(outputs, Mapping):
        names = fields or [name for name, value in outputs.items() if isinstance(value, torch.Tensor)]
        return {name: outputs[name] for name in names}
    if isinstance(outputs, (tuple, list)) and all(isinstance(value, torch.Tensor) for value in outputs):
        return {f"output_{i}": value for i, value in enumerate(outputs)}
    raise ExportError(f"the module returns {type(outputs).__name__}; expected tensors, a tuple or a mapping of them")
