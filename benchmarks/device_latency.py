"""A whole ViT-B on a GPU: PyTorch with the kernels, ONNX Runtime on CUDA, TensorRT 8.5.3, each beside its dense model.

PyTorch: float16, each share of the learners in a CUDA graph of its own, beside the compiled dense model (device time;
device_timing.py). The two runtimes: the verb ``latency`` on files and engines calibrated and built here, as a user
would run it; its JSON and its picture are kept beside the result. What cannot run is recorded with the reason. With
``--tensorrt85 DIR``, an unpacked TensorRT 8.5.3 with its own ``python``, and ``--plugin85 LIB``, engines are built.

    python benchmarks/device_latency.py --device h100 [--tensorrt85 DIR --plugin85 LIB]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from calibration_vit import random_images
from common import print_table, write_result
from device_timing import Rotation, device_facts, gpu_options, interleaved
from random_vit import TINY, VIT_B, random_vit

from acm_export.calibration.calibrate import Options, calibrate
from acm_export.calibration.sources import NpzFile
from acm_export.export import export
from acm_export.modules import acm_layers
from acm_export.op.routing import learner_counts, margins

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from random_vit import Shape
    from torch import nn

    from acm_export.modules import ACMLayer
SHARES = (1.0, 0.75, 0.5, 0.25)
BATCHES = (1, 8, 32, 128)
FILE_BATCHES = (1, 8, 32)
"""Of the two runtimes; an engine's profile ends at the last."""

_ROTATED = 3
_WITHOUT_CUBLAS = "--tactic-sources=-CUBLAS,-CUBLAS_LT,-CUDNN"
"""The unpacked TensorRT has stand-ins for these libraries, which hold nothing."""

_PURE = ("rich", "markdown_it", "mdurl", "pygments", "click")
"""Packages that another Python may share with this one."""


@dataclass(frozen=True)
class Row:
    """PyTorch at one share: β as run, microseconds on the device, and ratio to the compiled dense model."""

    batch: int
    share: float
    budget: float
    us: float
    dense_us: float
    ratio: float
    ratio_q25: float
    ratio_q75: float


class Route:
    """A hook of a layer's gate that sets its thresholds to let a share of the margins pass, and counts what does."""

    def __init__(self, layer: ACMLayer, share: float, executed: list[float]) -> None:
        self._layer, self._share, self._executed = layer, share, executed

    def __call__(self, _gate: nn.Module, _args: object, logits: torch.Tensor) -> None:
        """Look at the gate logits of one pass."""
        z = logits.float().cpu().numpy()
        tau = -np.inf if self._share == 1 else float(np.quantile(margins(z), 1 - self._share))
        self._layer.thresholds.fill_(tau)
        thresholds = self._layer.thresholds.cpu().numpy()
        self._executed.append(float(learner_counts(z, thresholds, 0).mean()) / len(thresholds))


def route(model: nn.Module, images: torch.Tensor, share: float) -> float:
    """Set the thresholds of every layer, in the order in which they run; returns β."""
    executed: list[float] = []
    handles = [layer.gate.register_forward_hook(Route(layer, share, executed)) for _, layer in acm_layers(model)]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return float(np.mean(executed))


def pytorch_rows(shape: Shape, batches: tuple[int, ...], rounds: int) -> list[Row]:
    """Every batch and share beside the compiled dense model."""
    acm = random_vit(shape, acm=True).half().cuda()
    dense = torch.compile(random_vit(shape, acm=False).half().cuda())
    rows: list[Row] = []
    for batch in batches:
        images = [torch.from_numpy(random_images(batch, seed)).half().cuda() for seed in range(_ROTATED)]
        models = {share: deepcopy(acm) for share in SHARES}  # thresholds are read when a graph is replayed
        budgets = {share: route(model, images[0], share) for share, model in models.items()}
        with torch.no_grad():
            cases = {share: Rotation([partial(model, i) for i in images]) for share, model in models.items()}
            timings = interleaved(cases, Rotation([partial(dense, i) for i in images]), rounds=rounds)
        rows += [
            Row(batch, share, budgets[share], t.us, t.baseline_us, t.ratio, t.ratio_q25, t.ratio_q75)
            for share, t in timings.items()
        ]
    return rows


def write_files(folder: Path, shape: Shape, samples: int) -> None:
    """``calibrated.onnx`` with a budget input, ``dense.onnx``, both float16 and verified, and ``images.npz``."""
    example = {"pixel_values": torch.from_numpy(random_images(2, 0))}
    for name, acm in (("acm", True), ("dense", False)):
        model = random_vit(shape, acm=acm)
        export(model, example, folder / f"{name}.onnx", dtype="fp16", output_fields=["logits"])
    np.savez(folder / "images.npz", pixel_values=random_images(samples, 1))
    calibrate(
        folder / "acm.onnx", NpzFile(folder / "images.npz"), SHARES[1:], folder / "calibrated.onnx",
        Options(solver="uniform", budget_input=True, probe_samples=samples, batch_size=min(samples, 8)),
    )  # fmt: skip


def verb(python: Path, folder: Path, environment: dict[str, str], *arguments: str) -> str:
    """Run a verb in a folder, not in the checkout, which Python would import from; returns its standard output."""
    command = [str(python), "-m", "acm_export.cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"acm-export {arguments[0]}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def timed(
    run: Callable[..., str], model: str, dense: str, folder: Path, kept: Path, batches: tuple[int, ...], *more: str
) -> dict[str, Any]:
    """The verb ``latency``; its result and its picture lie in ``kept`` with the endings .json and .svg."""
    budgets = ",".join(f"{share:g}" for share in SHARES)
    kept.parent.mkdir(parents=True, exist_ok=True)
    text = run(
        "latency", str(folder / model), "--baseline", str(folder / dense), "--budgets", budgets,
        "--data", str(folder / "images.npz"), "--batch", ",".join(map(str, batches)), "--json",
        "-o", str(kept.with_suffix(".json")), *more,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(text)
    return found


def onnxruntime_cuda(folder: Path, kept: Path, batches: tuple[int, ...]) -> dict[str, Any]:
    """The portable file in ONNX Runtime's CUDA provider."""
    run = partial(verb, Path(sys.executable), folder, dict(os.environ))
    options = ("--runtime", "onnxruntime-cuda", "--plot", str(kept.with_suffix(".svg")))
    return timed(run, "calibrated.onnx", "dense.onnx", folder, kept, batches, *options)


def tensorrt85(folder: Path, kept: Path, batches: tuple[int, ...], options: argparse.Namespace) -> dict[str, Any]:
    """Engines of both files, built and timed by TensorRT 8.5.3 in a Python of its own."""
    environment = os.environ | {"PYTHONPATH": str(_site(folder / "site"))}
    run = partial(verb, options.tensorrt85.absolute() / "python", folder, environment)
    shape = f"{batches[-1]}x3x224x224"
    for name in ("calibrated", "dense"):
        run(
            "build-engine", str(folder / f"{name}.onnx"), "-o", str(folder / f"{name}.plan"), "--no-check",
            "--plugin", str(options.plugin85.absolute()),
            "--opt-shapes", f"pixel_values:{shape}",
            "--max-shapes", f"pixel_values:{shape}", "--timing-cache", str(folder / "timing.cache"), _WITHOUT_CUBLAS,
        )  # fmt: skip
    plugin = ("--plugin", str(options.plugin85.absolute()))
    return timed(run, "calibrated.plan", "dense.plan", folder, kept, batches, *plugin)


def _site(folder: Path) -> Path:
    """A folder with this checkout's package and what it needs of this Python, for another Python."""
    root, package = Path(__file__).parent.parent, folder / "acm_export"
    package.mkdir(parents=True)
    for part in (*(root / "acm_export").iterdir(), root / "calibration", root / "plugins"):
        (package / part.name).symlink_to(part)
    for name in _PURE:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            (folder / name).symlink_to(Path(spec.origin).parent)
    return folder


def attempt(name: str, run: Callable[[], Any], reason: str = "") -> dict[str, Any]:
    """What came of one part: its result, or why there is none."""
    print(f"--- {name}", flush=True)
    if reason:
        print(f"not run: {reason}", flush=True)
        return {"state": "not run", "reason": reason}
    try:
        return {"state": "run", "result": run()}
    except Exception as error:  # noqa: BLE001  the other parts are worth having
        print(f"failed: {error}", flush=True)
        return {"state": "failed", "reason": str(error)}


def _needs_cuda_provider() -> str:
    if find_spec("onnxruntime") is None:
        return "ONNX Runtime is not installed"
    import onnxruntime

    there = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return "" if there else f"ONNX Runtime {onnxruntime.__version__} has no CUDA provider"


def main() -> None:
    """Measure all, print tables, write the result; exit code 1 where a part failed."""
    options = gpu_options(__doc__ or "")
    shape, batches, files, rounds = (TINY, (1, 2), (1, 2), 2) if options.quick else (VIT_B, BATCHES, FILE_BATCHES, 9)
    kept: Path = options.output.absolute() / options.device
    no_kit = "" if options.tensorrt85 and options.plugin85 else "--tensorrt85 DIR and --plugin85 LIB were not given"
    parts: dict[str, dict[str, Any]] = {}
    parts["pytorch"] = attempt("PyTorch", lambda: [asdict(row) for row in pytorch_rows(shape, batches, rounds)])
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts["files"] = attempt("files", lambda: write_files(folder, shape, 2 * files[-1]))
        no_files = "" if parts["files"]["state"] == "run" else "the files were not made"
        ending = "-quick" if options.quick else ""
        parts["onnxruntime_cuda"] = attempt(
            "ONNX Runtime", lambda: onnxruntime_cuda(folder, kept / f"latency_onnxruntime_cuda{ending}", files),
            no_files or _needs_cuda_provider(),
        )  # fmt: skip
        parts["tensorrt85"] = attempt(
            "TensorRT 8.5.3", lambda: tensorrt85(folder, kept / f"latency_tensorrt85{ending}", files, options),
            no_files or no_kit,
        )  # fmt: skip
    _print(parts)
    case = {"shape": asdict(shape), "dtype": "fp16", "shares": SHARES}
    write_result("device_latency", {"device": device_facts(), "case": case, "parts": parts}, options)
    sys.exit(any(part["state"] == "failed" for part in parts.values()))


def _print(parts: dict[str, dict[str, Any]]) -> None:
    rows = parts["pytorch"].get("result", [])
    print_table(
        "PyTorch with CUDA graphs against the compiled dense model", ["batch", "β", "us", "dense us", "time ÷ dense"],
        [[str(r["batch"]), f"{r['budget']:.3f}", f"{r['us']:.0f}", f"{r['dense_us']:.0f}", f"{r['ratio']:.3f}"]
         for r in rows],
    )  # fmt: skip
    for name in ("onnxruntime_cuda", "tensorrt85"):
        if parts[name]["state"] != "run":
            continue
        result = parts[name]["result"]
        print_table(
            name, ["run", "batch", "β", "p50 ms", "p99 ms", "time ÷ dense"],
            [[run["routing"], str(next(iter(run["inputs"].values()))[0]), _number(run["budget_measured"]),
              f"{run['host_ms']['p50']:.3f}", f"{run['host_ms']['p99']:.3f}", f"{beside['ratio']:.3f}"]
             for run, beside in zip(result["runs"], result["baseline"]["runs"], strict=True)],
        )  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
