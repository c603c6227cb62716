"""Time on the GPU itself: CUDA graphs over rotating inputs, device events, cases and their baseline in one run.

A graph leaves out the time that Python takes to launch. Several input sets rotate, so that no run finds its inputs in
the cache from the run before. Blocks of the baseline and of the cases alternate; a ratio is a
case's block over the mean of the baseline's blocks before and after it; the result is the median over the rounds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from common import parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
    from typing import TypeVar

    Key = TypeVar("Key", bound=Hashable)

_WARM_UP_RUNS = 3

_SETTLING_MS = 20.0
"""The baseline runs this long before anything counts, so that the GPU's clock has settled."""


@dataclass(frozen=True)
class DeviceTiming:
    """Time of a case compared with its baseline.

    Args:
        us: Microseconds of one run, median over the blocks.
        baseline_us: Microseconds of one run of the baseline.
        ratio: Case ÷ baseline, median over the rounds.
        ratio_q25: Lower quartile.
        ratio_q75: Upper quartile.
    """

    us: float
    baseline_us: float
    ratio: float
    ratio_q25: float
    ratio_q75: float


class Rotation:
    """Calls captured as CUDA graphs, one for each input set, replayed in turn.

    Args:
        calls: The same work on different inputs; nothing in it may wait for the device.
    """

    def __init__(self, calls: Sequence[Callable[[], object]]) -> None:
        graphs = [_capture(call) for call in calls]
        self._next: Iterator[torch.cuda.CUDAGraph] = cycle(graphs)

    def block_us(self, runs: int) -> float:
        """Microseconds of one of ``runs`` replays back to back."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        next(self._next).replay()
        start.record()
        for _ in range(runs):
            next(self._next).replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3 / runs


def _capture(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_RUNS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            call()
    finally:  # a call that cannot be captured leaves the stream of the capture as the current one
        torch.cuda.set_stream(current)
    return graph


def runs_for(rotation: Rotation, milliseconds: float) -> int:
    """Return how many runs fill a block of this length, at least 3."""
    rotation.block_us(_WARM_UP_RUNS)
    return max(3, round(milliseconds * 1e3 / rotation.block_us(10)))


def interleaved(
    cases: Mapping[Key, Rotation], baseline: Rotation, *, rounds: int, block_ms: float = 4.0
) -> dict[Key, DeviceTiming]:
    """Time cases, each block between two blocks of the baseline.

    Args:
        cases: Replays to time, by any key.
        baseline: Replay that each case is compared with.
        rounds: Number of measurements of each case.
        block_ms: Length of a block in milliseconds.
    """
    runs = {key: runs_for(case, block_ms) for key, case in cases.items()}
    baseline_runs = runs_for(baseline, block_ms)
    baseline.block_us(runs_for(baseline, _SETTLING_MS))
    measured: dict[Key, list[tuple[float, float]]] = {key: [] for key in cases}
    before = baseline.block_us(baseline_runs)
    for _ in range(rounds):
        for key, case in cases.items():
            us = case.block_us(runs[key])
            after = baseline.block_us(baseline_runs)
            measured[key].append((us, (before + after) / 2))
            before = after
    return {key: _summary(np.array(pairs)) for key, pairs in measured.items()}


def median_us(rotation: Rotation, *, rounds: int, block_ms: float = 4.0) -> float:
    """Return microseconds of one run, median over blocks."""
    runs = runs_for(rotation, block_ms)
    return float(np.median([rotation.block_us(runs) for _ in range(rounds)]))


def _summary(pairs: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> DeviceTiming:
    # pairs: (rounds, 2), microseconds of the case and of the baseline
    q25, middle, q75 = np.quantile(pairs[:, 0] / pairs[:, 1], (0.25, 0.5, 0.75)).tolist()
    us, baseline_us = np.median(pairs, axis=0).tolist()
    return DeviceTiming(us, baseline_us, middle, q25, q75)


def gpu_options(doc: str) -> argparse.Namespace:
    """Parse the options of a program that needs a GPU and can use an unpacked TensorRT 8.5.3; exit without a GPU."""
    arguments = parser(doc)
    arguments.add_argument("--tensorrt85", type=Path, help="folder of an unpacked TensorRT 8.5.3 with its python")
    arguments.add_argument("--plugin85", type=Path, help="plugin library built against the headers of 8.5")
    options = arguments.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU here")
    return options


def device_facts() -> dict[str, object]:
    """Describe the machine and the versions that the numbers were measured on."""
    properties = torch.cuda.get_device_properties(0)
    import triton

    return {
        "gpu": properties.name,
        "capability": f"sm_{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }
