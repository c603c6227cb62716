"""The manifest: what an exported file says about itself, in ``metadata_props["acm"]``.

Everything downstream of the export reads the manifest; nothing guesses from node names.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import ModelFileError, OpError
from acm_export.base.json_fields import (
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
    BrokenFieldError,
    Kind,
    checked,
)  # fmt: skip
from acm_export.onnx_file.budget_table import Calibration
from acm_export.op.signature import Signature

if TYPE_CHECKING:
    import onnx

KEY = "acm"
SCHEMA = 2
"""2 added the calibration and ``setting.budget``; files of schema 1 are read, and written anew as 2."""

DTYPES = ("fp32", "fp16", "bf16")

_CHANGED = "another tool changed the file; export it again"


@dataclass(frozen=True)
class LayerEntry:
    """One ACM layer of the file. Its node bears its name; its thresholds are the value ``NAME.thresholds``.

    That is an initializer, or computed in the graph of a file with a budget input.

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
        """Name of the value with the layer's thresholds."""
        return f"{self.name}.thresholds"


@dataclass(frozen=True)
class Source:
    """Where the weights came from: the checkpoint's name and the SHA-256 of its weights file, where there is one."""

    name: str
    sha256: str | None = None


@dataclass(frozen=True)
class Setting:
    """Where the dial stands: a threshold for all layers or a budget, and a bound on the learners of every token.

    Args:
        threshold: τ; 0 is the trained argmax; None where a budget is set, or where the model came with a threshold for
            each learner.
        max_learners: No token runs more, or None for no bound.
        budget: β whose thresholds the calibration's table gives, or None.
    """

    threshold: float | None = 0.0
    max_learners: int | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and self.budget is not None:
            raise ValueError(f"both a threshold ({self.threshold}) and a budget ({self.budget}) are set")


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
        calibration: The table from budgets to thresholds, once the file is calibrated.
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
    calibration: Calibration | None = None
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The document; an infinite threshold is written as text, which JSON has no number for."""
        content = asdict(self)
        if self.setting.threshold is not None and not math.isfinite(self.setting.threshold):
            content["setting"]["threshold"] = str(self.setting.threshold)
        return content

    @property
    def budget_input(self) -> bool:
        """Whether the graph takes ``budget`` as an input."""
        return self.calibration is not None and self.calibration.budget_input

    def replaced(self, **changes: Any) -> Manifest:
        """A copy with some values changed."""
        return replace(self, **changes)

    def model_flops(self, budget: float) -> float:
        """FLOPs of one sample of the example's size when the share ``budget`` of learner FLOPs is executed."""
        return self.fixed_flops + budget * self.all_learners_flops

    @property
    def fixed_flops(self) -> int:
        """FLOPs of one sample of the example's size outside learners: gates and everything else."""
        return self.rest_flops + sum(e.tokens * e.gate_flops for e in self.layers)

    @property
    def all_learners_flops(self) -> int:
        """FLOPs of all learners for one sample of the example's size."""
        return sum(e.tokens * e.num_learners * e.learner_flops for e in self.layers)

    @property
    def least_budget(self) -> float:
        """The share of learner FLOPs that always runs, at any threshold; 0 without layers."""
        always = sum(e.tokens * e.min_learners * e.learner_flops for e in self.layers)
        return always / max(1, self.all_learners_flops)


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
    return parse_manifest(content, path)


def parse_manifest(content: Any, path: object) -> Manifest:
    """The manifest that :meth:`Manifest.to_json` made.

    Args:
        content: From JSON.
        path: Named in errors.

    Raises:
        ModelFileError: It is broken, or a newer version of acm-export wrote it.
    """
    if not isinstance(content, dict) or not WHOLE.holds(content.get("schema")):
        raise ModelFileError(f"the manifest of {path} has no schema version", _CHANGED)
    if content["schema"] > SCHEMA:
        raise ModelFileError(
            f"the manifest of {path} has schema {content['schema']}, this version reads up to {SCHEMA}",
            "update acm-export",
        )
    try:
        return _parse(content)
    except (OpError, BrokenFieldError) as error:
        raise ModelFileError(f"the manifest of {path} is broken: {error}", _CHANGED) from error


def _is_threshold(value: Any) -> bool:
    finite = type(value) in (int, float) and abs(value) <= sys.float_info.max
    return finite or value is None or value in ("inf", "-inf")


_SOURCE = {"name": TEXT, "sha256": TEXT_OR_NULL}
_SETTING = {"threshold": Kind('a number, "inf", "-inf" or null', _is_threshold), "max_learners": WHOLE_OR_NULL}
_SETTING_2 = _SETTING | {"budget": SHARE_OR_NULL}
_LAYER = {
    "name": TEXT, "model_dim": POSITIVE, "num_learners": POSITIVE, "hidden_dim": POSITIVE, "min_learners": WHOLE,
    "activation": TEXT, "learner_flops": POSITIVE, "gate_flops": WHOLE, "tokens": WHOLE,
}  # fmt: skip
_MANIFEST = {
    "source": OBJECT, "dtype": Kind(f"one of {', '.join(DTYPES)}", lambda v: v in DTYPES), "target": TEXT,
    "opset": POSITIVE, "layers": LIST, "rest_flops": WHOLE, "example_inputs": OBJECT, "setting": OBJECT,
    "producer": TEXT, "schema": WHOLE,
}  # fmt: skip
_MANIFEST_2 = _MANIFEST | {"calibration": OBJECT_OR_NULL}


def _parse(content: dict[str, Any]) -> Manifest:
    first = content["schema"] < SCHEMA
    fields = checked(content, _MANIFEST if first else _MANIFEST_2, "")
    inputs = fields["example_inputs"]
    layers = [checked(layer, _LAYER, f"layers[{i}].") for i, layer in enumerate(fields["layers"])]
    parsed = {
        "schema": SCHEMA,
        "source": Source(**checked(fields["source"], _SOURCE, "source.")),
        "layers": tuple(LayerEntry(**layer) for layer in layers),
        "example_inputs": checked(inputs, dict.fromkeys(inputs, SHAPE), "example_inputs."),
        "setting": _parse_setting(checked(fields["setting"], _SETTING if first else _SETTING_2, "setting.")),
    }
    if fields.get("calibration") is not None:
        parsed["calibration"] = Calibration.parse(fields["calibration"])
    manifest = Manifest(**(fields | parsed))
    for layer in manifest.layers:
        layer.signature  # noqa: B018  validates
    _check_calibration(manifest)
    return manifest


def _parse_setting(fields: dict[str, Any]) -> Setting:
    threshold, budget = fields["threshold"], fields.get("budget")
    if threshold is not None and budget is not None:
        raise BrokenFieldError(f"setting has both a threshold ({threshold}) and a budget ({budget})")
    return Setting(None if threshold is None else float(threshold), fields["max_learners"], budget)


def _check_calibration(manifest: Manifest) -> None:
    budget = manifest.setting.budget
    if manifest.calibration is None:
        if budget is not None:
            raise BrokenFieldError(f"setting.budget is {budget}, but there is no calibration")
        return
    if manifest.budget_input and budget is None:
        raise BrokenFieldError("setting.budget is null, but the graph takes a budget and needs a default")
    rows = {name: len(rows[0]) for name, rows in manifest.calibration.table.thresholds.items()}
    layers = {layer.name: layer.num_learners for layer in manifest.layers}
    if rows != layers:
        raise BrokenFieldError(f"the budget table has thresholds for {rows}, the layers are {layers}")
