"""Load the plugin library into TensorRT's registry, before anything is parsed."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from acm_export.base.errors import EngineError
from acm_export.base.files import sha256_of
from acm_export.machine.plugin_library import check_plugin_library
from acm_export.machine.processes import probe
from acm_export.machine.versions import numbers
from acm_export.op.quantized_signature import OPERATORS
from acm_export.plugins.identity import PLUGIN_NAMESPACE, PLUGIN_VERSION

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    import tensorrt as trt

_BUILD = "take the one for this TensorRT: acm-export plugin-path, or compile it: acm-export build-plugin"


def check_library(path: Path, version: str) -> None:
    """Check the library in another process before this one loads it.

    Args:
        path: Path of the plugin library.
        version: Version of the installed TensorRT.

    Raises:
        EngineError: The library cannot be loaded, is not the plugin, lacks entry points, or was built for another
            TensorRT.
    """
    finding = check_plugin_library(path)
    if finding.state != "ok":
        raise EngineError(finding.found, finding.fix)
    built_for = probe("library", str(path.absolute())).value["built_for"]
    if numbers(built_for)[0] != numbers(version)[0]:
        raise EngineError(f"{path} was built for TensorRT {built_for}, but {version} is installed", _BUILD)


_LOADED: dict[int, tuple[ModuleType, str]] = {}
"""TensorRT modules by ``id``, each with the SHA-256 of the plugin library in its registry. A registry keeps a creator
for the life of the process and rejects a second one of the same name."""


def load_plugin(tensorrt: ModuleType, path: Path) -> None:
    """Load the library into TensorRT's registry and check that the registry lists its plugins.

    Loading the same library again does nothing.

    Args:
        tensorrt: The TensorRT module.
        path: Path of the plugin library.

    Raises:
        EngineError: The library cannot be loaded, the process has loaded another one, or the registry does not list the
            creators under the names, version and namespace that the parser looks up.
    """
    check_library(path, tensorrt.__version__)
    digest = sha256_of(path)
    _, loaded = _LOADED.get(id(tensorrt), (None, None))
    if loaded == digest:
        return
    if loaded is not None:
        raise EngineError(
            f"{path} (SHA-256 {digest}) is not the plugin library that is already loaded (SHA-256 {loaded})",
            "use one plugin library per process",
        )
    registry = tensorrt.get_plugin_registry()
    if _missing(registry):  # the program may have loaded the library itself
        _load(tensorrt, registry, path)
    if missing := _missing(registry):
        listed = registry.all_creators if hasattr(registry, "all_creators") else registry.plugin_creator_list
        there = [f"version {c.plugin_version!r} in {c.plugin_namespace!r}" for c in listed if c.name == missing]
        raise EngineError(
            f"TensorRT {tensorrt.__version__} does not list {missing} version {PLUGIN_VERSION!r} in namespace "
            f"{PLUGIN_NAMESPACE!r} after loading {path}; it lists {', '.join(there) or 'none'}",
            _BUILD,
        )
    _LOADED[id(tensorrt)] = tensorrt, digest


def _load(tensorrt: ModuleType, registry: trt.IPluginRegistry, path: Path) -> None:
    if not hasattr(registry, "load_library"):  # before TensorRT 8.6
        ctypes.CDLL(str(path.absolute()), mode=ctypes.RTLD_GLOBAL)
    elif registry.load_library(str(path.absolute())) is None:  # it never raises
        raise EngineError(f"TensorRT {tensorrt.__version__} cannot load {path}; see its log", _BUILD)


def _missing(registry: trt.IPluginRegistry) -> str | None:
    """Name of the first operator that the registry has no plugin for, or None."""
    find = registry.get_creator if hasattr(registry, "get_creator") else registry.get_plugin_creator
    return next((name for name in OPERATORS if find(name, PLUGIN_VERSION, PLUGIN_NAMESPACE) is None), None)
