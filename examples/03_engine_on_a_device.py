"""On a machine with TensorRT and a GPU: plugin, engine, and what each budget costs there.

Run: ``python examples/03_engine_on_a_device.py FOLDER [--dry-run]``, where FOLDER has calibrated.onnx and test.npz of
example 02. PyTorch is not needed. With ``--dry-run`` it says what would be built, and needs neither TensorRT nor a GPU.
Not yet run beyond --dry-run.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

LIBRARY, MODEL, ENGINE = "libacm_gated_learners.so", "calibrated.onnx", "calibrated.plan"

CHECK = ["doctor", "--for", "tensorrt", "--plugin", LIBRARY]
PLUGIN = ["build-plugin", "-o", LIBRARY]
BUILD = ["build-engine", MODEL, "-o", ENGINE, "--plugin", LIBRARY, "--timing-cache", "timing.cache"]
MEASURE = ["latency", ENGINE, "--budgets", "0.25,0.5,1", "--data", "test.npz", "-o", "engine.json"]


def main(folder: Path, *, dry_run: bool) -> int:
    """Run the verbs in the folder, one after the other, until one fails; the exit code is that of the last."""
    if not (folder / MODEL).is_file():
        print(f"there is no {folder / MODEL}: run examples/02_one_file_for_every_budget.py {folder} first")
        return 1
    if dry_run:
        return run(folder, [*BUILD, "--dry-run"])
    if find_spec("tensorrt") is None:
        print("this Python has no TensorRT; how to install it is said by: acm-export doctor --for tensorrt")
        return 1
    steps = (  # the doctor looks at the finished plugin library, too
        (PLUGIN, "the plugin needs the headers of this machine's TensorRT and a C++ compiler"),
        (CHECK, "engines cannot be built or run here; the table above says what is missing and how to fix it"),
        (BUILD, "TensorRT did not build the engine"),
        (MEASURE, "the engine was built, but not measured"),
    )
    for step, meaning in steps:
        code = run(folder, step)
        if code:
            print(f"stopped: {meaning}")
            return code
    return 0


def run(folder: Path, arguments: list[str]) -> int:
    """One verb, shown as it would be typed."""
    print("$ acm-export", *arguments, flush=True)
    return subprocess.run([sys.executable, "-m", "acm_export", *arguments], cwd=folder, check=False).returncode


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--dry-run"]
    sys.exit(main(Path(words[0]) if words else Path(), dry_run="--dry-run" in sys.argv))
