"""The whole workflow on the embedded model: export, verify, then accuracy, FLOPs and time at each threshold."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import OutputError
from acm_export.base.timing import paired_ratios
from acm_export.checkpoints import load_checkpoint
from acm_export.demo.digits import ACM, DENSE, load_test_images
from acm_export.demo.ffn import FFNRow, time_ffn
from acm_export.exporter import ExportResult, export
from acm_export.onnx_file.model_file import read_model
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.runtimes.runnable import runnable_copy
from acm_export.verification.compare import executed_budget
from acm_export.verification.settings import uniform

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from acm_export.base.json_fields import JsonObject
    from acm_export.onnx_file.manifest import Manifest

THRESHOLDS = (-8.0, -4.0, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
_PAIRS, _RUNS = 5, 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """Result of one threshold on the test images.

    Args:
        threshold: τ for every learner of every layer.
        share: Mean of count / N over tokens and layers, unweighted.
        budget: β, executed ÷ all learner FLOPs.
        accuracy: Share of images that are classified correctly.
        flops: FLOPs of the whole model for one image.
        time_ratio: Time ÷ time of the dense model, with all images in one batch.
    """

    threshold: float
    share: float
    budget: float
    accuracy: float
    flops: float
    time_ratio: float


@dataclass(frozen=True)
class Demo:
    """Result of the demo.

    Args:
        acm: The exported ACM model.
        dense: The dense model it came from, exported the same way.
        rows: One row for each threshold.
        dense_accuracy: Accuracy of the dense model.
        ffn: Times of the op alone at the size of ViT-B's FFN.
        images: Number of test images.
        runtime: Name and version of the runtime.
    """

    acm: ExportResult
    dense: ExportResult
    rows: tuple[Row, ...]
    dense_accuracy: float
    ffn: tuple[FFNRow, ...]
    images: int
    runtime: str

    def to_json(self) -> JsonObject:
        """The result for ``--json``."""
        return {
            "files": {"acm": str(self.acm.path), "dense": str(self.dense.path)},
            "images": self.images,
            "runtime": self.runtime,
            "dense": {"accuracy": self.dense_accuracy, "flops": self.dense.manifest.model_flops(1)},
            "rows": [asdict(row) for row in self.rows],
            "ffn": [asdict(row) for row in self.ffn],
            "verification": {
                name: result.report.to_json() if result.report else None
                for name, result in (("acm", self.acm), ("dense", self.dense))
            },
        }


def run_demo(folder: Path) -> Demo:
    """Export both embedded models into ``folder`` and run the 360 test images at ten thresholds.

    Args:
        folder: Folder for the files; it is created if it does not exist.

    Returns:
        The files, their verification and the rows of the table.

    Raises:
        OutputError: The folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot create the folder {folder}: {error.strerror}", "choose another folder with -o"
        ) from error
    images, labels = load_test_images()
    exported = {}
    for checkpoint in (ACM, DENSE):
        _log.info("exporting and verifying %s", checkpoint.name)
        exported[checkpoint] = export(load_checkpoint(checkpoint), output=folder / f"{checkpoint.name}.onnx")
    acm, dense = _Runner(exported[ACM]), _Runner(exported[DENSE])
    _log.info("running %d images at %d thresholds beside the dense model", len(images), len(THRESHOLDS))
    rows = tuple(_row(tau, acm, dense, images, labels) for tau in THRESHOLDS)
    accuracy = float((dense.logits(images, 0.0).argmax(-1) == labels).mean())
    _log.info("timing the op at the size of ViT-B's FFN")
    ffn = tuple(time_ffn(batch=1, pairs=_PAIRS, runs=_RUNS))
    return Demo(exported[ACM], exported[DENSE], rows, accuracy, ffn, len(images), acm.session.name)


class _Runner:
    """An exported file with its thresholds as inputs."""

    def __init__(self, exported: ExportResult) -> None:
        self.manifest: Manifest = exported.manifest
        model, _ = runnable_copy(read_model(exported.path), exported.manifest)
        self.session = CpuSession(model, exported.path.parent)

    def feeds(self, images: NDArray[np.float32], tau: float) -> dict[str, np.ndarray]:
        thresholds = uniform("", tau, self.manifest.layers).thresholds
        return {"pixel_values": images} | {e.thresholds: thresholds[e.name] for e in self.manifest.layers}

    def logits(self, images: NDArray[np.float32], tau: float) -> np.ndarray:
        return self.session.run(self.feeds(images, tau), ["logits"])["logits"]


def _row(tau: float, acm: _Runner, dense: _Runner, images: NDArray[np.float32], labels: NDArray[np.int64]) -> Row:
    outputs = acm.session.run(acm.feeds(images, tau))
    layers = acm.manifest.layers
    counts = {e.name: outputs[f"counts/{e.name}"] for e in layers}
    budget = executed_budget(layers, counts)
    ratios = paired_ratios(lambda: acm.logits(images, tau), lambda: dense.logits(images, tau), pairs=_PAIRS, runs=_RUNS)
    return Row(
        tau,
        float(np.mean([counts[e.name].mean() / e.num_learners for e in layers])),
        budget,
        float((outputs["logits"].argmax(-1) == labels).mean()),
        acm.manifest.model_flops(budget),
        median(ratios),
    )
