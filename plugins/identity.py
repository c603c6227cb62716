"""Version and namespace of the TensorRT plugins; their names are those of the operators."""

from __future__ import annotations

PLUGIN_VERSION = "1"
PLUGIN_NAMESPACE = ""
