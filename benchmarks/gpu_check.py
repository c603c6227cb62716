"""Run everything that needs a GPU, in stages of at most 3.5 minutes: tests, figures, tuning, sanitizer, engines.

    make gpu-check          or: python benchmarks/gpu_check.py --stage correctness --device h100

Without --stage all stages run. Each step is a program with a time limit; one that fails or is cut off does not stop the
next. OUTPUT/DEVICE/gpu_check.json is rewritten after every step and keeps the steps of earlier calls on the same GPU;
gpu_check-STAGE.log has all output. What cannot run is recorded with the reason. The plugin is tested where TensorRT's
headers are found (TENSORRT_ROOT). The stage engines needs --tensorrt85 DIR, an unpacked TensorRT 8.5.3 with its own
python, and --plugin85 LIB.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import ResultFile, parser, print_table
from step_runner import GRACE, ROOT, SEARCH_PATH, TIME_LEFT, Interruption, Outcome, Step, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

HERE = Path(__file__).resolve().parent
SECONDS = 210.0
_TEST_PROCESSES = 8


def python(program: str, *arguments: str) -> tuple[str, ...]:
    """Command of a program in this folder."""
    return (sys.executable, str(HERE / program), *arguments)


def result_options(options: argparse.Namespace) -> tuple[str, ...]:
    """Options that every program with a result takes."""
    return ("--device", options.device, "--output", str(options.output), *(["--quick"] if options.quick else []))


def correctness(options: argparse.Namespace) -> list[Step]:
    """The op against float64, then the tests that need a GPU."""
    return [
        Step("compile kernels of the smoke test", python("warm_kernels.py", "smoke"), 0.3),
        Step("smoke test", python("gpu_smoke.py", *result_options(options)), 0.4),
        Step("tests on the GPU", gpu_tests()),
    ]


def gpu_tests() -> tuple[str, ...]:
    """Run pytest on the files with tests that need a GPU, in several processes if pytest-xdist is installed.

    With -v a failed test is named at once, even in a run that is cut off.
    """
    marked = [str(path) for path in sorted(ROOT.glob("tests/**/test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    processes = str(min(_TEST_PROCESSES, os.cpu_count() or 1))
    parallel = ["-n", processes] if find_spec("xdist") else []
    return (sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-rs", "-p", "no:cacheprovider", *parallel, *marked)


def figures(options: argparse.Namespace) -> list[Step]:
    """The kernels against the dense MLP, cuBLAS and other ways to skip learners."""
    return [
        Step("compile kernels of the figures", python("warm_kernels.py", "figures"), 0.3),
        Step("figures", python("kernels.py", *result_options(options), "--seconds", TIME_LEFT)),
    ]


def tune(options: argparse.Namespace) -> list[Step]:
    """Tile sizes for this GPU, and the figures with them, in a separate folder."""
    tiles = options.output / options.device / f"tiles{'-quick' if options.quick else ''}.json"
    tuned = argparse.Namespace(**vars(options) | {"output": options.output / "tuned"})
    return [
        Step("tune tiles", python("tune_kernels.py", *result_options(options), "--seconds", TIME_LEFT), 0.65),
        Step(
            "figures with tuned tiles",
            python("kernels.py", *result_options(tuned), "--tiles", str(tiles), "--seconds", TIME_LEFT),
            needs=tiles,
        ),
    ]


def model(options: argparse.Namespace) -> list[Step]:
    """A whole ViT-B against its dense model."""
    engines = ("--tensorrt85", str(options.tensorrt85), "--plugin85", str(options.plugin85))
    given = engines if options.tensorrt85 and options.plugin85 else ()
    return [Step("whole model", python("device_latency.py", *result_options(options), "--seconds", TIME_LEFT, *given))]


def sanitizer(_options: argparse.Namespace) -> list[Step]:
    """The kernels under compute-sanitizer."""
    program = shutil.which("compute-sanitizer", path=SEARCH_PATH) or ""
    missing = "" if program else "compute-sanitizer is neither on the PATH nor in /usr/local/cuda/bin"
    return [
        Step("compile kernels of the sanitizer's case", python("warm_kernels.py", "sanitizer"), 0.2, missing),
        *[
            Step(
                f"compute-sanitizer {tool}",
                (program, "--tool", tool, "--error-exitcode", "9", *python("sanitizer_case.py")),
                share,
                missing,
                environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            )
            for tool, share in (("memcheck", 0.4), ("racecheck", 0.4), ("initcheck", 1.0))
        ],
    ]


def engines(options: argparse.Namespace) -> list[Step]:
    """Engines of TensorRT 8.5.3 with the plugin: compared with the portable file, then timed beside dense engines."""
    missing = "" if options.tensorrt85 and options.plugin85 else "--tensorrt85 DIR and --plugin85 LIB were not given"
    kit, library, common = str(options.tensorrt85), str(options.plugin85), result_options(options)
    compared = python("tensorrt85_engines.py", *common, "--kit", kit, "--plugin", library)
    timed = ("--parts", "tensorrt85", "--tensorrt85", kit, "--plugin85", library)
    return [
        Step("engines of TensorRT 8.5.3 against the portable file", compared, 0.5, missing=missing),
        Step(
            "latency of engines of TensorRT 8.5.3",
            python("device_latency.py", *common, *timed, "--seconds", TIME_LEFT),
            missing=missing,
        ),
    ]


STAGES: Mapping[str, Callable[[argparse.Namespace], list[Step]]] = {
    stage.__name__: stage for stage in (correctness, figures, tune, model, sanitizer, engines)
}


class Record:
    """Outcomes by step, on disk after each one, together with those of earlier calls on the same GPU."""

    def __init__(self, result: ResultFile, device: Mapping[str, object]) -> None:
        self._result = result
        self._steps = {step["name"]: step for step in _earlier_steps(result.path, device)}
        result.add("steps", list(self._steps.values()))
        result.add("device", dict(device))

    def add(self, outcome: Outcome) -> None:
        """Write an outcome; it replaces an earlier one of the same step."""
        self._steps[outcome.name] = asdict(outcome)
        self._result.add("steps", list(self._steps.values()))


def _earlier_steps(path: Path, device: Mapping[str, object]) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text())
        return list(content["steps"]) if content["device"]["gpu"] == device["gpu"] else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def run_stage(
    stage: str, steps: Iterable[Step], *, seconds: float, log: Path, record: Record, interruption: Interruption
) -> list[Outcome]:
    """Run the steps of a stage one after the other and record each.

    Args:
        stage: Name of the stage.
        steps: Steps, in the order in which they run.
        seconds: Time limit of the whole stage, including the time to stop a step.
        log: Log file of the stage; it is replaced.
        record: Record that receives every outcome.
        interruption: Interruption that ends the running step and starts no other.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    began, deadline = time.time(), time.monotonic() + seconds - GRACE
    outcomes: list[Outcome] = []
    for step in steps:
        if interruption.number:
            break
        print(f"--- {step.name}", flush=True)
        limit = min(step.share * seconds, deadline - time.monotonic())
        if missing := step.missing or _unwritten(step.needs, began):
            outcome = Outcome(stage, step.name, "not run", missing)
        elif limit < 1:
            outcome = Outcome(stage, step.name, "cut off", f"earlier steps used up the stage's {seconds:.0f} s")
        else:
            outcome = run(step, stage, limit, log, interruption)
        print("\n".join([*outcome.output, f"{outcome.state} {outcome.reason}".strip()]), flush=True)
        record.add(outcome)
        outcomes.append(outcome)
    return outcomes


def _unwritten(path: Path | None, began: float) -> str:
    """Why a file that this stage should have written cannot be used; empty if it can."""
    written = path is None or (path.is_file() and path.stat().st_mtime >= began)
    return "" if written else f"{path.name if path else ''} was not written by the step before"


def device_facts() -> dict[str, Any]:
    """Describe the device from a separate process, so that this one never uses the GPU.

    Raises:
        SystemExit: PyTorch sees no GPU.
    """
    code = "import json, device_timing; print(json.dumps(device_timing.device_facts()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, check=False, text=True, capture_output=True)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["no output"]
    if done.returncode:
        sys.exit(f"error: PyTorch of {sys.executable} sees no GPU here: {lines[-1]}")
    facts: dict[str, Any] = json.loads(lines[-1])
    return facts


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options; ``stage`` lists the stages in the order in which they run."""
    options = parser(__doc__ or "")
    options.set_defaults(device="gpu")
    options.add_argument("--stage", choices=STAGES, action="append", help="run only this one; repeat for several")
    options.add_argument("--seconds", type=_seconds, default=SECONDS, help="time limit of a stage (%(default)g)")
    options.add_argument("--tensorrt85", type=Path, help="folder of an unpacked TensorRT 8.5.3 with its python")
    options.add_argument("--plugin85", type=Path, help="plugin library built against the headers of 8.5")
    given = options.parse_args(arguments)
    given.stage = [stage for stage in STAGES if not given.stage or stage in given.stage]
    for name in ("output", "tensorrt85", "plugin85"):  # steps run in the checkout, regardless of the working folder
        if path := getattr(given, name):
            setattr(given, name, path.absolute())
    return given


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not GRACE < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a valid time limit; give more than {GRACE:g} seconds")
    return value


def main() -> None:
    """Run the stages and print a table; exit code 1 if a step failed or was cut off."""
    options = parse()
    interruption = Interruption()
    result = ResultFile("gpu_check", options)
    record = Record(result, device_facts())
    interruption.watch()
    outcomes: list[Outcome] = []
    for stage in options.stage:
        log = result.path.with_name(f"gpu_check-{stage}.log")
        outcomes += run_stage(
            stage, STAGES[stage](options), seconds=options.seconds, log=log, record=record, interruption=interruption
        )
    print_table(
        "gpu-check",
        ["step", "state", "seconds", "reason or last line"],
        [[o.name, o.state, f"{o.seconds:.0f}", (o.reason or "".join(o.output[-1:]))[:80]] for o in outcomes],
    )
    print(f"wrote {result.path}")
    sys.exit(128 + interruption.number if interruption.number else any(o.is_failure for o in outcomes))


if __name__ == "__main__":
    main()
