"""Compare an ONNX file with the PyTorch model it was exported from.

Two runtimes round differently, so a token whose margin is close to its threshold may be routed differently, and
after that all values of its sample differ. Therefore the file runs first, and PyTorch replays its learner counts. Both
sides then do the same work, and any remaining difference is numeric error. The counts that PyTorch's own gates would
have chosen for the same inputs are compared separately.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from acm_export.base.errors import UsageError, first_line
from acm_export.data.token_masks import TokenMasks
from acm_export.modules import acm_layers
from acm_export.onnx_file.inspection import check_graph, check_thresholds, stored_thresholds
from acm_export.onnx_file.manifest import LayerEntry, Manifest, read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.token_ids import check_token_ids, embedding_sizes
from acm_export.op.routing import learner_counts, margins
from acm_export.runtimes.runnable import open_runnable, runnable_copy
from acm_export.verification.integers import IntegerCheck
from acm_export.verification.measurement import budget_of
from acm_export.verification.replay import replay_counts
from acm_export.verification.report import (
    Disagreement,
    LayerRouting,
    SettingResult,
    VerificationError,
    VerificationReport,
    check_atol,
)
from acm_export.verification.settings import ThresholdSetting, choose_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays
    from acm_export.modules import ACMSpec
    from acm_export.modules.wrapper import Exportable
    from acm_export.runtimes.onnx_runtime import Session

_TINY = np.finfo(np.float64).tiny
_EXAMPLES = 20
"""Largest number of disagreements that a report lists for a layer."""


def verify_model(
    path: Path,
    model: Exportable,
    inputs: Mapping[str, torch.Tensor],
    *,
    atol: float | None = None,
    scratch: Path | None = None,
) -> VerificationReport:
    """Run a file and its model at three budgets and compare outputs and routing.

    Args:
        path: Path of the ONNX file.
        model: Model in float32.
        inputs: Inputs by name; the leading axis of each is the batch.
        atol: Largest accepted absolute error; by default relative to the outputs (:mod:`.report`).
        scratch: Folder for the float32 weights of a bf16 file; by default the system's temporary folder.

    Returns:
        Errors and routing disagreements, whether or not they are within tolerance.

    Raises:
        VerificationError: The layers or inputs of file and model differ.
        ModelFileError: The file cannot be read or loaded.
        UsageError: ``atol`` is negative or NaN, or the model does not run on the inputs.
        OutputError: The scratch folder is full.
    """
    check_atol(atol)
    proto = read_model(path)
    manifest = read_manifest(proto, path)
    check_graph(proto, manifest, path)
    check_thresholds(proto, manifest, path)
    module = model.module
    _check_layers(manifest.layers, {name: layer.spec for name, layer in acm_layers(module)})
    settings = _current_setting(proto, manifest, path.parent)
    sizes = embedding_sizes(proto)
    copy, notes = runnable_copy(proto, manifest, path.parent)
    outputs = [value.name for value in copy.graph.output if not value.name.startswith("counts/")]
    integers = IntegerCheck(copy, manifest, path.parent)
    session, session_notes = open_runnable(copy, manifest, path.parent, lean=True, scratch=scratch)
    notes += session_notes
    del proto, copy
    overridable = {layer.thresholds for layer in manifest.layers}
    expected = [name for name in session.input_names if name not in overridable]
    if sorted(expected) != sorted(inputs):
        raise VerificationError(f"the file has the inputs {', '.join(expected)}; the data has {', '.join(inputs)}")
    feeds = {name: np.ascontiguousarray(value.numpy()) for name, value in inputs.items()}
    check_token_ids(sizes, feeds)
    with torch.no_grad():
        with replay_counts(module, None) as own:
            returned = _run(model, inputs)
        observed = {name: margins(logits) for name, logits in own.gate_logits.items()}
        settings += choose_settings(manifest.layers, observed)
        file = _File(session, outputs, feeds, manifest.layers, integers)
        results = [_compare(file, model, inputs, setting, atol) for setting in settings]
    if undefined := sum(int((~torch.isfinite(output)).sum()) for output in returned):
        total = sum(output.numel() for output in returned)
        notes = (*notes, f"the PyTorch model itself returns NaN or infinity in {undefined} of {total} values")
    if not manifest.layers:
        notes = (*notes, "0 ACM layers: the file is dense, so only its outputs were compared")
    int8 = None if manifest.quantization is None else manifest.quantization.activations
    return VerificationReport(tuple(results), manifest.dtype, atol, session.name, notes, int8)


@dataclass(frozen=True)
class _File:
    """The file in its session.

    Args:
        session: Session of the runnable copy.
        outputs: Names of the model's outputs, without learner counts and taps.
        feeds: Inputs of the model.
        layers: ACM layers.
        integers: Check of the int8 layers.
    """

    session: Session
    outputs: list[str]
    feeds: Arrays
    layers: tuple[LayerEntry, ...]
    integers: IntegerCheck


def _run(model: Exportable, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    try:
        outputs: tuple[torch.Tensor, ...] = model(*inputs.values())
    except (IndexError, RuntimeError, ValueError) as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        raise UsageError(
            f"the PyTorch model does not run on the data: {first_line(error)}", f"the inputs were {shapes}"
        ) from error
    return outputs


def _current_setting(proto: onnx.ModelProto, manifest: Manifest, folder: Path) -> list[ThresholdSetting]:
    """The thresholds stored in the file, unless they are the trained ones."""
    stored = stored_thresholds(proto, manifest, folder)
    return [ThresholdSetting("as the file is set", stored)] if any(t.any() for t in stored.values()) else []


def _check_layers(entries: tuple[LayerEntry, ...], specs: Mapping[str, ACMSpec]) -> None:
    in_file, in_model = {e.name: _layer_sizes(e) for e in entries}, {n: _layer_sizes(s) for n, s in specs.items()}
    if differing := sorted(in_file.keys() ^ in_model.keys()):
        name = differing[0]
        place, other = ("file", "checkpoint") if name in in_file else ("checkpoint", "file")
        raise VerificationError(
            f"{name} is an ACM layer in the {place}, but not in the {other}",
            "give the checkpoint that the file was exported from",
        )
    for name in sorted(in_file.keys()):
        if in_file.get(name) != in_model.get(name):
            raise VerificationError(
                f"layer {name} (D, N, h, min_learners, activation, glu) is {in_file.get(name)} in the file "
                f"and {in_model.get(name)} in the checkpoint",
                "give the checkpoint that the file was exported from",
            )


def _layer_sizes(layer: LayerEntry | ACMSpec) -> tuple[int | str | bool, ...]:
    return layer.model_dim, layer.num_learners, layer.hidden_dim, layer.min_learners, layer.activation, layer.glu


def _compare(
    file: _File,
    model: Exportable,
    inputs: Mapping[str, torch.Tensor],
    setting: ThresholdSetting,
    atol: float | None,
) -> SettingResult:
    layers = file.layers
    thresholds = {layer.thresholds: setting.thresholds[layer.name] for layer in layers}
    ran = file.session.run(file.feeds | thresholds)
    counts = {layer.name: ran[f"counts/{layer.name}"] for layer in layers}
    for layer in layers:
        ran_counts = counts[layer.name]
        if ran_counts.size and not layer.min_learners <= ran_counts.min() <= ran_counts.max() <= layer.num_learners:
            raise VerificationError(
                f"layer {layer.name} reports counts from {ran_counts.min()} to {ran_counts.max()}, "
                f"expected {layer.min_learners} to {layer.num_learners}"
            )
    with replay_counts(model.module, counts) as replay:
        reference = [value.numpy() for value in model(*inputs.values())]
    outputs = [ran[name] for name in file.outputs]
    if [o.shape for o in outputs] != [r.shape for r in reference]:
        raise VerificationError(
            f"the file's outputs have shapes {[o.shape for o in outputs]}, the model's have "
            f"{[r.shape for r in reference]}"
        )
    worst = max((_errors(o, r) for o, r in zip(outputs, reference, strict=True)), key=lambda e: e.rank(atol))
    logits = {name: replay.gate_logits[name].reshape(*values.shape, -1) for name, values in counts.items()}
    counted = _without_padding(counts, TokenMasks.of_batch(file.feeds, logits.values()))
    return SettingResult(
        setting.name,
        executed_budget(layers, counted),
        worst.largest,
        worst.mean,
        worst.scale,
        tuple(_routing(e, counts[e.name], replay.gate_logits[e.name], setting.thresholds[e.name]) for e in layers),
        min((cosine_similarity(o, r) for o, r in zip(outputs, reference, strict=True)), default=1.0),
        file.integers.check(file.feeds | ran, setting.thresholds),
    )


def _without_padding(counts: Arrays, masks: TokenMasks) -> Arrays:
    valid = {name: masks.of(values.shape) for name, values in counts.items()}
    return {name: values if (mask := valid[name]) is None else values[mask] for name, values in counts.items()}


@dataclass(frozen=True)
class _Errors:
    """Errors of one output.

    Args:
        largest: Largest absolute error.
        mean: Mean absolute error.
        scale: Largest absolute value of the reference.
    """

    largest: float
    mean: float
    scale: float

    def rank(self, atol: float | None) -> float:
        """Sort key that selects the worst output; NaN is worst."""
        error = self.largest if atol is not None or not self.scale else self.largest / self.scale
        return float("inf") if np.isnan(error) else error


def _errors(output: np.ndarray, reference: np.ndarray) -> _Errors:
    error = _error(output, reference)
    scale = np.abs(reference[np.isfinite(reference)]).max(initial=0.0)
    return _Errors(float(error.max(initial=0)), float(error.mean()) if error.size else 0.0, float(scale))


def cosine_similarity(output: np.ndarray, reference: np.ndarray) -> float:
    """Mean cosine similarity of the samples of one output, NaN if a value is not finite.

    Args:
        output: ``[samples, ...]``.
        reference: As ``output``. A sample of zeros is similar to zeros (1) and to nothing else (0).
    """
    if not output.size:
        return 1.0
    one, other = (values.astype(np.float64).reshape(len(values), -1) for values in (output, reference))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    with np.errstate(invalid="ignore"):
        similar = np.where(norms == 0, (one == other).all(axis=1), (one * other).sum(axis=1) / np.maximum(norms, _TINY))
    return float(similar.mean())


def _error(output: np.ndarray, reference: np.ndarray) -> NDArray[np.float64]:
    """Absolute error; equal infinities and pairs of NaN agree."""
    same = (output == reference) | (np.isnan(output) & np.isnan(reference))
    with np.errstate(invalid="ignore"):
        return np.where(same, 0.0, np.abs(output.astype(np.float64) - reference.astype(np.float64)))


def executed_budget(layers: tuple[LayerEntry, ...], counts: Arrays) -> float:
    """β: executed ÷ all learner FLOPs, over the tokens of all layers; 1 without ACM layers."""
    return budget_of(layers, [np.bincount(counts[e.name].ravel(), minlength=1).tolist() for e in layers])


def _routing(
    entry: LayerEntry,
    counts: NDArray[np.int32],
    gate_logits: NDArray[np.float32],
    thresholds: NDArray[np.float32],
) -> LayerRouting:
    ran, own = counts.ravel(), learner_counts(gate_logits, thresholds, entry.min_learners)
    margin = margins(gate_logits)
    differ = np.flatnonzero(ran != own)
    at = np.minimum(ran, own)[differ] - entry.min_learners  # the first learner on which the two disagree
    decided, against = margin[differ, at], thresholds[entry.min_learners :][at]
    with np.errstate(invalid="ignore"):
        distance = np.nan_to_num(np.abs(decided - against), nan=np.inf, posinf=np.inf)
    shown = np.argsort(-distance, kind="stable")[:_EXAMPLES]
    examples = tuple(
        Disagreement(float(decided[i]), float(against[i]), int(ran[differ[i]]), int(own[differ[i]])) for i in shown
    )
    finite = margin[np.isfinite(margin)]
    return LayerRouting(
        entry.name,
        ran.size,
        int(differ.size),
        float(distance.max(initial=0)),
        float(finite.std()) if finite.size else 0.0,
        float(ran.mean()) / entry.num_learners if ran.size else 0.0,
        examples,
    )
