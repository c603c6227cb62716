"""Under which name, version and namespace TensorRT knows the operator's plugin."""

from __future__ import annotations

from acm_export.op.signature import NAME

PLUGIN_NAME = NAME
PLUGIN_VERSION = "1"
PLUGIN_NAMESPACE = ""
