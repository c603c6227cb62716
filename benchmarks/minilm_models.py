"""The files of ``int8_minilm.py``: MiniLM, dense and with ACM layers, in float32 and int8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from calibration_minilm import SentenceEmbedding, into_learners, load
from onnxruntime.quantization import quantize_dynamic

from acm_export.calibration.calibrate import calibrate
from acm_export.exporter import export
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.thresholds import by_layer
from acm_export.op.routing import margins
from acm_export.quantization.quantize import quantize
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.runtimes.runnable import runnable_copy

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from acm_export.runtimes.session import TappedSession

THREADS = 2
BUDGETS = (0.25, 0.5, 0.75)
GATE_STEPS = 300

Arrays = dict[str, np.ndarray[Any, Any]]


class Models:
    """The exported files, for any number of sentences and tokens.

    Args:
        folder: Folder for the files; those of an earlier run are reused.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, dense: SentenceEmbedding, train: dict[str, torch.Tensor], data: Arrays, *, quick: bool) -> None:
        """Write all files.

        Args:
            dense: The pre-trained module.
            train: Sentences to train the gates on.
            data: Sentences for calibration and for the scales.
            quick: Whether to skimp on everything.
        """
        acm, _ = load()
        into_learners(acm, train, steps=20 if quick else GATE_STEPS, min_learners=0)
        example = {n: torch.from_numpy(v[:2]) for n, v in data.items()}
        axes = {key: {0: "batch", 1: "tokens"} for key in example}
        export(dense, example, self.path("dense"), dynamic_shapes=axes)
        export(SentenceEmbedding(acm), example, self.path("acm-raw"), dynamic_shapes=axes)
        probes = 20 if quick else 50
        calibrate(self.path("acm-raw"), data, BUDGETS, self.path("acm"), batch=50, probe_samples=probes)
        for kind, activations in (("acm-int8", "static"), ("acm-int8-dynamic", "dynamic"), ("dense-int8", "static")):
            source = self.path(kind.partition("-")[0])
            quantize(source, self.path(kind), data=data, embeddings=True, activations=activations)
        quantize_dynamic(self.path("dense"), self.path("dense-ort-dynamic"), per_channel=True)

    def path(self, name: str) -> Path:
        """Path of a file."""
        return self.folder / f"{name}.onnx"

    def runnable(self, name: str) -> onnx.ModelProto:
        """A model to run; thresholds of ACM files are inputs."""
        model = read_model(self.path(name))
        if not name.startswith("acm"):
            return model
        return runnable_copy(model, read_manifest(model, self.path(name)))[0]

    def session(self, name: str) -> CpuSession:
        """A session of :meth:`runnable`."""
        return CpuSession(self.runnable(name), self.folder, threads=THREADS)

    def sizes(self) -> dict[str, float]:
        """Bytes of each int8 file ÷ bytes of its float32 file."""
        size = {n: self.path(n).stat().st_size for n in ("acm", "acm-int8", "dense", "dense-int8")}
        return {f"{kind}_int8_over_float32": size[f"{kind}-int8"] / size[kind] for kind in ("acm", "dense")}


def thresholds_at(session: TappedSession, feeds: Arrays, budget: float) -> np.ndarray[Any, Any]:
    """One τ per layer that gives each layer the budget on these inputs, found layer after layer."""
    thresholds = np.zeros(session.num_thresholds, np.float32)
    start = 0
    for index, layer in enumerate(session.layers):
        part = slice(start, start + layer.num_learners)
        start = part.stop
        if budget in (0.0, 1.0):
            thresholds[part] = np.inf if budget == 0 else -np.inf
            continue
        _, logits = session.run_with_logits(feeds, thresholds)
        thresholds[part] = np.quantile(margins(logits[index]), 1 - budget)
    return thresholds


def as_feeds(session: TappedSession, flat: np.ndarray[Any, Any]) -> Arrays:
    """Concatenated thresholds by the names of a session's inputs."""
    return {f"{name}.thresholds": part for name, part in by_layer(session.layers, flat).items()}
