"""The manifest: what an exported file says about itself, in ``metadata_props["acm"]``.

Everything downstream of the export reads the manifest; nothing guesses from node names.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from acm_export.errors import ModelFileError, OpError
from acm_export.op.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

KEY = "acm"
SCHEMA = 1
DTYPES = ("fp32", "fp16", "bf16")

_CHANGED = "another tool changed the file; export it again"
_MAX_WHOLE = 2**63 - 1
_SHOWN = 60
"""Characters of a wrong value that an error shows."""


@dataclass(frozen=True)
class LayerEntry:
    """One ACM layer of the file. Its node bears its name; its thresholds are the initializer ``NAME.thresholds``.

    Args:
        name: Qualified module name in the model that was exported.
        model_dim: D.
        num_learners: N.
        hidden_dim: h.
        min_learners: Learners that always run.
        activation: Of the hidden values.
        learner_flops: FLOPs per token of one learner (2 for a multiply-add).
        gate_flops: FLOPs per token of the gate.
        tokens: Tokens that reach the layer for one sample of the example inputs.
    """

    name: str
    model_dim: int
    num_learners: int
    hidden_dim: int
    min_learners: int
    activation: str
    learner_flops: int
    gate_flops: int
    tokens: int

    @property
    def signature(self) -> Signature:
        """The attributes of the layer's node."""
        return Signature(self.num_learners, self.min_learners, self.activation)

    @property
    def thresholds(self) -> str:
        """Name of the initializer with the layer's thresholds."""
        return f"{self.name}.thresholds"


@dataclass(frozen=True)
class Source:
    """Where the weights came from: the checkpoint's name and the SHA-256 of its weights file, where there is one."""

    name: str
    sha256: str | None = None


@dataclass(frozen=True)
class Setting:
    """Where the dial stands: one threshold for all layers, and a bound on the learners of every token.

    Args:
        threshold: τ; 0 is the trained argmax; None where the model came with a threshold for each learner.
        max_learners: No token runs more, or None for no bound.
    """

    threshold: float | None = 0.0
    max_learners: int | None = None


@dataclass(frozen=True)
class Manifest:
    """What the file holds.

    Args:
        source: The checkpoint.
        dtype: fp32, fp16 or bf16.
        target: What the file was written for.
        opset: Version of the default ONNX operator set.
        layers: The ACM layers in the order in which they run.
        rest_flops: FLOPs of one sample outside learners and gates (2 for a multiply-add, matrix products only).
        example_inputs: Shapes, of one sample, that ``rest_flops`` and ``tokens`` refer to.
        setting: Where the dial stands.
        producer: Name and version of what wrote the file.
        schema: Version of this document.
    """

    source: Source
    dtype: str
    target: str
    opset: int
    layers: tuple[LayerEntry, ...]
    rest_flops: int
    example_inputs: dict[str, list[int]]
    setting: Setting
    producer: str
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The document; an infinite threshold is written as text, which JSON has no number for."""
        content = asdict(self)
        if self.setting.threshold is not None and not math.isfinite(self.setting.threshold):
            content["setting"]["threshold"] = str(self.setting.threshold)
        return content

    def replaced(self, **changes: Any) -> Manifest:
        """A copy with some values changed."""
        return replace(self, **changes)

    def model_flops(self, budget: float) -> float:
        """FLOPs of one sample of the example's size when the share ``budget`` of learner FLOPs is executed."""
        learners = sum(e.tokens * e.num_learners * e.learner_flops for e in self.layers)
        gates = sum(e.tokens * e.gate_flops for e in self.layers)
        return self.rest_flops + gates + budget * learners

    @property
    def least_budget(self) -> float:
        """The share of learner FLOPs that always runs, at any threshold; 0 without layers."""
        always = sum(e.tokens * e.min_learners * e.learner_flops for e in self.layers)
        return always / max(1, sum(e.tokens * e.num_learners * e.learner_flops for e in self.layers))


def write_manifest(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Put the manifest into a model, in the place of an earlier one."""
    kept = [(p.key, p.value) for p in model.metadata_props if p.key != KEY]
    del model.metadata_props[:]
    for key, value in [*kept, (KEY, json.dumps(manifest.to_json(), sort_keys=True, allow_nan=False))]:
        model.metadata_props.add(key=key, value=value)


def read_manifest(model: onnx.ModelProto, path: object) -> Manifest:
    """Read the manifest of a model.

    Args:
        model: The model; weights need not be loaded.
        path: Named in errors.

    Raises:
        ModelFileError: There is none, it is broken, or a newer version of acm-export wrote it.
    """
    text = next((p.value for p in model.metadata_props if p.key == KEY), None)
    if text is None:
        raise ModelFileError(
            f"{path} has no acm-export manifest", "export it with: acm-export export CHECKPOINT -o M.onnx"
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"the manifest of {path} is not JSON: {error}", _CHANGED) from error
    if not isinstance(content, dict) or not _WHOLE.holds(content.get("schema")):
        raise ModelFileError(f"the manifest of {path} has no schema version", _CHANGED)
    if content["schema"] > SCHEMA:
        raise ModelFileError(
            f"the manifest of {path} has schema {content['schema']}, this version reads up to {SCHEMA}",
            "update acm-export",
        )
    try:
        return _parse(content)
    except (OpError, _BrokenError) as error:
        raise ModelFileError(f"the manifest of {path} is broken: {error}", _CHANGED) from error


class _BrokenError(Exception):
    """Names the field, what it holds, and what it must hold."""


@dataclass(frozen=True)
class _Kind:
    """What a field must hold, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _is_threshold(value: Any) -> bool:
    finite = type(value) in (int, float) and abs(value) <= sys.float_info.max
    return finite or value is None or value in ("inf", "-inf")


_TEXT = _Kind("text", lambda v: isinstance(v, str))
_TEXT_OR_NULL = _Kind("text or null", lambda v: v is None or isinstance(v, str))
_WHOLE = _Kind("a whole number from 0", lambda v: type(v) is int and 0 <= v <= _MAX_WHOLE)
_POSITIVE = _Kind("a whole number from 1", lambda v: type(v) is int and 1 <= v <= _MAX_WHOLE)
_WHOLE_OR_NULL = _Kind("a whole number from 0 or null", lambda v: v is None or _WHOLE.holds(v))
_SHAPE = _Kind("a list of whole numbers from 0", lambda v: isinstance(v, list) and all(map(_WHOLE.holds, v)))
_OBJECT = _Kind("an object", lambda v: isinstance(v, dict))
_LIST = _Kind("a list", lambda v: isinstance(v, list))

_SOURCE = {"name": _TEXT, "sha256": _TEXT_OR_NULL}
_SETTING = {
    "threshold": _Kind('a number, "inf", "-inf" or null', _is_threshold),
    "max_learners": _WHOLE_OR_NULL,
}
_LAYER = {
    "name": _TEXT, "model_dim": _POSITIVE, "num_learners": _POSITIVE, "hidden_dim": _POSITIVE, "min_learners": _WHOLE,
    "activation": _TEXT, "learner_flops": _POSITIVE, "gate_flops": _WHOLE, "tokens": _WHOLE,
}  # fmt: skip
_MANIFEST = {
    "source": _OBJECT, "dtype": _Kind(f"one of {', '.join(DTYPES)}", lambda v: v in DTYPES), "target": _TEXT,
    "opset": _POSITIVE, "layers": _LIST, "rest_flops": _WHOLE, "example_inputs": _OBJECT, "setting": _OBJECT,
    "producer": _TEXT, "schema": _WHOLE,
}  # fmt: skip


def _parse(content: dict[str, Any]) -> Manifest:
    checked = _checked(content, _MANIFEST, "")
    inputs = checked["example_inputs"]
    setting = _checked(checked["setting"], _SETTING, "setting.")
    threshold = setting["threshold"]
    layers = [_checked(layer, _LAYER, f"layers[{i}].") for i, layer in enumerate(checked["layers"])]
    parsed = {
        "source": Source(**_checked(checked["source"], _SOURCE, "source.")),
        "layers": tuple(LayerEntry(**layer) for layer in layers),
        "example_inputs": _checked(inputs, dict.fromkeys(inputs, _SHAPE), "example_inputs."),
        "setting": Setting(None if threshold is None else float(threshold), setting["max_learners"]),
    }
    manifest = Manifest(**(checked | parsed))
    for layer in manifest.layers:
        layer.signature  # noqa: B018  validates
    return manifest


def _checked(content: Any, kinds: dict[str, _Kind], where: str) -> dict[str, Any]:
    """The content, once it has exactly the fields of ``kinds`` and each holds what it must; ``where`` leads to it."""
    if not isinstance(content, dict):
        raise _BrokenError(f"{where.rstrip('.')} is {_short(content)}; it must be an object")
    if differing := sorted(content.keys() ^ kinds.keys()):
        state = "missing" if differing[0] in kinds else "not a field of this schema"
        raise _BrokenError(f"{where}{differing[0]} is {state}")
    for name, kind in kinds.items():
        if not kind.holds(content[name]):
            raise _BrokenError(f"{where}{name} is {_short(content[name])}; it must be {kind.words}")
    return content


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
