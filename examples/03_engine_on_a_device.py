"""Build an engine on a machine with TensorRT and a GPU, and measure what each budget costs there.

Run: ``python examples/03_engine_on_a_device.py FOLDER [--dry-run]``, where FOLDER contains calibrated.onnx and test.npz
from example 02. PyTorch is not needed, and with a platform wheel no compiler: build-engine writes the prebuilt plugin
next to the engine. ``--dry-run`` prints what would be built and needs neither TensorRT nor a GPU.
Not yet tested beyond --dry-run.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

MODEL, ENGINE = "calibrated.onnx", "calibrated.plan"

BUILD = ["build-engine", MODEL, "-o", ENGINE, "--timing-cache", "timing.cache"]
MEASURE = ["latency", ENGINE, "--budgets", "0.25,0.5,1", "--data", "test.npz", "-o", "engine.json"]


def main(folder: Path, *, dry_run: bool) -> int:
    """Run the verbs in the folder in order and stop at the first failure; return its exit code."""
    if not (folder / MODEL).is_file():
        print(f"{folder / MODEL} does not exist; run: python examples/02_one_file_for_every_budget.py {folder}")
        return 1
    if dry_run:
        return run(folder, [*BUILD, "--dry-run"])
    if find_spec("tensorrt") is None:
        print("this Python has no TensorRT; to see how to install it, run: acm-export doctor --for tensorrt")
        return 1
    steps = (
        (BUILD, "the engine was not built; to see what is missing here, run: acm-export doctor --for tensorrt"),
        (MEASURE, "the engine was built, but not measured"),
    )
    for step, meaning in steps:
        code = run(folder, step)
        if code:
            print(f"stopped: {meaning}")
            return code
    return 0


def run(folder: Path, arguments: list[str]) -> int:
    """Print a command as a user would type it, then run it."""
    print("$ acm-export", *arguments, flush=True)
    return subprocess.run([sys.executable, "-m", "acm_export", *arguments], cwd=folder, check=False).returncode


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--dry-run"]
    sys.exit(main(Path(words[0]) if words else Path(), dry_run="--dry-run" in sys.argv))
