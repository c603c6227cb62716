"""What ``trtexec --exportTimes`` wrote, as a result: the same statistics, without running anything.

The file is a list with one object a query, written by ``exportJSONTrace`` of TensorRT's samples (the same names from
8.5 to 11). Durations are exact to six digits; moments are written with six digits too, so that a duration from two of
them is the coarser the later it was.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import UsageError
from acm_export.base.json_fields import BrokenFieldError, Kind, checked
from acm_export.timing.causes import Shape, device_warnings, time_warnings
from acm_export.timing.device import Device
from acm_export.timing.result import Result, RunResult, RuntimeInfo
from acm_export.timing.routing import DATA
from acm_export.timing.statistics import Line, summarize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from acm_export.timing.result import ModelFile

_MOST_BYTES = 1 << 29
_DIGITS = 6
_COARSEST = 0.05
"""Of a median: where moments are coarser, durations between them are not given."""

_TIME = Kind("a number from 0", lambda v: type(v) in (int, float) and 0 <= v < math.inf)
_FIELDS = dict.fromkeys(
    (
        "startEnqMs", "endEnqMs", "startH2dMs", "startComputeMs", "endComputeMs", "endD2hMs", "h2dMs", "computeMs",
        "d2hMs", "latencyMs",
    ),
    _TIME,
)  # fmt: skip
_HINT = "write it with: trtexec --loadEngine=M.plan --exportTimes=T.json"


@dataclass(frozen=True)
class Query:
    """One query of the file, in milliseconds; moments count from trtexec's start.

    Args:
        began: First moment on the device.
        ended: Last moment on the device.
        enqueue_began: Moment on the host.
        compute_ended: Moment on the device.
        enqueue: On the host.
        compute: On the device.
        transfer: To the device and back.
        latency: Of transfers and computing; what trtexec calls latency.
    """

    began: float
    ended: float
    enqueue_began: float
    compute_ended: float
    enqueue: float
    compute: float
    transfer: float
    latency: float


def read_times(path: Path) -> list[Query]:
    """Read the file.

    Raises:
        UsageError: There is none, or it is something else.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path} has {path.stat().st_size} bytes; at most {_MOST_BYTES} are read")
        queries = _parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}", _HINT) from error
    except (OSError, ValueError, RecursionError, BrokenFieldError) as error:
        raise UsageError(f"{path} is no file of trtexec --exportTimes: {error}", _HINT) from error
    if not queries:
        raise UsageError(f"{path} holds no query", "let trtexec run longer, as with --duration=10")
    return queries


def result_of(
    queries: Sequence[Query], model: ModelFile, source: ModelFile | None, when: datetime, command: str,
    *, batch: int = 1, streams: int = 1,
) -> Result:  # fmt: skip
    """The result of what trtexec measured.

    Args:
        queries: From :func:`read_times`.
        model: That it ran, as far as it is known.
        source: The ONNX file of the engine, or None.
        when: The times were written.
        command: The command line.
        batch: Samples of a query, for the throughput.
        streams: That trtexec ran at once.
    """
    transfers = [query.transfer for query in queries]
    enqueue = [query.enqueue for query in queries]
    coarse = resolution(queries) > _COARSEST * median(enqueue)
    seconds = (max(query.ended for query in queries) - min(query.began for query in queries)) / 1e3
    run = RunResult(
        {}, DATA, None, None, summarize([query.latency for query in queries]),
        summarize([query.compute for query in queries]), None if coarse else summarize(enqueue),
        summarize(transfers) if any(transfers) else None, streams, len(queries) * batch / seconds if seconds else None,
    )  # fmt: skip
    warnings = [*trace_warnings(queries, coarse=coarse), *device_warnings([run])]
    warnings += time_warnings([_shape(queries, run)], clocks_known=False)
    runtime, device = RuntimeInfo("trtexec", None, "TensorRT"), Device(None, None)
    time = when.astimezone().isoformat(timespec="seconds")
    return Result(model, runtime, device, command, time, (run,), Line(), None, tuple(warnings), source=source)


def trace_warnings(queries: Sequence[Query], *, coarse: bool) -> Iterator[str]:
    """What the times of trtexec do not say.

    Args:
        queries: In the order of the file.
        coarse: Whether moments are too coarse for enqueue times.
    """
    yield "trtexec feeds random numbers unless it is given --loadInputs: the gates route noise, not data"
    pairs = list(pairwise(queries))
    ahead = sum(later.enqueue_began < earlier.compute_ended for earlier, later in pairs)
    if ahead > len(pairs) / 2:
        yield (
            f"enqueue ahead: {ahead} of {len(queries)} queries were handed over while the one before still ran; their "
            "latency leaves out the time that they waited. trtexec --exposeDMA hands over one at a time"
        )
    if not any(query.transfer for query in queries):
        yield (
            "trtexec left transfers out, so host time is device time; put them in: --includeDataTransfers from "
            "TensorRT 11 on, before it by leaving --noDataTransfers out"
        )
    if coarse:
        yield (
            f"enqueue times are left out: trtexec writes moments with {_DIGITS} digits, here to "
            f"{resolution(queries):g} ms; a shorter --duration makes them finer"
        )


def resolution(queries: Sequence[Query]) -> float:
    """Milliseconds that the last digit of the latest moment on the host stands for."""
    latest = max(query.enqueue_began + query.enqueue for query in queries)
    return 10.0 ** (math.floor(math.log10(latest)) + 1 - _DIGITS) if latest > 0 else 0.0


def _parse(content: Any) -> list[Query]:
    if not isinstance(content, list):
        raise BrokenFieldError(f"it holds a {type(content).__name__}, not a list of queries")
    return [_query(entry, f"[{i}].") for i, entry in enumerate(content)]


def _query(entry: Any, where: str) -> Query:
    known = {name: entry[name] for name in _FIELDS if name in entry} if isinstance(entry, dict) else entry
    values = checked(known, _FIELDS, where)
    enqueue = values["endEnqMs"] - values["startEnqMs"]
    if enqueue < 0:
        raise BrokenFieldError(f"{where}endEnqMs is {values['endEnqMs']}, before startEnqMs, {values['startEnqMs']}")
    return Query(
        values["startH2dMs"], values["endD2hMs"], values["startEnqMs"], values["endComputeMs"], enqueue,
        values["computeMs"], values["h2dMs"] + values["d2hMs"], values["latencyMs"],
    )  # fmt: skip


def _shape(queries: Sequence[Query], run: RunResult) -> Shape:
    """Drift is that of the last eighth against the first."""
    part = max(1, len(queries) // 8)
    first, last = (median(query.latency for query in some) for some in (queries[:part], queries[-part:]))
    drift = last / first - 1 if first else 0.0
    return Shape("trtexec", run.host_ms.variation, drift, settled=True, runs=len(queries))
