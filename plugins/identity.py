"""Version and namespace of the TensorRT plugin; its name is that of the operator."""

from __future__ import annotations

PLUGIN_VERSION = "1"
PLUGIN_NAMESPACE = ""
