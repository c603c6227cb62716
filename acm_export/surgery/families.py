"""Families of transformers that need more than the convention, and how users add one."""

from __future__ import annotations

import warnings
from importlib import metadata
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.surgery.family import ModelFamily

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from acm_export.surgery.interface import ModelInterface

ENTRY_POINTS = "acm_export.families"
"""Group of entry points, each of which is a :class:`ModelFamily`."""

FAMILIES: dict[str, ModelFamily] = {"whisper": ModelFamily("whisper", default_part="encoder")}
"""Families of this package: what the convention does not tell."""

_registered: dict[str, ModelFamily] = {}


def register_family(family: ModelFamily) -> None:
    """Add a family for models whose inputs, outputs or mask do not follow from the convention.

    A family that is registered replaces an earlier one of the same ``model_type``. Packages can register theirs through
    the entry point group ``acm_export.families`` instead, whose entries are :class:`ModelFamily` objects.

    Args:
        family: What the convention cannot tell about models of ``family.model_type``.

    Raises:
        UsageError: The argument is not a ``ModelFamily``.
    """
    if not isinstance(family, ModelFamily):
        raise UsageError(
            f"register_family was given a {type(family).__name__}; expected a ModelFamily",
            "for example: acm_export.register_family(acm_export.ModelFamily('my_model', outputs={...}))",
        )
    _registered[family.model_type] = family


def family_of(model_type: str | None) -> ModelFamily:
    """The family of a ``model_type``: registered, from an entry point, from the table, or without any field.

    Args:
        model_type: Model type, as in ``config.json``; None for models that have no such config.
    """
    if model_type is None:
        return ModelFamily("")
    if model_type in _registered:
        return _registered[model_type]
    return _from_entry_points().get(model_type) or FAMILIES.get(model_type) or ModelFamily(model_type)


def interface_of(model: nn.Module) -> ModelInterface:
    """How to run a model of ``transformers`` or timm.

    Raises:
        CheckpointError: Neither the family nor the convention tells how to run it.
    """
    return family_of(getattr(getattr(model, "config", None), "model_type", None)).interface(model)


def _from_entry_points() -> Mapping[str, ModelFamily]:
    found: dict[str, ModelFamily] = {}
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        try:
            family = entry.load()
        except Exception as error:  # noqa: BLE001  the code of another package
            _warn(f"cannot be loaded: {error}", entry)
            continue
        if isinstance(family, ModelFamily):
            found[family.model_type] = family
        else:
            _warn(f"is a {type(family).__name__}; expected a ModelFamily", entry)
    return found


def _warn(what: str, entry: metadata.EntryPoint) -> None:
    warnings.warn(f"the entry point {entry.name} = {entry.value} ({ENTRY_POINTS}) {what}", AcmWarning, stacklevel=4)
