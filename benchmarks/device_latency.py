"""A whole ViT-B on a GPU: PyTorch with the kernels, ONNX Runtime on CUDA, TensorRT 8.5.3, each against its dense model.

PyTorch: models of the ViT-B/16 shape, compiled, in CUDA graphs (compiled_vit.py). The two runtimes: the verb
``latency`` on files and engines that are calibrated and built here, as a user would run it; its JSON and its plot are
kept with the result. A part that cannot run is recorded with the reason. Engines are built with ``--tensorrt85 DIR``,
an unpacked TensorRT 8.5.3 with its own ``python``, and ``--plugin85 LIB``.

    python benchmarks/device_latency.py --device h100 [--dtype bf16] [--parts pytorch] [--seconds 180]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from common import ResultFile, parser, print_table
from compiled_vit import DTYPES, SHARES, Measured, ViTBenchmark
from device_timing import device_facts
from random_vit import TINY, VIT_B, random_vit
from tensorrt85_kit import WITHOUT_CUBLAS, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from random_vit import Shape

BATCHES = (32, 8, 128, 1)
"""The most useful first."""

FILE_BATCHES = (1, 8, 32)
"""Batch sizes of the two runtimes; an engine's profile ends at the last."""

FILE_SHARES = (1.0, 0.75, 0.5, 0.25)
PARTS = ("pytorch", "files", "onnxruntime", "tensorrt85")
"""Parts of a run; ``files`` writes the files that the next two measure."""


def write_files(folder: Path, shape: Shape, samples: int) -> None:
    """``calibrated.onnx`` with a budget input, ``dense.onnx``, both float16 and verified, and ``images.npz``."""
    from calibration_vit import random_images

    from acm_export.calibration.calibrate import calibrate
    from acm_export.exporter import export

    example = {"pixel_values": torch.from_numpy(random_images(2, 0))}
    for name, acm in (("acm", True), ("dense", False)):
        model = random_vit(shape, acm=acm)
        export(model, example, folder / f"{name}.onnx", dtype="fp16", output_fields=["logits"])
    np.savez(folder / "images.npz", pixel_values=random_images(samples, 1))
    calibrate(
        folder / "acm.onnx",
        folder / "images.npz",
        FILE_SHARES[1:],
        folder / "calibrated.onnx",
        solver="uniform",
        budget_input=True,
        probe_samples=samples,
        batch=min(samples, 8),
    )


def verb(python: Path, folder: Path, environment: dict[str, str], *arguments: str) -> str:
    """Run a verb outside the checkout, which Python would import from; returns its standard output."""
    command = [str(python), "-m", "acm_export", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"acm-export {arguments[0]}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def flat(options: Mapping[str, str]) -> tuple[str, ...]:
    """Options and their values, in order, as arguments of a command."""
    return tuple(chain.from_iterable(options.items()))


def timed(
    run: Callable[..., str], model: str, dense: str, folder: Path, kept: Path, batches: tuple[int, ...], *more: str
) -> dict[str, Any]:
    """Run the verb ``latency``; its result and plot are written to ``kept`` with the suffixes .json and .svg."""
    options = {
        "--baseline": str(folder / dense),
        "--budgets": ",".join(f"{share:g}" for share in FILE_SHARES),
        "--data": str(folder / "images.npz"),
        "--batch": ",".join(map(str, batches)),
        "-o": str(kept.with_suffix(".json")),
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(run("latency", str(folder / model), "--json", *flat(options), *more))
    return found


def onnxruntime_cuda(folder: Path, kept: Path, batches: tuple[int, ...]) -> dict[str, Any]:
    """Time the portable file in ONNX Runtime's CUDA provider."""
    run = partial(verb, Path(sys.executable), folder, dict(os.environ))
    options = ("--runtime", "onnxruntime-cuda", "--plot", str(kept.with_suffix(".svg")))
    return timed(run, "calibrated.onnx", "dense.onnx", folder, kept, batches, *options)


def tensorrt85(folder: Path, kept: Path, batches: tuple[int, ...], options: argparse.Namespace) -> dict[str, Any]:
    """Build and time engines of both files with TensorRT 8.5.3, in its own Python."""
    run = partial(verb, options.tensorrt85.absolute() / "python", folder, environment(folder / "site"))
    shapes = f"pixel_values:{batches[-1]}x3x224x224"
    plugin = ("--plugin", str(options.plugin85.absolute()))
    build = {"--opt-shapes": shapes, "--max-shapes": shapes, "--timing-cache": str(folder / "timing.cache")}
    for name in ("calibrated", "dense"):
        files = (str(folder / f"{name}.onnx"), "-o", str(folder / f"{name}.plan"))
        run("build-engine", *files, "--no-check", *plugin, *flat(build), f"--tactic-sources={','.join(WITHOUT_CUBLAS)}")
    return timed(run, "calibrated.plan", "dense.plan", folder, kept, batches, *plugin)


def attempt(name: str, run: Callable[[], Any], reason: str = "") -> dict[str, Any]:
    """Run one part; returns its result, or the reason why there is none."""
    print(f"--- {name}", flush=True)
    if reason:
        print(f"not run: {reason}", flush=True)
        return {"state": "not run", "reason": reason}
    try:
        return {"state": "run", "result": run()}
    except Exception as error:  # noqa: BLE001  the other parts still run
        print(f"failed: {error}", flush=True)
        return {"state": "failed", "reason": str(error)}


def _needs_cuda_provider() -> str:
    if find_spec("onnxruntime") is None:
        return "ONNX Runtime is not installed"
    import onnxruntime

    there = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return "" if there else f"ONNX Runtime {onnxruntime.__version__} has no CUDA provider"


def part_names(text: str) -> tuple[str, ...]:
    """Parts named on the command line, separated by commas.

    Raises:
        argparse.ArgumentTypeError: One of them does not exist.
    """
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"unknown part '{unknown[0]}'; choose from {', '.join(PARTS)}")
    return names


def parts_to_run(requested: tuple[str, ...] | None, missing: dict[str, str]) -> tuple[str, ...]:
    """Parts in their order; by default PyTorch and every runtime that is installed.

    Args:
        requested: Parts given with ``--parts``, or None.
        missing: Why a runtime cannot run here, or an empty text.
    """
    wanted = set(requested or ("pytorch", *(name for name, reason in missing.items() if not reason)))
    if wanted & missing.keys():
        wanted.add("files")
    return tuple(name for name in PARTS if name in wanted)


def pytorch(options: argparse.Namespace, save: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Compiled models of the ViT-B/16 shape.

    Args:
        options: Parsed command line.
        save: Called with all results so far after each step.

    Raises:
        RuntimeError: Nothing could be measured.
    """
    shape, batches, rounds = (TINY, (2, 1), 1) if options.quick else (VIT_B, BATCHES, 9)
    deadline = time.monotonic() + options.seconds
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def save_part(measured: Measured) -> None:
        save({"state": "running", "result": measured.to_json()})

    measured = ViTBenchmark(shape, DTYPES[options.dtype], device, rounds, deadline, save_part).run(batches)
    _print_pytorch(measured)
    if not measured.rows:
        raise RuntimeError("; ".join(f"batch {p.batch}, {p.step}: {p.reason}" for p in measured.problems))
    return measured.to_json()


def _print_pytorch(measured: Measured) -> None:
    print_table(
        "PyTorch, CUDA graphs, everything compiled, against the dense model",
        ["model", "batch", "β", "µs", "dense µs", "÷ dense", "quartiles", "images/s", "dense images/s"],
        [
            [
                r.model,
                str(r.batch),
                _number(r.budget),
                f"{r.us:.0f}",
                f"{r.dense_us:.0f}",
                f"{r.ratio:.3f}",
                f"{r.ratio_q25:.3f}-{r.ratio_q75:.3f}",
                f"{r.images_per_s:.0f}",
                f"{r.dense_images_per_s:.0f}",
            ]
            for r in measured.rows
        ],
    )


def _print_runtime(name: str, result: dict[str, Any]) -> None:
    print_table(
        name,
        ["run", "batch", "β", "p50 ms", "p99 ms", "time ÷ dense"],
        [
            [
                run["routing"],
                str(next(iter(run["inputs"].values()))[0]),
                _number(run["budget_measured"]),
                f"{run['host_ms']['p50']:.3f}",
                f"{run['host_ms']['p99']:.3f}",
                f"{beside['ratio']:.3f}",
            ]
            for run, beside in zip(result["runs"], result["baseline"]["runs"], strict=True)
        ],
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _options() -> argparse.Namespace:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--dtype", choices=DTYPES, default="fp16", help="of the PyTorch part (%(default)s)")
    arguments.add_argument(
        "--parts", type=part_names, help=f"some of {','.join(PARTS)}; by default pytorch and the installed runtimes"
    )
    arguments.add_argument(
        "--seconds",
        type=float,
        default=180,
        help="time after which the PyTorch part starts no further step (%(default)s)",
    )
    arguments.add_argument("--tensorrt85", type=Path, help="folder of an unpacked TensorRT 8.5.3 with its python")
    arguments.add_argument("--plugin85", type=Path, help="plugin library built against the headers of 8.5")
    options = arguments.parse_args()
    if not torch.cuda.is_available() and not options.quick:
        sys.exit("error: PyTorch sees no GPU here; --quick tries the program on a CPU")
    return options


def main() -> None:
    """Measure all, print tables, write the result after each step; exit code 1 if a part failed."""
    options = _options()
    name = "_".join(["device_latency", *(() if options.dtype == "fp16" else (options.dtype,)), *(options.parts or ())])
    result = ResultFile(name, options, program="benchmarks/device_latency.py")
    shape, files = (TINY, (1, 2)) if options.quick else (VIT_B, FILE_BATCHES)
    case = {"shape": asdict(shape), "dtype": options.dtype, "shares": SHARES, "seconds": options.seconds}
    result.add_all({"device": device_facts() if torch.cuda.is_available() else None, "case": case})
    kept: Path = options.output.absolute() / options.device
    ending = "-quick" if options.quick else ""
    kit = options.tensorrt85 and options.plugin85
    missing = {
        "onnxruntime": _needs_cuda_provider(),
        "tensorrt85": "" if kit else "--tensorrt85 DIR and --plugin85 LIB were not given",
    }
    parts: dict[str, dict[str, Any]] = {}

    def save(part: str, content: dict[str, Any]) -> None:  # a part that fails keeps its earlier results
        parts[part] = parts.get(part, {}) | content
        result.add("parts", parts)

    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        runs: dict[str, Callable[[], Any]] = {
            "pytorch": partial(pytorch, options, partial(save, "pytorch")),
            "files": partial(write_files, folder, shape, 2 * files[-1]),
            "onnxruntime": partial(onnxruntime_cuda, folder, kept / f"latency_onnxruntime_cuda{ending}", files),
            "tensorrt85": partial(tensorrt85, folder, kept / f"latency_tensorrt85{ending}", files, options),
        }
        for part in parts_to_run(options.parts, missing):
            reason = missing.get(part, "")
            if part in missing and parts["files"]["state"] != "run":
                reason = "the files were not written"
            save(part, attempt(part, runs[part], reason))
            if part in missing and parts[part]["state"] == "run":
                _print_runtime(part, parts[part]["result"])
    print(f"wrote {result.path}")
    sys.exit(any(part["state"] == "failed" for part in parts.values()))


if __name__ == "__main__":
    main()
