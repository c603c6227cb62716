"""Compile the kernels that a program will use into Triton's disk cache, many at a time.

    python benchmarks/warm_kernels.py smoke

Each process runs the op once for one shape and dtype, so Triton compiles what that launch needs. Without this the
program compiles its kernels one after the other, on one core.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TYPE_CHECKING

import torch
from gpu_smoke import CASES, Case, run
from sanitizer_case import SHAPES

from acm_export.op.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Launch = tuple[Case, torch.dtype]
HALF = (torch.float16, torch.bfloat16)


def smoke() -> list[Launch]:
    """Launches of gpu_smoke.py."""
    return [(case, dtype) for case in CASES for dtype in (*HALF, torch.float32)]


def figures() -> list[Launch]:
    """Launches of kernels.py, in bfloat16."""
    from kernel_bench import Setting

    setting = Setting()
    shapes = [(tokens, setting.sizes) for tokens in (setting.batch, setting.image, *setting.few)]
    cases = [
        Case(tokens, d, h, Signature(n, 0, "gelu")) for tokens, (d, h, n) in [*shapes, (setting.batch, setting.wide)]
    ]
    return [(case, torch.bfloat16) for case in cases]


def sanitizer() -> list[Launch]:
    """Launches of sanitizer_case.py."""
    cases = [Case(tokens, d, h, Signature(n, 0, "gelu")) for tokens, d, h, n in SHAPES]
    return [(case, dtype) for case in cases for dtype in (*HALF, torch.float32)]


PROGRAMS: Mapping[str, Callable[[], list[Launch]]] = {
    "smoke": smoke,
    "figures": figures,
    "sanitizer": sanitizer,
}


def launch(case: Case, dtype: torch.dtype) -> float:
    """Run the op once; returns seconds."""
    start = time.monotonic()
    run(case.inputs(dtype))
    torch.cuda.synchronize()
    return time.monotonic() - start


def main() -> None:
    """Compile; exit code 1 if a launch fails."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("program", choices=PROGRAMS, help="program whose kernels to compile")
    launches = PROGRAMS[options.parse_args().program]()
    if not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU here")
    failed = 0
    processes = min(os.cpu_count() or 1, len(launches))
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        running = {pool.submit(launch, *one): one for one in launches}
        for future in as_completed(running):
            case, dtype = running[future]
            error = future.exception()
            failed += error is not None
            result = f"FAILED: {str(error)[:300]}" if error else f"{future.result():.1f} s"
            print(f"{case}, {dtype}: {result}", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
