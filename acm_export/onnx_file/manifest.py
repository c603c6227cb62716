"""The manifest: the description that an exported file carries in ``metadata_props["acm"]``.

Everything after the export reads the manifest; nothing infers it from node names.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import ModelFileError, OpError
from acm_export.base.json_fields import WHOLE, BrokenFieldError
from acm_export.onnx_file.budget_table import Calibration
from acm_export.onnx_file.manifest_fields import checked_fields
from acm_export.onnx_file.processor_record import ProcessorRecord
from acm_export.onnx_file.quantization_record import Quantization
from acm_export.op.quantized_signature import OPERATORS, QuantizedSignature
from acm_export.op.signature import DOMAIN, Signature

if TYPE_CHECKING:
    import onnx

    from acm_export.base.json_fields import JsonObject

KEY = "acm"
SCHEMA = 4
"""Schema 2 added the calibration and ``setting.budget``, schema 3 the quantisation, schema 4 the processor and ``glu``
of layers. Older ones are read, and rewritten as 4."""

AVOID_INLINING = (
    "run the other tool on a file for the target tensorrt (acm-export retarget): it has no function to inline"
)
"""Hint for a file whose function bodies a tool inlined."""

_CHANGED = "another tool changed the file; export it again"


@dataclass(frozen=True)
class LayerEntry:
    """One ACM layer of the file. Its node has its name; its thresholds are the value ``NAME.thresholds``.

    That value is an initializer, or is computed in the graph if the file has a budget input.

    Args:
        name: Qualified module name in the exported model.
        model_dim: Model dimension D.
        num_learners: Number of learners N.
        hidden_dim: Hidden width h of one learner.
        min_learners: Number of learners that always run.
        activation: Activation of the hidden values.
        learner_flops: FLOPs per token of one learner (2 per multiply-add).
        gate_flops: FLOPs per token of the gate.
        tokens: Tokens that reach the layer for one sample of the example inputs.
        activations: ``static`` or ``dynamic`` if the layer runs in int8 (docs/op.md, "The int8 operator"), None if it
            runs in float.
        glu: Whether each learner multiplies its activations by a second linear map of the token (docs/op.md).
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
    activations: str | None = None
    glu: bool = False

    @property
    def signature(self) -> Signature:
        """The operator of the layer's node and its attributes: a QuantizedSignature if the layer runs in int8."""
        shared = (self.num_learners, self.min_learners, self.activation)
        if self.activations is None:
            return Signature(*shared, glu=self.glu)
        return QuantizedSignature(*shared, dynamic=int(self.activations == "dynamic"), glu=self.glu)

    @property
    def thresholds(self) -> str:
        """Name of the value that holds the layer's thresholds."""
        return f"{self.name}.thresholds"


@dataclass(frozen=True)
class Source:
    """Where the weights came from.

    Args:
        name: Name of the checkpoint.
        sha256: SHA-256 of its weights, or None for a module without a checkpoint.
        part: Part of the checkpoint that the file contains, as ``encoder``; None for all of it.
    """

    name: str
    sha256: str | None = None
    part: str | None = None


@dataclass(frozen=True)
class Setting:
    """How many learners a file runs: one threshold or a budget, and an upper bound on the learners per token.

    Args:
        threshold: τ of all layers; 0 is the trained argmax. None if a budget is set, or if each learner has
            its own threshold.
        max_learners: Upper bound on the learners of a token, or None.
        budget: β, for which the budget table gives the thresholds, or None.
    """

    threshold: float | None = 0.0
    max_learners: int | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and self.budget is not None:
            raise ValueError(f"both a threshold ({self.threshold}) and a budget ({self.budget}) are set")


@dataclass(frozen=True)
class Manifest:
    """Description of an exported file.

    Args:
        source: Checkpoint that the file was exported from.
        dtype: Precision of the weights: fp32, fp16 or bf16.
        target: Target that the file was written for.
        opset: Version of the default ONNX operator set.
        layers: ACM layers in execution order.
        rest_flops: FLOPs of one sample outside learners and gates (2 per multiply-add, matrix products only).
        example_inputs: Input shapes of the one sample that ``rest_flops`` and ``tokens`` refer to.
        setting: Current setting of the thresholds.
        producer: Name and version of the program that wrote the file.
        calibration: Budget table and its measurements, if the file is calibrated.
        quantization: How the file was made int8, or None for a float file.
        processor: Tokenizer or processor of the model and names of its classes, or None if it has none.
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
    quantization: Quantization | None = None
    processor: ProcessorRecord | None = None
    schema: int = SCHEMA

    def to_json(self) -> JsonObject:
        """The manifest as a JSON object; an infinite threshold becomes a string, because JSON has no infinity."""
        content = asdict(self)
        if self.setting.threshold is not None and not math.isfinite(self.setting.threshold):
            content["setting"]["threshold"] = str(self.setting.threshold)
        return content

    @property
    def precision(self) -> str:
        """Precision of the file in words, as ``fp32`` or ``int8 static and fp32``."""
        return precision_text(self.dtype, None if self.quantization is None else self.quantization.activations)

    @property
    def budget_input(self) -> bool:
        """Whether the graph takes ``budget`` as an input."""
        return self.calibration is not None and self.calibration.budget_input

    def replaced(self, **changes: Any) -> Manifest:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def model_flops(self, budget: float) -> float:
        """FLOPs of one sample of the example's size at a budget β."""
        return self.fixed_flops + budget * self.all_learners_flops

    @property
    def fixed_flops(self) -> int:
        """FLOPs of one sample of the example's size outside the learners."""
        return self.rest_flops + sum(e.tokens * e.gate_flops for e in self.layers)

    @property
    def all_learners_flops(self) -> int:
        """FLOPs of one sample of the example's size in the learners, if all run."""
        return sum(e.tokens * e.num_learners * e.learner_flops for e in self.layers)

    @property
    def least_budget(self) -> float:
        """Smallest possible budget: only the learners that always run; 0 without ACM layers."""
        always = sum(e.tokens * e.min_learners * e.learner_flops for e in self.layers)
        return always / max(1, self.all_learners_flops)


def precision_text(dtype: str, activations: str | None) -> str:
    """Precision of a file in words.

    Args:
        dtype: Precision of what is not int8.
        activations: ``static`` or ``dynamic`` for a quantised file, else None.
    """
    return dtype if activations is None else f"int8 {activations} and {dtype}"


def changed_by_a_tool(path: object) -> str:
    """The hint for a file that another tool changed: the command that gives it back its manifest and thresholds."""
    return f"acm-export inspect {path} --adopt ORIGINAL.onnx -o FIXED.onnx, with the file that the other tool read"


def write_manifest(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Store the manifest in a model, replacing an existing one."""
    kept = [(p.key, p.value) for p in model.metadata_props if p.key != KEY]
    del model.metadata_props[:]
    for key, value in [*kept, (KEY, json.dumps(manifest.to_json(), sort_keys=True, allow_nan=False))]:
        model.metadata_props.add(key=key, value=value)


def read_manifest(model: onnx.ModelProto, path: object) -> Manifest:
    """Read the manifest of a model.

    Args:
        model: Model whose weights need not be loaded.
        path: Path of the file, for errors.

    Raises:
        ModelFileError: The model has no manifest, or it is broken or has a newer schema.
    """
    text = next((p.value for p in model.metadata_props if p.key == KEY), None)
    if text is None and any(node.domain == DOMAIN or node.op_type in OPERATORS for node in model.graph.node):
        raise ModelFileError(f"{path} has ACM layers but no manifest: another tool dropped it", changed_by_a_tool(path))
    if text is None:
        raise ModelFileError(
            f"{path} has no acm-export manifest: another tool wrote this ONNX file",
            "export the checkpoint with: acm-export export CHECKPOINT -o M.onnx",
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"the manifest of {path} is not JSON: {error}", _CHANGED) from error
    return parse_manifest(content, path)


def parse_manifest(content: object, path: object, hint: str = _CHANGED) -> Manifest:
    """Parse the JSON object that :meth:`Manifest.to_json` returns.

    Args:
        content: Value from ``json.loads``.
        path: Path of the file, for errors.
        hint: What to do if the manifest is broken.

    Raises:
        ModelFileError: The manifest is broken or has a newer schema.
    """
    if not isinstance(content, dict) or not WHOLE.holds(content.get("schema")):
        raise ModelFileError(f"the manifest of {path} has no schema version", hint)
    if content["schema"] > SCHEMA:
        raise ModelFileError(
            f"the manifest of {path} has schema {content['schema']}, this version reads up to {SCHEMA}",
            "update acm-export",
        )
    try:
        return _parse(content)
    except (OpError, BrokenFieldError) as error:
        raise ModelFileError(f"the manifest of {path} is broken: {error}", hint) from error


def _parse(content: dict[str, Any]) -> Manifest:
    fields = checked_fields(content, content["schema"])
    parsed = {
        "schema": SCHEMA,
        "source": Source(**fields["source"]),
        "layers": tuple(LayerEntry(**layer) for layer in fields["layers"]),
        "setting": _parse_setting(fields["setting"]),
    }
    for name, part in (("calibration", Calibration), ("quantization", Quantization), ("processor", ProcessorRecord)):
        if fields.get(name) is not None:
            parsed[name] = part.parse(fields[name])
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
        raise BrokenFieldError("setting.budget is null, but the graph has a budget input and needs a default")
    rows = {name: len(rows[0]) for name, rows in manifest.calibration.table.thresholds.items()}
    layers = {layer.name: layer.num_learners for layer in manifest.layers}
    if rows != layers:
        raise BrokenFieldError(f"the budget table has thresholds for {rows}, the layers are {layers}")
