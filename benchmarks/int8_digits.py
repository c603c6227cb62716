"""Measure what int8 costs in accuracy: one ACM model of scikit-learn's digits per fold, in float32 and int8.

What: five folds over all 1,797 images, each held out once. In each fold a small Vision Transformer is trained, turned
into an ACM model (recipe any-budget, settings (a) of examples/05_acmize_digits.py), exported, calibrated on training
images, and quantised on training images with static and with dynamic activations. All files are set to the same budgets
from their own budget tables and classify the same held-out images.

How: differences are paired by image, with their normal 95% interval; β is measured on the held-out images.

Run: ``python benchmarks/int8_digits.py [--folds 5]``; minutes per fold. Needs the extras [demo,train].
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from common import parser, print_table, write_result

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits import FFN, HIDDEN, dense_vit, folds, train_dense
from evidence import Stages, paired

from acm_export.calibration.calibrate import calibrate
from acm_export.checkpoints import load_checkpoint
from acm_export.distillation.run import run_distillation
from acm_export.distillation.settings import AcmizeSettings
from acm_export.exporter import export
from acm_export.quantization.dial import flat_thresholds
from acm_export.quantization.quantize import quantize
from acm_export.runtimes.session import TappedSession
from acm_export.verification.measurement import Accumulator

if TYPE_CHECKING:
    from digits import Images

SETTINGS = AcmizeSettings(sites="ffn,o_proj", steps=(300, 150, 1800), batch=32, learning_rates=(2e-3, 2e-3, 1e-3))
TEACHER_STEPS = 500
BUDGETS = (0.25, 0.4, 0.5, 0.6, 0.75)
INT8 = ("static", "dynamic")


def measure(path: Path, test: Images) -> dict[str, np.ndarray[Any, Any]]:
    """Correctness of each image ``[budgets, images]`` and executed β ``[budgets]``; the last budget is all learners."""
    session = TappedSession(path)
    calibration = session.manifest.calibration
    if calibration is None:
        raise ValueError(f"{path} is not calibrated")
    settings = [flat_thresholds(calibration.table.at(budget), session.layers) for budget in BUDGETS]
    settings.append(np.full(session.num_thresholds, -np.inf, np.float32))
    correct, executed = [], []
    for thresholds in settings:
        total, found = Accumulator(session.layers), []
        for batch in test.batches(90):
            feeds = {"pixel_values": batch["pixel_values"]}
            outputs, counts = session.run(feeds, thresholds)
            total.add(counts, [None] * len(counts), 0.0, None, len(batch["labels"]))
            found.append(outputs["logits"].argmax(-1) == batch["labels"])
        executed.append(total.result().budget)
        correct.append(np.concatenate(found).astype(np.float64))
    return {"correct": np.array(correct), "budget": np.array(executed)}


def run_fold(train: Images, test: Images, folder: Path, *, quick: bool) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Train one model and measure its float32 and int8 files."""
    settings = replace(SETTINGS, steps=(2, 2, 2)) if quick else SETTINGS
    dense = train_dense(dense_vit(HIDDEN, FFN), train, 3 if quick else TEACHER_STEPS)
    dense.save_pretrained(folder / "dense")
    run_distillation(load_checkpoint(folder / "dense"), train, test, settings, folder / "acm", Stages())
    export(folder / "acm", output=folder / "float.onnx")
    calibrated = folder / "float32.onnx"
    calibrate(folder / "float.onnx", train, BUDGETS, calibrated, batch=64, samples=400, probe_samples=64)
    for kind in INT8:
        quantize(calibrated, folder / f"{kind}.onnx", data=train, activations=kind)
    return {kind: measure(folder / f"{kind}.onnx", test) for kind in ("float32", *INT8)}


def summary(parts: list[dict[str, dict[str, np.ndarray[Any, Any]]]]) -> list[dict[str, Any]]:
    """Accuracy, executed β and paired difference in points at each budget; the last row is all learners."""
    rows = []
    for index, budget in enumerate((*BUDGETS, 1.0)):
        row: dict[str, Any] = {"budget": budget}
        correct = {k: np.concatenate([part[k]["correct"][index] for part in parts]) for k in ("float32", *INT8)}
        for kind, values in correct.items():
            executed = float(np.mean([part[kind]["budget"][index] for part in parts]))
            row[kind] = {"accuracy": float(values.mean()), "executed": executed}
        row |= {f"{kind}_minus_float32": asdict(paired(100 * correct[kind], 100 * correct["float32"])) for kind in INT8}
        rows.append(row)
    return rows


def main() -> None:
    """Run the folds, print and write."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--folds", type=int, default=5, choices=range(1, 6), help="folds to run (%(default)s)")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    parts = []
    for index, (train, test) in enumerate(folds(5)):
        if index >= options.folds:
            break
        print(f"fold {index + 1} of {options.folds}", flush=True)
        with TemporaryDirectory(prefix="acm-export-benchmark-") as name:
            parts.append(run_fold(train, test, Path(name), quick=options.quick))
    rows = summary(parts)
    print_table(
        f"digits, {len(parts)} folds: int8 against float32, the same budgets",
        (
            "β",
            "float32",
            "static int8",
            "dynamic int8",
            "static - float32, 95%",
            "dynamic - float32, 95%",
            "β of static",
        ),
        [
            (
                f"{row['budget']:.2f}",
                *(f"{row[kind]['accuracy']:.1%}" for kind in ("float32", *INT8)),
                *("{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**row[f"{kind}_minus_float32"]) for kind in INT8),
                f"{row['static']['executed']:.3f}",
            )
            for row in rows
        ],
    )
    write_result("int8_digits", {"folds": len(parts), "settings": asdict(SETTINGS), "rows": rows}, options)


if __name__ == "__main__":
    main()
