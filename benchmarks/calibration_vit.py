"""Calibration of a model of the ViT-B/16 shape: budgets on unseen images, and the cost of margins and both dials.

Weights, gates and images are random, so budgets and times are meaningful and outputs are not.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from calibration_data import (
    LIMIT,
    REQUESTED,
    print_errors,
    table_errors,
    unlabelled,
    unseen,
)
from common import interleaved, parser, print_table, write_result
from random_vit import TINY, VIT_B, random_vit

from acm_export.calibration.calibrate import calibrate
from acm_export.calibration.evaluator import Evaluator
from acm_export.data.batches import Batch
from acm_export.exporter import export
from acm_export.onnx_file.manifest import Setting, read_manifest
from acm_export.onnx_file.model_file import data_files, read_model
from acm_export.onnx_file.rewrite import write_calibrated
from acm_export.onnx_file.set_budget import set_budget
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.runtimes.session import TappedSession

if TYPE_CHECKING:
    from random_vit import Shape


def random_images(samples: int, seed: int) -> np.ndarray[Any, Any]:
    """Images for the ViT shapes: a smooth random field for each, so that they differ from one another."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((samples, 3, 14, 14)).astype(np.float32)
    fine = 0.3 * rng.standard_normal((samples, 3, 224, 224)).astype(np.float32)
    return np.repeat(np.repeat(coarse, 16, axis=2), 16, axis=3) + fine


def vit(folder: Path, shape: Shape, *, samples: int) -> dict[str, Any]:
    """Budgets of a random model on unseen images; the solver is uniform, because its outputs are meaningless."""
    path = folder / "vit.onnx"
    example = torch.from_numpy(random_images(2, 0))
    export(random_vit(shape, acm=True), {"pixel_values": example}, path, verify=False, output_fields=["logits"])
    train, test = random_images(samples, 1), random_images(samples, 2)
    start = time.perf_counter()
    calibrated = calibrate(path, unlabelled(train), REQUESTED, folder / "vc.onnx", solver="uniform", batch=8)
    seconds = time.perf_counter() - start
    evaluator = unseen(TappedSession(path), unlabelled(test), 8)
    rows = table_errors(calibrated, evaluator)
    evaluator.close()
    return {"shape": shape.name, "samples": samples, "seconds": seconds, "errors": rows}


def costs(folder: Path, path: Path, calibrated: Path, *, quick: bool) -> dict[str, Any]:
    """Margins ÷ plain forward pass; the budget input ÷ the same file without."""
    session = TappedSession(path)
    feeds = {"pixel_values": random_images(8, 3)}
    zero = np.zeros(session.num_thresholds, np.float32)
    plain = CpuSession(read_model(path), folder)
    seven = {"pixel_values": feeds["pixel_values"][:7]}
    evaluator = Evaluator(session, lambda: iter([Batch(seven)]))
    rounds, runs = (1, 1) if quick else (7, 3)
    margins = interleaved(
        {"margins": lambda: evaluator.margins(zero)}, partial(plain.run, seven), rounds=rounds, runs=runs
    )["margins"]
    manifest = read_manifest(read_model(calibrated), calibrated)
    record = manifest.calibration
    if record is None:
        raise ValueError("not calibrated")
    default = record.trained_budget
    asked = manifest.replaced(setting=Setting(None, None, default), calibration=replace(record, budget_input=True))
    write_calibrated(path, asked, folder / "with.onnx")
    write_calibrated(path, manifest, folder / "without.onnx")
    set_budget(folder / "without.onnx", budget=default)
    with_input, fixed = (CpuSession(read_model(folder / f"{n}.onnx"), folder) for n in ("with", "without"))
    one = {"pixel_values": feeds["pixel_values"][:1]}
    budget = {"budget": np.array(default, np.float32)}
    dial = interleaved(
        {"input": partial(with_input.run, one | budget)}, partial(fixed.run, one), rounds=rounds * 3, runs=runs * 3
    )["input"]
    evaluator.close()
    return {"margins": vars(margins), "budget_input": vars(dial)}


def set_budget_ms(path: Path, *, quick: bool) -> dict[str, Any]:
    """Milliseconds of set-budget in this process, with the weights outside the file."""
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=1024)
    outside = [path.parent / name for name in data_files(read_model(path))]
    seconds = []
    for index in range(3 if quick else 20):
        start = time.perf_counter()
        set_budget(path, budget=(0.3, 0.6)[index % 2])
        seconds.append(time.perf_counter() - start)
    return {
        "ms_median": 1e3 * median(seconds),
        "ms_max": 1e3 * max(seconds),
        "external_bytes": sum(file.stat().st_size for file in outside),
    }


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__ or "").parse_args()
    quick = options.quick
    with TemporaryDirectory(prefix="acm-export-benchmark-") as name:
        folder = Path(name)
        payload: dict[str, Any] = {"limit": LIMIT, **vit(folder, TINY if quick else VIT_B, samples=10 if quick else 40)}
        payload["costs"] = costs(folder, folder / "vit.onnx", folder / "vc.onnx", quick=quick)
        payload["set_budget"] = set_budget_ms(folder / "vc.onnx", quick=quick)
    print_errors(payload["errors"], "budgets on unseen images")
    print_table(
        "costs",
        ("what", "value"),
        [
            ("margins ÷ plain forward", f"{payload['costs']['margins']['ratio']:.3f}"),
            ("budget input ÷ without", f"{payload['costs']['budget_input']['ratio']:.4f}"),
            ("set-budget, ms", f"{payload['set_budget']['ms_median']:.1f}"),
        ],
    )
    write_result("calibration_vit", payload, options)


if __name__ == "__main__":
    main()
