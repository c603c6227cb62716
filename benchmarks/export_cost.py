"""Measure what an export costs: seconds, and peak memory against the size of the weights.

What: ViT-B/16, ViT-L/16 and ViT-H/16 shapes (the last one over 2 GiB) with ACM layers instead of their MLPs, N = 4,
h = ffn / 4, random float32 weights, saved as checkpoint folders. Measured is what ``acm-export export`` does:
``load_checkpoint`` and ``export``, with verification and without.

How: every case runs in a separate process, started from a small one, so that the resident peak (``getrusage``) is its
own. Seconds are split into imports, load, and export with its verification. Memory is reported twice: the whole peak ÷
weights, and the growth since the imports ÷ weights. The limit of 3 is for the growth: the imports alone
are 0.4 GB, more than the weights of ViT-B. Pages of files that are only
mapped, as safetensors maps the weights, are part of the peak, as the system counts them.

Checkpoints and files go to the system's temporary folder (``TMPDIR``) and are removed; free space is checked first.

Run: ``python benchmarks/export_cost.py [--quick]``
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import parser, print_table, write_result

LIMIT = 3.0
DISK_COPIES = 4
"""Disk space of a case in multiples of the weights: checkpoint, file, and the staged file while it is written."""

SHAPES, QUICK = ("VIT_B", "VIT_L", "VIT_H"), ("TINY",)
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Row:
    """One export; bytes and seconds."""

    shape: dict[str, Any]
    verify: bool
    parameters: int
    weights_bytes: int
    file_bytes: int
    seconds: dict[str, float]
    rss_after_imports: int
    rss_after_load: int
    peak_rss: int
    peak_ratio: float
    growth_ratio: float
    limit: float
    within_limit: bool


def peak_rss() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """In a separate process: save a random checkpoint; returns its shape."""
    import random_vit

    from acm_export.checkpoints import save_checkpoint

    shape: random_vit.Shape = getattr(random_vit, name)
    free, needed = shutil.disk_usage(folder).free, DISK_COPIES * shape.weights_bytes
    if free < needed:
        raise SystemExit(f"{shape.name} needs {needed} bytes in the temporary folder, {free} are free")
    save_checkpoint(random_vit.random_vit(shape, acm=True), folder / "checkpoint", source={"weights": "random"})
    return asdict(shape)


def measure(folder: Path, *, verify: bool) -> dict[str, Any]:
    """In a separate process: load and export once."""
    times = [time.perf_counter()]
    from acm_export.checkpoints import load_checkpoint
    from acm_export.exporter import export

    times.append(time.perf_counter())
    after_imports = peak_rss()
    checkpoint = load_checkpoint(folder / "checkpoint")
    times.append(time.perf_counter())
    after_load = peak_rss()
    result = export(checkpoint, output=folder / "model.onnx", verify=verify)
    times.append(time.perf_counter())
    peak = peak_rss()
    tensors = checkpoint.model.state_dict().values()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    files = [path for path in (result.path, result.data_path) if path is not None]
    spans = [end - start for start, end in pairwise(times)]
    return {
        "verify": verify,
        "parameters": sum(tensor.numel() for tensor in tensors),
        "weights_bytes": weights,
        "file_bytes": sum(path.stat().st_size for path in files),
        "seconds": dict(zip(("imports", "load", "export"), spans, strict=True)),
        "rss_after_imports": after_imports,
        "rss_after_load": after_load,
        "peak_rss": peak,
        "peak_ratio": peak / weights,
        "growth_ratio": (peak - after_imports) / weights,
        "limit": LIMIT,
        "within_limit": (peak - after_imports) / weights <= LIMIT,
    }


def in_own_process(*arguments: str) -> tuple[dict[str, Any], float]:
    """Run a step of this program; returns what it printed last and its seconds from start to end."""
    start = time.perf_counter()
    command = [sys.executable, str(Path(__file__).resolve()), "--step", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the step {arguments[0]} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - start


def cost(name: str) -> list[Row]:
    """One shape, with and without verification."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        shape, _ = in_own_process("prepare", name, folder)
        for step in ("verified", "unverified"):
            print(f"exporting {shape['name']}, {step}", file=sys.stderr)
            found, wall = in_own_process(step, name, folder)
            found["seconds"]["process"] = wall
            rows.append(Row(shape=shape, **found))
            for path in Path(folder).glob("model*"):
                path.unlink()
    return rows


def main() -> None:
    """Measure every shape, print and write; or run one step for the process that measures."""
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--step", nargs=3, metavar=("STEP", "SHAPE", "FOLDER"), help=argparse.SUPPRESS)
    options = options_parser.parse_args()
    if options.step:
        step, name, folder = options.step
        found = prepare(name, Path(folder)) if step == "prepare" else measure(Path(folder), verify=step == "verified")
        print(json.dumps(found))
        return
    rows = [row for name in (QUICK if options.quick else SHAPES) for row in cost(name)]
    columns = (
        "shape",
        "verified",
        "weights MB",
        "file MB",
        "imports s",
        "load s",
        "export s",
        "process s",
        "peak MB",
        "peak ÷ weights",
        "growth ÷ weights",
        f"limit {LIMIT:g}",
    )
    table = [
        (
            r.shape["name"],
            "yes" if r.verify else "no",
            f"{r.weights_bytes / 1e6:.1f}",
            f"{r.file_bytes / 1e6:.1f}",
            *(f"{r.seconds[part]:.1f}" for part in ("imports", "load", "export", "process")),
            f"{r.peak_rss / 1e6:.0f}",
            f"{r.peak_ratio:.2f}",
            f"{r.growth_ratio:.2f}",
            "ok" if r.within_limit else "over",
        )
        for r in rows
    ]
    print_table("Export: checkpoint folder to ONNX file", columns, table)
    write_result("export_cost", {"limit": LIMIT, "rows": [asdict(row) for row in rows]}, options)


if __name__ == "__main__":
    main()
