"""Shared by the benchmark programs: options, block-interleaved timing, tables, and results as JSON.

Timing. Threads of ONNX Runtime keep spinning for milliseconds after a run and take the cores of the next session, so
runs that strictly alternate measure each other. ``base.timing.block_seconds`` therefore measures in blocks: a
pause, two runs that are not counted, then n counted runs back to back, of which the block's median is kept. Here the
blocks alternate between a dense baseline and the cases, round after round: baseline, case 1, baseline, case 2, ...
One ratio is ``2 * case / (baseline before + baseline after)``; a result is the median of the rounds' ratios with their
quartiles, so a disturbance of a few seconds changes single ratios but not the result.

Results go to ``OUTPUT/DEVICE/NAME.json`` and describe the machine by its hardware, never by its name.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from acm_export.base.files import write_text
from acm_export.base.timing import block_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from typing import TypeVar

    Key = TypeVar("Key", bound=Hashable)

SCHEMA = 1
_PACKAGES = ("acm-export", "torch", "transformers", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Timing:
    """Time of a case compared with its dense baseline.

    Args:
        ratio: Case ÷ baseline, median over the rounds.
        ratio_q25: Lower quartile of the rounds' ratios.
        ratio_q75: Upper quartile.
        ms: Milliseconds of one run of the case, median over its blocks.
        baseline_ms: Milliseconds of one run of the baseline, median over the blocks next to the case's.
        rounds: Number of ratios measured.
        runs: Counted runs in one block.
    """

    ratio: float
    ratio_q25: float
    ratio_q75: float
    ms: float
    baseline_ms: float
    rounds: int
    runs: int


def interleaved(
    cases: Mapping[Key, Callable[[], object]], baseline: Callable[[], object], *, rounds: int, runs: int
) -> dict[Key, Timing]:
    """Time cases in blocks, each between two blocks of the baseline.

    Args:
        cases: Functions to time, by any key.
        baseline: Function that each case is compared with.
        rounds: Number of measurements of each case.
        runs: Counted runs in one block.

    Returns:
        A timing for each key of ``cases``.
    """
    triples: dict[Key, list[tuple[float, float]]] = {key: [] for key in cases}
    before = block_seconds(baseline, runs)
    for _ in range(rounds):
        for key, case in cases.items():
            seconds = block_seconds(case, runs)
            after = block_seconds(baseline, runs)
            triples[key].append((seconds, (before + after) / 2))
            before = after
    return {key: _summary(np.array(measured), runs) for key, measured in triples.items()}


def _summary(measured: np.ndarray[Any, Any], runs: int) -> Timing:
    # measured: (rounds, 2), seconds of the case and of the baseline around it
    q25, middle, q75 = np.quantile(measured[:, 0] / measured[:, 1], (0.25, 0.5, 0.75)).tolist()
    ms, baseline_ms = (1e3 * np.median(measured, axis=0)).tolist()
    return Timing(middle, q25, q75, ms, baseline_ms, len(measured), runs)


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every program; the first line of ``doc`` describes the program."""
    options = argparse.ArgumentParser(description=doc.splitlines()[0])
    default = Path(__file__).parent / "results"
    options.add_argument("--device", default=f"cpu-{os.cpu_count()}core", help="folder of the result (%(default)s)")
    options.add_argument("--quick", action="store_true", help="smoke run of a few seconds; its numbers are meaningless")
    options.add_argument("--output", type=Path, default=default, help="folder above DEVICE (benchmarks/results)")
    return options


class ResultFile:
    """The result of one program, on disk whole after every entry, so that an interrupted run keeps what it measured.

    Args:
        name: Name of the program; a quick run writes ``NAME-quick.json``, so that it never replaces a measurement.
        options: Options parsed by :func:`parser`.
        program: Program that measures, if it is not ``benchmarks/NAME.py``.
    """

    def __init__(self, name: str, options: argparse.Namespace, *, program: str | None = None) -> None:
        flags = ["--quick"] if options.quick else []
        self._path: Path = Path(options.output) / options.device / f"{name}{'-quick' if options.quick else ''}.json"
        self._content: dict[str, Any] = {
            "schema": SCHEMA,
            "benchmark": name,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": " ".join(["python", program or f"benchmarks/{name}.py", "--device", options.device, *flags]),
            "quick": options.quick,
            "machine": machine(),
        }

    @property
    def path(self) -> Path:
        """The file; it exists after the first :meth:`add`."""
        return self._path

    def add(self, key: str, value: object) -> None:
        """Set a top-level key and rewrite the file, whole or not at all.

        Args:
            key: Key to set; an earlier value is replaced.
            value: Value for JSON; tuples become lists, NaN and infinities null.
        """
        self.add_all({key: value})

    def add_all(self, values: Mapping[str, object]) -> None:
        """:meth:`add` for several keys, with one write."""
        self._content |= {key: _finite(value) for key, value in values.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(json.dumps(self._content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", self._path)


def write_result(
    name: str, payload: Mapping[str, Any], options: argparse.Namespace, *, program: str | None = None
) -> Path:
    """Write all results at once, and print where; :class:`ResultFile` describes the arguments.

    Returns:
        The file.
    """
    result = ResultFile(name, options, program=program)
    result.add_all(payload)
    print(f"wrote {result.path}")
    return result.path


def _finite(value: object) -> object:
    """The value with null for every number that JSON does not have, at any depth."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def machine() -> dict[str, Any]:
    """Processor, cores, memory in bytes and versions; no names of hosts, users or folders."""
    return {
        "cpu": _cpu_name(),
        "logical_cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; all columns except the first are right-aligned."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if os.isatty(1) else 160).print(table)
