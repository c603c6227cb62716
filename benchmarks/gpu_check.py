"""Everything that wants a GPU, in one command: correctness, compute-sanitizer, and the figures of the kernels.

    make gpu-check          or: python benchmarks/gpu_check.py --device h100

The limits of the steps add up to eight minutes. Each step is a process of its own; one that fails or is cut off does
not stop the next. What could not be run is recorded with the reason. The plugin is driven where TensorRT's headers are
found (TENSORRT_ROOT). With ``--tensorrt85 DIR``, an unpacked TensorRT 8.5.3 with its own ``python``, and
``--plugin85 LIB``, engines are built and run too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common import print_table, write_result
from device_timing import device_facts, gpu_options

if TYPE_CHECKING:
    import argparse

HERE = Path(__file__).parent
_KEPT_LINES = 40


@dataclass(frozen=True)
class Step:
    """One thing to check.

    Args:
        name: Of the step.
        command: Is run in the checkout.
        seconds: When it is cut off.
        needs: Why it cannot run here, or empty.
    """

    name: str
    command: tuple[str, ...]
    seconds: int
    needs: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a step: ``passed``, ``failed``, ``cut off`` or ``not run``, and the end of its output."""

    name: str
    state: str
    seconds: float
    summary: str
    output: tuple[str, ...]


def steps(options: argparse.Namespace) -> list[Step]:
    """All steps in order: what must hold first, what is measured last."""
    python = sys.executable
    sanitizer = shutil.which("compute-sanitizer") or ""
    missing = "" if sanitizer else "compute-sanitizer is not on the PATH"
    quick = ("--quick",) if options.quick else ()
    common = ("--device", options.device, "--output", str(options.output), *quick)
    kit = options.tensorrt85
    engine = ("--kit", str(kit), "--plugin", str(options.plugin85))
    return [
        Step("tests on the GPU", (python, "-m", "pytest", "-q", "-m", "gpu", "-rs", "tests"), 200),
        *[
            Step(
                f"compute-sanitizer {tool}",
                (sanitizer, "--tool", tool, "--error-exitcode", "9", python, str(HERE / "sanitizer_case.py")),
                seconds, missing,
            )
            for tool, seconds in (("memcheck", 60), ("racecheck", 35), ("initcheck", 35))
        ],
        Step(
            "TensorRT 8.5.3 builds and runs engines", (python, str(HERE / "tensorrt85_engines.py"), *engine), 75,
            "" if kit and options.plugin85 else "--tensorrt85 DIR and --plugin85 LIB were not given",
        ),
        Step("figures of the kernels", (python, str(HERE / "kernels.py"), *common), 75),
    ]  # fmt: skip


def run(step: Step) -> Outcome:
    """Run one step; its output goes to the screen and its end into the result."""
    print(f"--- {step.name}", flush=True)
    if step.needs:
        return Outcome(step.name, "not run", 0.0, step.needs, ())
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if "sanitizer" in step.name else None
    start = time.monotonic()
    try:
        done = subprocess.run(
            step.command, cwd=HERE.parent, env=environment, timeout=step.seconds, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        state, text = "passed" if done.returncode == 0 else "failed", done.stdout
    except subprocess.TimeoutExpired as error:
        state, text = "cut off", error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).replace(str(HERE.parent), ".").splitlines()
    print("\n".join(lines[-_KEPT_LINES:]), flush=True)
    summary = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Outcome(step.name, state, time.monotonic() - start, summary, tuple(lines[-_KEPT_LINES:]))


def main() -> None:
    """Run all steps, print a table, write the result; exit code 1 where a step failed."""
    options = gpu_options(__doc__ or "")
    outcomes = [run(step) for step in steps(options)]
    print_table(
        "gpu-check", ["step", "state", "seconds", "last line"],
        [[o.name, o.state, f"{o.seconds:.0f}", o.summary[:80]] for o in outcomes],
    )  # fmt: skip
    write_result("gpu_check", {"device": device_facts(), "steps": [asdict(o) for o in outcomes]}, options)
    sys.exit(any(o.state in ("failed", "cut off") for o in outcomes))


if __name__ == "__main__":
    main()
