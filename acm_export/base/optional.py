"""Optional packages: imported here, with the install command in the error when one is missing."""

from __future__ import annotations

import importlib
import platform
import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import MissingDependencyError
from acm_export.base.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_CHECKOUT = Path(__file__).resolve().parents[2]

BASE = ("numpy", "onnx", "click", "rich")
"""Required by every verb."""

EXPORT = ("torch", "transformers", "safetensors", "onnxscript", "accelerate")
"""Required to read checkpoints and to export; modules that need these packages import them directly."""

_EXTRAS = {**dict.fromkeys(EXPORT, "export"), "onnxruntime": "cpu", "sklearn": "demo", "triton": "gpu"}
_EXTRAS |= dict.fromkeys(("matplotlib", "PIL"), "report") | {"soundfile": "train"}
_ALONE = ("datasets", "timm", "tokenizers")
"""Packages in no extra: users with data or models in their format have them, and transformers installs tokenizers."""


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
        hint = install_command(extra) if extra else f"pip install {missing}"
        if extra == "cpu":
            hint += f"   (on a machine with an NVIDIA GPU: {install_command('gpu')})"
        raise MissingDependencyError(f"the package {missing} is not installed", hint) from error


def install_command(*extras: str) -> str:
    """The command that installs what extras of acm-export require, or without extras what every verb requires.

    No package index has acm-export. In a checkout the command therefore names the checkout, and elsewhere the packages
    that the extras require.

    Args:
        extras: Names of the extras, as in pyproject.toml.
    """
    listed = f"[{','.join(extras)}]" if extras else ""
    if _is_checkout(_CHECKOUT):
        return f"pip install -e {shlex.quote(f'{_CHECKOUT}{listed}')}"
    try:
        requirements = list(dict.fromkeys(r for extra in extras or (None,) for r in _requirements(extra)))
    except metadata.PackageNotFoundError:  # a copy of the package without its metadata
        requirements = [f"./acm_export-{__version__}-py3-none-any.whl{listed}"]
    return f"pip install {' '.join(map(shlex.quote, requirements))}"


def _is_checkout(folder: Path) -> bool:
    try:
        return 'name = "acm-export"' in (folder / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return False


def _requirements(extra: str | None) -> Iterator[str]:
    """What the installed package, or an extra of it, requires on this platform."""
    for line in metadata.requires("acm-export") or ():
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        conditions = dict(re.findall(r"(\w+) *== *[\"']([^\"']*)[\"']", marker))
        if (
            conditions.get("extra") != extra
            or conditions.get("platform_system", platform.system()) != platform.system()
        ):
            continue
        if own := re.fullmatch(r"acm[-_]export\[(.*)\]", requirement):
            for other in own[1].split(","):
                yield from _requirements(other.strip())
        else:
            yield requirement
