"""Turn the embedded dense ViT into an ACM model, export it, and see what each budget costs.

Run: ``python examples/05_acmize_digits.py [FOLDER]``, about a minute on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID

from acm_export.checkpoints import load_checkpoint
from acm_export.demo.digits import DENSE, load_all_images
from acm_export.distillation.acmize import acmize
from acm_export.distillation.samples import open_samples, split
from acm_export.distillation.settings import Settings
from acm_export.export import export_checkpoint
from acm_export.report.distillation import result_table

SETTINGS = Settings(sites="ffn", steps=(60, 60, 150), learning_rates=(1e-3, 1e-3, 3e-4))
"""Of a short run; five times as many steps make a better model."""


class Bars:
    """What acmize tells while it works."""

    def __init__(self, bars: Progress) -> None:
        self._bars, self._task = bars, TaskID(0)

    def stage(self, title: str, batches: int | None) -> None:
        """A new line."""
        self._task = self._bars.add_task(title, total=batches)

    def batch(self, note: str = "") -> None:  # noqa: ARG002
        """One step further."""
        self._bars.advance(self._task)


def main(folder: Path) -> None:
    """Write the data, the ACM checkpoint and its ONNX file into ``folder``."""
    images, labels = load_all_images()
    np.savez(folder / "digits.npz", pixel_values=images, labels=labels)
    training, held_out = split(open_samples(str(folder / "digits.npz"), DENSE))
    with Progress(console=Console(stderr=True), transient=True) as bars:
        result = acmize(load_checkpoint(DENSE), training, held_out, SETTINGS, folder / "digits-acm", Bars(bars))
    export_checkpoint(load_checkpoint(result.output), folder / "digits-acm.onnx")
    Console(width=110).print(result_table(result))
    print("The dense model has seen most of these images in its training; benchmarks/acmize_digits.py has a fair test.")
    print(f"next: acm-export calibrate {folder / 'digits-acm.onnx'} --data {folder / 'digits.npz'} --budgets 0.25,0.5")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
