"""The manifest: what an exported file says about itself, in ``metadata_props["acm"]``.

Everything downstream of the export reads the manifest; nothing guesses from node names.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from acm_export.errors import AcmError, ModelFileError
from acm_export.op.signature import Signature

if TYPE_CHECKING:
    import onnx

KEY = "acm"
SCHEMA = 1


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
        if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
            raise ModelFileError(f"the manifest of {path} has no schema version")
        if content["schema"] > SCHEMA:
            raise ModelFileError(
                f"the manifest of {path} has schema {content['schema']}, this version reads up to {SCHEMA}",
                "update acm-export",
            )
        return _parse(content)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, AcmError):
            raise
        raise ModelFileError(f"the manifest of {path} is broken: {error}") from error


def _parse_setting(threshold: float | str | None, max_learners: int | None) -> Setting:
    return Setting(None if threshold is None else float(threshold), max_learners)


def _parse(content: dict[str, Any]) -> Manifest:
    parsed = {
        "source": Source(**content["source"]),
        "layers": tuple(LayerEntry(**layer) for layer in content["layers"]),
        "setting": _parse_setting(**content["setting"]),
    }
    manifest = Manifest(**(content | parsed))
    for layer in manifest.layers:
        layer.signature  # noqa: B018  validates
    return manifest
