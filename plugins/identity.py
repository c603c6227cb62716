"""Under which version and namespace TensorRT knows the operator's plugin; its name is the operator's."""

from __future__ import annotations

PLUGIN_VERSION = "1"
PLUGIN_NAMESPACE = ""
