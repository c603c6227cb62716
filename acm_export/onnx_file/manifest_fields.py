"""The fields of the manifest's JSON object, and what each must hold."""

from __future__ import annotations

import sys
from typing import Any

from acm_export.base.json_fields import (
    BOOL,
    LIST,
    OBJECT,
    OBJECT_OR_NULL,
    POSITIVE,
    SHAPE,
    SHARE_OR_NULL,
    TEXT,
    TEXT_OR_NULL,
    WHOLE,
    WHOLE_OR_NULL,
    Kind,
    checked,
)
from acm_export.onnx_file.quantization_record import ACTIVATIONS
from acm_export.op.precision import PRECISIONS


def _is_threshold(value: Any) -> bool:
    finite = type(value) in (int, float) and abs(value) <= sys.float_info.max
    return finite or value is None or value in ("inf", "-inf")


_SOURCE = {"name": TEXT, "sha256": TEXT_OR_NULL}
_SOURCE_4 = _SOURCE | {"part": TEXT_OR_NULL}
_SETTING = {"threshold": Kind('a number, "inf", "-inf" or null', _is_threshold), "max_learners": WHOLE_OR_NULL}
_SETTING_2 = _SETTING | {"budget": SHARE_OR_NULL}
_LAYER = {
    "name": TEXT,
    "model_dim": POSITIVE,
    "num_learners": POSITIVE,
    "hidden_dim": POSITIVE,
    "min_learners": WHOLE,
    "activation": TEXT,
    "learner_flops": POSITIVE,
    "gate_flops": WHOLE,
    "tokens": WHOLE,
}
_LAYER_3 = _LAYER | {
    "activations": Kind('"static", "dynamic" or null', lambda value: value is None or value in ACTIVATIONS)
}
_LAYER_4 = _LAYER_3 | {"glu": BOOL}
_DTYPE = Kind(f"one of {', '.join(PRECISIONS)}", lambda v: isinstance(v, str) and v in PRECISIONS)
_MANIFEST = {
    "source": OBJECT,
    "dtype": _DTYPE,
    "target": TEXT,
    "opset": POSITIVE,
    "layers": LIST,
    "rest_flops": WHOLE,
    "example_inputs": OBJECT,
    "setting": OBJECT,
    "producer": TEXT,
    "schema": WHOLE,
}
_MANIFEST_2 = _MANIFEST | {"calibration": OBJECT_OR_NULL}
_MANIFEST_3 = _MANIFEST_2 | {"quantization": OBJECT_OR_NULL}
_MANIFESTS = {1: _MANIFEST, 2: _MANIFEST_2, 3: _MANIFEST_3, 4: _MANIFEST_3 | {"processor": OBJECT_OR_NULL}}


def checked_fields(content: object, schema: int) -> dict[str, Any]:
    """Check the fields of a manifest and of the objects in it, except for calibration and quantisation.

    Args:
        content: Value from ``json.loads``.
        schema: Its schema; schema 2 added the calibration and ``setting.budget``, schema 3 the quantisation, schema 4
            the processor, the field ``glu`` of layers and the optional field ``part`` of the source.

    Raises:
        BrokenFieldError: A field is missing, unknown or invalid.
    """
    layers = {1: _LAYER, 2: _LAYER, 3: _LAYER_3, 4: _LAYER_4}[max(schema, 1)]
    fields = checked(content, _MANIFESTS[max(schema, 1)], "")
    for index, layer in enumerate(fields["layers"]):
        checked(layer, layers, f"layers[{index}].")
    if schema < 4:
        checked(fields["source"], _SOURCE, "source.")
    else:
        fields["source"] = checked({"part": None} | fields["source"], _SOURCE_4, "source.")
    checked(fields["example_inputs"], dict.fromkeys(fields["example_inputs"], SHAPE), "example_inputs.")
    checked(fields["setting"], _SETTING if schema < 2 else _SETTING_2, "setting.")
    return fields
