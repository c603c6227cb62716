"""Export the embedded digits model, verify it, calibrate it on real images, and run it at any budget in one session.

Run: ``python examples/02_one_file_for_every_budget.py [FOLDER]``; about a minute. Without a folder the files go into a
new temporary one; examples 03 and 04 need them. Needs the extra [demo].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

try:
    import onnxruntime
    import sklearn  # noqa: F401 (the images come with it)
    import torch  # noqa: F401 (the export needs it)
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed; run: pip install '.[demo]'")

from acm_export.calibration.calibrate import calibrate
from acm_export.checkpoints import load_checkpoint
from acm_export.demo.digits import ACM, DATA, load_all_images
from acm_export.exporter import export

BUDGETS = (0.25, 0.3, 0.4, 0.5, 0.75, 1.0)


def main(folder: Path) -> None:
    """Write ``calibrated.onnx`` and ``test.npz`` into the folder and print the accuracy at each budget."""
    folder.mkdir(parents=True, exist_ok=True)
    save_images(folder)
    exported = export(load_checkpoint(ACM), output=folder / "digits.onnx")  # raises if the file and PyTorch disagree
    if exported.report is not None:
        worst = max(setting.relative for setting in exported.report.settings)
        print(f"digits.onnx: largest difference from PyTorch is {worst:.1e} of the largest output")

    budgets, calibrated = (0.3, 0.5, 0.75), folder / "calibrated.onnx"
    calibrate(
        exported.path, folder / "train.npz", budgets, calibrated, budget_input=True, samples=400, probe_samples=64
    )

    onnxruntime.set_default_logger_severity(3)  # errors only: it warns about a default that calls may override
    session = onnxruntime.InferenceSession(folder / "calibrated.onnx", providers=["CPUExecutionProvider"])
    test = np.load(folder / "test.npz")
    for budget in BUDGETS:
        feeds = {"pixel_values": test["pixel_values"], "budget": np.array(budget, np.float32)}
        (logits,) = session.run(["logits"], feeds)
        print(f"budget {budget:.2f}: accuracy {(logits.argmax(-1) == test['labels']).mean():.1%}")
    print(f"next: python examples/04_serve_with_deadlines.py {folder}")


def save_images(folder: Path) -> None:
    """Save the training images, for calibration, and the 360 test images."""
    images, labels = load_all_images()
    unseen = np.zeros(len(images), bool)
    unseen[json.loads((DATA / "test_indices.json").read_text())] = True
    for name, chosen in (("train", ~unseen), ("test", unseen)):
        np.savez(folder / f"{name}.npz", pixel_values=images[chosen], labels=labels[chosen])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else mkdtemp(prefix="acm-export-example-")))
