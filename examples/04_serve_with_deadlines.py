"""Serve requests with deadlines from one session: each runs at the largest budget whose measured p99 fits.

Run: ``python examples/04_serve_with_deadlines.py FOLDER``, where FOLDER contains calibrated.onnx and test.npz from
example 02. The first run measures this machine with ``acm-export latency`` and saves the result as latency.json.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from time import perf_counter

import numpy as np

try:
    import onnxruntime
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed; run: pip install '.[demo]'")

from acm_export.timing.result_file import read_result

MEASURE = ["latency", "calibrated.onnx", "--budgets", "0.25,0.4,0.6,1", "--data", "test.npz", "--runs", "200"]


def main(folder: Path) -> None:
    """Serve 1,000 requests; print, for each budget, the number of requests, the share in time, and the accuracy."""
    for name in ("calibrated.onnx", "test.npz"):
        if not (folder / name).is_file():
            sys.exit(f"{folder / name} does not exist; run: python examples/02_one_file_for_every_budget.py {folder}")
    if not (folder / "latency.json").is_file():
        command = [sys.executable, "-m", "acm_export", *MEASURE, "-o", "latency.json"]
        if subprocess.run(command, cwd=folder, check=False, stdout=subprocess.DEVNULL).returncode:
            sys.exit("the latency of calibrated.onnx was not measured; see the error above")
    p99 = measured_p99(folder / "latency.json")
    onnxruntime.set_default_logger_severity(3)  # errors only: it warns about a default that calls may override
    session = onnxruntime.InferenceSession(folder / "calibrated.onnx", providers=["CPUExecutionProvider"])
    test, rng = np.load(folder / "test.npz"), np.random.default_rng(0)
    images, labels = test["pixel_values"], test["labels"]
    session.run(["logits"], {"pixel_values": images[:1]})  # the first run is slow

    served: dict[float, list[tuple[bool, bool]]] = defaultdict(list)
    for _ in range(1000):
        i, deadline = rng.integers(len(images)), rng.uniform(0.8 * min(p99.values()), 1.2 * max(p99.values()))
        budget = choose(deadline, p99)
        start = perf_counter()
        (logits,) = session.run(["logits"], {"pixel_values": images[i : i + 1], "budget": np.array(budget, np.float32)})
        milliseconds = 1e3 * (perf_counter() - start)
        served[budget].append((milliseconds <= deadline, bool(logits[0].argmax() == labels[i])))
    for budget, outcomes in sorted(served.items()):
        in_time, right = np.mean(outcomes, axis=0)
        timing = f"p99 {p99[budget]:.2f} ms, {len(outcomes)} served, {in_time:.1%} in time"
        print(f"budget {budget:.2f}: {timing}, accuracy {right:.1%}")


def measured_p99(path: Path) -> dict[float, float]:
    """Return the p99 in milliseconds by budget, measured on real data."""
    runs = read_result(path).runs
    return {run.budget_requested: run.host_ms.p99 for run in runs if run.routing == "data" and run.budget_requested}


def choose(deadline: float, p99: dict[float, float]) -> float:
    """Return the largest budget that meets the deadline in 99 of 100 runs, or the fastest one if none does."""
    fitting = [budget for budget, milliseconds in p99.items() if milliseconds <= deadline]
    return max(fitting) if fitting else min(p99, key=lambda budget: p99[budget])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
