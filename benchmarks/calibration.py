"""Calibration of the embedded model: budgets and solvers on unseen images, both dials, and memory.

All 1,797 images, five folds; each is measured once, with a table from the other four. Half of the budgets lie on
knots, the others between them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from calibration_data import (
    BETWEEN,
    LIMIT,
    REQUESTED,
    error_row,
    labelled,
    print_errors,
    table_errors,
    unseen,
)
from common import parser, print_table, write_result
from onnx import TensorProto, helper

from acm_export.calibration.calibrate import calibrate
from acm_export.calibration.data import CalibrationData
from acm_export.calibration.evaluator import Evaluator
from acm_export.checkpoints import load_checkpoint
from acm_export.data.open_data import open_data
from acm_export.demo.digits import ACM, load_all_images
from acm_export.exporter import export
from acm_export.onnx_file import budget_input
from acm_export.onnx_file.manifest import Setting
from acm_export.onnx_file.model_file import read_model
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.runtimes.session import TappedSession
from acm_export.verification.measurement import Accumulator

if TYPE_CHECKING:
    from acm_export.calibration.result import CalibrationResult


FOLDS = 5


def quality(calibrated: CalibrationResult, evaluator: Evaluator) -> list[dict[str, Any]]:
    """The table and its rivals at the same budgets, on images that neither was calibrated on."""
    rows = []
    for c in calibrated.comparisons:
        settings = {"table": c.knot.thresholds} | {name: rival.thresholds for name, rival in c.rivals.items()}
        for family, thresholds in settings.items():
            measured = evaluator.measure(thresholds)
            rows.append(
                {
                    "budget": c.budget,
                    "family": family,
                    "measured": measured.budget,
                    "samples": measured.samples,
                    "divergence": measured.divergence,
                    "accuracy": measured.accuracy,
                    "lost_on_calibration_data_to": c.lost_to if family == "table" else [],
                }
            )
    return rows


def digits(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Cross-validation on the embedded model."""
    path = folder / "digits.onnx"
    export(load_checkpoint(ACM), output=path, verify=False)
    images, labels = load_all_images()
    if quick:
        images, labels = images[:100], labels[:100]
    fold = np.random.default_rng(0).permutation(len(images)) % FOLDS
    errors, compared = [], []
    for index in range(1 if quick else FOLDS):
        train, test = fold != index, fold == index
        data, probes = labelled(images[train], labels[train]), 16 if quick else 256
        calibrated = calibrate(path, data, REQUESTED, folder / "c.onnx", batch=128, probe_samples=probes)
        session = TappedSession(path)
        evaluator = unseen(session, labelled(images[test], labels[test]), 128)
        errors += table_errors(calibrated, evaluator)
        compared += quality(calibrated, evaluator)
        errors += through_input(calibrated, session, folder, images[test])
        evaluator.close()
    return {"images": len(images), "folds": FOLDS, "errors": errors, "quality": mean_quality(compared)}


def through_input(
    calibrated: CalibrationResult, session: TappedSession, folder: Path, images: np.ndarray[Any, Any]
) -> list[dict[str, Any]]:
    """The same budgets through the input of a file that has one; β from its own counts."""
    record = calibrated.manifest.calibration
    if record is None:
        raise ValueError("not calibrated")
    model = read_model(calibrated.path)
    manifest = calibrated.manifest.replaced(
        calibration=replace(record, budget_input=True), setting=Setting(None, None, record.trained_budget)
    )
    budget_input.attach(model, manifest)
    known = {value.name for value in model.graph.output}
    counts = [f"counts/{layer.name}" for layer in session.layers]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.INT32, None) for name in counts if name not in known
    )
    runtime = CpuSession(model, folder)
    rows = []
    for budget in (*REQUESTED, *BETWEEN):
        tally = Accumulator(session.layers)
        ran = runtime.run({"pixel_values": images, "budget": np.array(budget, np.float32)}, counts)
        tally.add([ran[name] for name in counts], [None] * len(counts), 0.0, None, len(images))
        rows.append(error_row(budget, tally.result(), "input"))
    return rows


def mean_quality(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over the folds, weighted by their images."""
    found = []
    for budget in sorted({round(row["budget"], 3) for row in rows}):
        for family in ("table", "uniform", "same count"):
            mine = [r for r in rows if round(r["budget"], 3) == budget and r["family"] == family]
            if mine:
                weights = [row["samples"] for row in mine]
                found.append(
                    {
                        "budget": budget,
                        "family": family,
                        **{
                            key: float(np.average([r[key] for r in mine], weights=weights))
                            for key in ("measured", "divergence", "accuracy")
                        },
                        "folds_where_a_rival_stays_better": sum(bool(r["lost_on_calibration_data_to"]) for r in mine),
                    }
                )
    return found


def memory(folder: Path, path: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Growth of this process while margins are collected, for a small and a large data file."""
    session = TappedSession(path)
    zero = np.zeros(session.num_thresholds, np.float32)
    images, _ = load_all_images()
    rows = []
    for copies in (1, 2) if quick else (1, 8, 32):
        file = folder / "many.npz"
        np.savez(file, pixel_values=np.concatenate([images] * copies))
        data = CalibrationData(open_data(file, session.inputs, model_folder=folder), batch_size=128)
        peak = _Peak()
        evaluator = Evaluator(session, data.calibration, peak.look)
        evaluator.margins(zero)
        evaluator.close()
        size = file.stat().st_size
        rows.append({"samples": copies * len(images), "data_bytes": size, "growth_bytes": peak.growth})
        file.unlink()
    return rows


class _Peak:
    """Memory after the first batch, and the largest after any later one."""

    def __init__(self) -> None:
        self._first: int | None = None
        self.growth = 0

    def look(self) -> None:
        resident = psutil.Process().memory_info().rss
        self._first = resident if self._first is None else self._first
        self.growth = max(self.growth, resident - self._first)


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__ or "").parse_args()
    with TemporaryDirectory(prefix="acm-export-benchmark-") as name:
        folder = Path(name)
        payload: dict[str, Any] = {"limit": LIMIT, **digits(folder, quick=options.quick)}
        payload["memory"] = memory(folder, folder / "digits.onnx", quick=options.quick)
    print_errors(payload["errors"], "budgets on unseen images")
    print_table(
        "solvers on unseen images",
        ("β", "family", "divergence", "accuracy %"),
        [
            (f"{r['budget']:.3f}", r["family"], f"{r['divergence']:.4f}", f"{100 * r['accuracy']:.2f}")
            for r in payload["quality"]
        ],
    )
    print_table(
        "memory while margins are collected",
        ("samples", "growth"),
        [(f"{row['samples']}", f"{row['growth_bytes'] / 1e6:.1f} MB") for row in payload["memory"]],
    )
    write_result("calibration", payload, options)


if __name__ == "__main__":
    main()
