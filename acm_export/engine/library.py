"""The plugin library in TensorRT's registry, checked before anything is parsed."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from acm_export.errors import EngineError
from acm_export.op.signature import NAME
from acm_export.plugins.identity import PLUGIN_NAMESPACE, PLUGIN_VERSION

if TYPE_CHECKING:
    from pathlib import Path

_BUILD = "compile it for this TensorRT: acm-export build-plugin"


def load_plugin(tensorrt: Any, path: Path) -> None:
    """Load the library into TensorRT's registry and look for the op's creator there.

    Args:
        tensorrt: The module.
        path: The library.

    Raises:
        EngineError: It cannot be loaded, or the registry does not have the creator under the name, version and
            namespace that the parser will ask for.
    """
    if not path.is_file():
        raise EngineError(f"there is no plugin library {path}", "acm-export build-plugin")
    registry = tensorrt.get_plugin_registry()
    if hasattr(registry, "load_library"):
        if registry.load_library(str(path.absolute())) is None:  # it raises nothing
            raise EngineError(f"TensorRT {tensorrt.__version__} does not load {path}; its log says why", _BUILD)
    else:  # before TensorRT 8.6
        try:
            ctypes.CDLL(str(path.absolute()), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise EngineError(f"{path} cannot be loaded: {error}", _BUILD) from error
    find = registry.get_creator if hasattr(registry, "get_creator") else registry.get_plugin_creator
    if find(NAME, PLUGIN_VERSION, PLUGIN_NAMESPACE) is None:
        listed = registry.all_creators if hasattr(registry, "all_creators") else registry.plugin_creator_list
        there = [f"version {c.plugin_version!r} in {c.plugin_namespace!r}" for c in listed if c.name == NAME]
        raise EngineError(
            f"TensorRT {tensorrt.__version__} has no {NAME} of version {PLUGIN_VERSION!r} in the namespace "
            f"{PLUGIN_NAMESPACE!r} after loading {path}; it has {', '.join(there) or 'none'}",
            _BUILD,
        )
