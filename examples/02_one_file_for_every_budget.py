"""The embedded model of digits: export, verify, calibrate on real images, then any budget in one session.

Run: ``python examples/02_one_file_for_every_budget.py [FOLDER]``; takes a minute. Needs acm-export[demo], and ONNX
Runtime 1.27 or later, because the layers of this model are of two kinds. Leaves what examples 03 and 04 use.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from acm_export.calibration.calibrate import calibrate
from acm_export.checkpoints import load_checkpoint
from acm_export.demo.digits import ACM, DATA, load_all_images
from acm_export.exporter import export_checkpoint

BUDGETS = (0.25, 0.3, 0.4, 0.5, 0.75, 1.0)


def main(folder: Path) -> None:
    """Write ``calibrated.onnx`` and ``test.npz`` into the folder and print the accuracy at each budget."""
    save_images(folder)
    exported = export_checkpoint(load_checkpoint(ACM), folder / "digits.onnx")  # raises where PyTorch says otherwise
    if exported.report is not None:
        worst = max(setting.relative for setting in exported.report.settings)
        print(f"digits.onnx: largest error against PyTorch {worst:.1e} of the largest output")

    budgets, calibrated = (0.3, 0.5, 0.75), folder / "calibrated.onnx"
    calibrate(
        exported.path, folder / "train.npz", budgets, calibrated, budget_input=True, samples=400, probe_samples=64
    )

    onnxruntime.set_default_logger_severity(3)  # errors alone: it warns of a default that calls may override
    session = onnxruntime.InferenceSession(folder / "calibrated.onnx", providers=["CPUExecutionProvider"])
    test = np.load(folder / "test.npz")
    for budget in BUDGETS:
        feeds = {"pixel_values": test["pixel_values"], "budget": np.array(budget, np.float32)}
        (logits,) = session.run(["logits"], feeds)
        print(f"budget {budget:.2f}: accuracy {(logits.argmax(-1) == test['labels']).mean():.1%}")


def save_images(folder: Path) -> None:
    """The images that the model was trained on, for calibration, and the 360 that it never saw."""
    images, labels = load_all_images()
    unseen = np.zeros(len(images), bool)
    unseen[json.loads((DATA / "test_indices.json").read_text())] = True
    for name, chosen in (("train", ~unseen), ("test", unseen)):
        np.savez(folder / f"{name}.npz", pixel_values=images[chosen], labels=labels[chosen])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
