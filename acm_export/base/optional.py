"""Optional packages: checked here, with the line that installs them when they are missing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from acm_export.base.errors import MissingDependencyError

if TYPE_CHECKING:
    from types import ModuleType

EXPORT = ("torch", "transformers", "safetensors", "onnxscript")
"""What reads checkpoints and exports; parts of acm_export that need these import them directly."""

_EXTRAS = {**dict.fromkeys(EXPORT, "export"), "onnxruntime": "cpu", "sklearn": "demo", "triton": "gpu"}
_EXTRAS |= dict.fromkeys(("matplotlib", "PIL"), "report") | dict.fromkeys(("accelerate", "soundfile"), "train")
_ALONE = ("datasets",)
"""Packages in no extra: users with data in their format have them already."""


def require(*names: str) -> ModuleType:
    """Import optional packages before the parts of acm_export that are built on them.

    Args:
        names: Import names.

    Returns:
        The last of the packages.

    Raises:
        MissingDependencyError: One is not installed; the hint has the command that installs it.
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
