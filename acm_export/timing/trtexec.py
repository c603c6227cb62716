"""Turn the times that ``trtexec --exportTimes`` wrote into a result with the same statistics, without running anything.

The file is a list with one object for each query, written by ``exportJSONTrace`` of TensorRT's samples (the names are
the same from 8.5 to 11). Durations have six digits. Timestamps have six digits too, so the difference of two timestamps
gets coarser the later they are.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.base.files import sha256_of
from acm_export.base.json_fields import BrokenFieldError, Kind, checked
from acm_export.engine.passport import passport_path, read_passport
from acm_export.timing.environment import Device
from acm_export.timing.reliability import Steadiness, device_warnings, steadiness_warnings
from acm_export.timing.result import LatencyResult, ModelFile, RunResult, RuntimeInfo, run_key
from acm_export.timing.routing import DATA
from acm_export.timing.statistics import LinearFit, percentiles, summarize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from acm_export.timing.request import LatencyRequest

_MAX_BYTES = 1 << 29
_DIGITS = 6
_MAX_RESOLUTION = 0.05
"""Share of the median enqueue time; if timestamps are coarser, enqueue times are left out."""

_TIME = Kind("a number from 0", lambda v: type(v) in (int, float) and 0 <= v < math.inf)
_FIELDS = dict.fromkeys(
    (
        "startEnqMs",
        "endEnqMs",
        "startH2dMs",
        "startComputeMs",
        "endComputeMs",
        "endD2hMs",
        "h2dMs",
        "computeMs",
        "d2hMs",
        "latencyMs",
    ),
    _TIME,
)
_HINT = "write it with: trtexec --loadEngine=M.plan --exportTimes=T.json"


@dataclass(frozen=True)
class Query:
    """One query of the file, in milliseconds; timestamps count from trtexec's start.

    Args:
        start: Timestamp on the device before the first transfer.
        end: Timestamp on the device after the last transfer.
        enqueue_start: Timestamp on the host.
        compute_end: Timestamp on the device.
        enqueue: Enqueue time on the host.
        compute: Compute time on the device.
        transfer: Transfers to the device and back.
        latency: Transfers and compute; what trtexec calls latency.
    """

    start: float
    end: float
    enqueue_start: float
    compute_end: float
    enqueue: float
    compute: float
    transfer: float
    latency: float


def trtexec_result(request: LatencyRequest, times: Path) -> LatencyResult:
    """The result of what trtexec measured.

    Args:
        request: Model, batch size and streams of trtexec, percentiles to take, and checks.
        times: Path of the times that trtexec exported; also the request's model if the engine is not known.

    Raises:
        UsageError: A file is missing or was not written by trtexec, or the checks do not fit.
    """
    model, known = request.model, request.model != times
    if known and not model.is_file():
        raise UsageError(f"there is no file {model}", "name the engine that trtexec ran, or leave it out")
    file = ModelFile(str(model), sha256_of(model) if known else None)
    source = None
    if known and passport_path(model).is_file():
        onnx_file = read_passport(model).model
        source = ModelFile(onnx_file.name, onnx_file.sha256)
    request.checks.check_budgets([None])
    request.checks.check_model(model, (source or file).sha256)
    request.checks.check_runs([run_key({}, DATA, None, request.streams)])
    queries = read_times(times)
    enqueue = [query.enqueue for query in queries]
    coarse = resolution(queries) > _MAX_RESOLUTION * median(enqueue)
    run = _run(queries, request, enqueue_known=not coarse)
    written = datetime.fromtimestamp(times.stat().st_mtime).astimezone()
    return LatencyResult(
        model=file,
        runtime=RuntimeInfo("trtexec", None, "TensorRT"),
        device=Device(None, None),
        command=request.command,
        time=written.isoformat(timespec="seconds"),
        runs=(run,),
        fit=LinearFit(),
        warnings=(
            *trace_warnings(queries, coarse=coarse),
            *device_warnings([run]),
            *steadiness_warnings([_steadiness(queries, run)], clocks_known=False, percentiles=request.percentiles),
        ),
        source=source,
    )


def read_times(path: Path) -> list[Query]:
    """Read the file.

    Raises:
        UsageError: The file is missing or was not written by trtexec.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(
                f"{path} has {path.stat().st_size} bytes, at most {_MAX_BYTES} are read",
                "run trtexec for a shorter time",
            )
        queries = _parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}", _HINT) from error
    except (OSError, ValueError, RecursionError, BrokenFieldError) as error:
        raise UsageError(f"{path} was not written by trtexec --exportTimes: {error}", _HINT) from error
    if not queries:
        raise UsageError(f"{path} holds no queries", "run trtexec for a longer time, for example with --duration=10")
    return queries


def _run(queries: Sequence[Query], request: LatencyRequest, *, enqueue_known: bool) -> RunResult:
    times = {
        "host_ms": [query.latency for query in queries],
        "device_ms": [query.compute for query in queries],
        "enqueue_ms": [query.enqueue for query in queries] if enqueue_known else [],
        "transfer_ms": [query.transfer for query in queries],
    }
    if not any(times["transfer_ms"]):
        times["transfer_ms"] = []
    known = {name: values for name, values in times.items() if values}
    statistics = {name: summarize(values) for name, values in known.items()}
    seconds = (max(query.end for query in queries) - min(query.start for query in queries)) / 1e3
    return RunResult(
        inputs={},
        routing=DATA,
        budget_requested=None,
        budget_measured=None,
        host_ms=statistics["host_ms"],
        device_ms=statistics["device_ms"],
        enqueue_ms=statistics.get("enqueue_ms"),
        transfer_ms=statistics.get("transfer_ms"),
        streams=request.streams,
        throughput=len(queries) * request.batch[0] / seconds if seconds else None,
        percentiles={name: percentiles(values, request.percentiles) for name, values in known.items()}
        if request.percentiles
        else None,
    )


def trace_warnings(queries: Sequence[Query], *, coarse: bool) -> Iterator[str]:
    """Warnings about what trtexec's times do not include.

    Args:
        queries: Queries in the order of the file.
        coarse: Whether timestamps are too coarse for enqueue times.
    """
    yield "trtexec feeds random numbers without --loadInputs: the gates route noise, not data"
    pairs = list(pairwise(queries))
    ahead = sum(later.enqueue_start < earlier.compute_end for earlier, later in pairs)
    if ahead > len(pairs) / 2:
        yield (
            f"enqueue ahead: {ahead} of {len(queries)} queries were enqueued while the one before was running; their "
            "latency excludes the time that they waited. trtexec --exposeDMA enqueues one at a time"
        )
    if not any(query.transfer for query in queries):
        yield (
            "trtexec left transfers out, so host time is device time; include them with --includeDataTransfers from "
            "TensorRT 11 on, or by leaving out --noDataTransfers before it"
        )
    if coarse:
        yield (
            f"enqueue times are left out: trtexec writes timestamps with {_DIGITS} digits, here a resolution of "
            f"{resolution(queries):g} ms; a shorter --duration makes it finer"
        )


def resolution(queries: Sequence[Query]) -> float:
    """Resolution in milliseconds of the latest timestamp on the host."""
    latest = max(query.enqueue_start + query.enqueue for query in queries)
    return 10.0 ** (math.floor(math.log10(latest)) + 1 - _DIGITS) if latest > 0 else 0.0


def _parse(content: object) -> list[Query]:
    if not isinstance(content, list):
        raise BrokenFieldError(f"it holds a {type(content).__name__}, not a list of queries")
    return [_query(entry, f"[{i}].") for i, entry in enumerate(content)]


def _query(entry: object, where: str) -> Query:
    known = {name: entry[name] for name in _FIELDS if name in entry} if isinstance(entry, dict) else entry
    values = checked(known, _FIELDS, where)
    enqueue = values["endEnqMs"] - values["startEnqMs"]
    if enqueue < 0:
        raise BrokenFieldError(f"{where}endEnqMs is {values['endEnqMs']}, before startEnqMs, {values['startEnqMs']}")
    return Query(
        start=values["startH2dMs"],
        end=values["endD2hMs"],
        enqueue_start=values["startEnqMs"],
        compute_end=values["endComputeMs"],
        enqueue=enqueue,
        compute=values["computeMs"],
        transfer=values["h2dMs"] + values["d2hMs"],
        latency=values["latencyMs"],
    )


def _steadiness(queries: Sequence[Query], run: RunResult) -> Steadiness:
    """Drift is the last eighth compared with the first."""
    part = max(1, len(queries) // 8)
    first, last = (median(query.latency for query in some) for some in (queries[:part], queries[-part:]))
    drift = last / first - 1 if first else 0.0
    return Steadiness("trtexec", run.host_ms.variation, drift, warmed_up=True, runs=len(queries))
