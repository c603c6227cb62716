"""Optional packages: imported here, with the install command in the error when one is missing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from acm_export.base.errors import MissingDependencyError

if TYPE_CHECKING:
    from types import ModuleType

EXPORT = ("torch", "transformers", "safetensors", "onnxscript")
"""Required to read checkpoints and to export; modules that need these packages import them directly."""

_EXTRAS = {**dict.fromkeys(EXPORT, "export"), "onnxruntime": "cpu", "sklearn": "demo", "triton": "gpu"}
_EXTRAS |= dict.fromkeys(("matplotlib", "PIL"), "report") | dict.fromkeys(("accelerate", "soundfile"), "train")
_ALONE = ("datasets",)
"""Packages in no extra: users with data in their format have them already."""


def require(*names: str) -> ModuleType:
    """Import optional packages, before importing the modules of acm_export that use them.

    Args:
        names: Import names of the packages.

    Returns:
        The last package.

    Raises:
        MissingDependencyError: A package is not installed; the hint is the install command.
    """
    return [_import(name) for name in names][-1]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in _EXTRAS and missing not in _ALONE:
            raise
        extra = _EXTRAS.get(missing)
        hint = f"pip install 'acm-export[{extra}]'" if extra else f"pip install {missing}"
        if extra == "cpu":
            hint += "   (on a machine with an NVIDIA GPU: acm-export[gpu])"
        raise MissingDependencyError(f"this needs the package {missing}, which is not installed", hint) from error
