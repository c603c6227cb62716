"""A latency result: one JSON document, written and read here alone.

Its fields are fixed, because calibration reads it (``calibrate --latency-file``). What is missing is null.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from acm_export.errors import UsageError
from acm_export.json_fields import (
    BOOL,
    LIST,
    NUMBER,
    NUMBER_OR_NULL,
    OBJECT,
    OBJECT_OR_NULL,
    POSITIVE,
    SHAPE,
    TEXT,
    TEXT_OR_NULL,
    WHOLE,
    BrokenFieldError,
    checked,
)  # fmt: skip
from acm_export.latency.device import Device
from acm_export.latency.statistics import Line, Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SCHEMA = 1


@dataclass(frozen=True)
class ModelFile:
    """The file that was measured: its name as given, and its SHA-256."""

    file: str
    sha256: str


@dataclass(frozen=True)
class RuntimeInfo:
    """What ran it."""

    name: str
    version: str
    provider: str


def run_key(inputs: Mapping[str, Sequence[int]], routing: str, budget: float | None) -> tuple[Any, ...]:
    """What two results of the same run have in common: shapes, routing and requested budget."""
    return tuple((name, tuple(shape)) for name, shape in sorted(inputs.items())), routing, budget


@dataclass(frozen=True)
class RunResult:
    """One combination of batch, routing and budget.

    Args:
        inputs: Shapes by name.
        routing: data, least, most or skewed.
        budget_requested: β, or None where a threshold, the file's setting or the routing decides.
        budget_measured: β from the learner counts of the same inputs.
        host_ms: From feeding to outputs in host memory.
        device_ms: On the device alone, or None where the runtime does not tell.
    """

    inputs: dict[str, list[int]]
    routing: str
    budget_requested: float | None
    budget_measured: float | None
    host_ms: Statistics
    device_ms: Statistics | None

    @property
    def key(self) -> tuple[Any, ...]:
        """What two results of the same run have in common."""
        return run_key(self.inputs, self.routing, self.budget_requested)

    @property
    def batch(self) -> int:
        """Length of the first input's leading axis."""
        return next(iter(self.inputs.values()))[0]


@dataclass(frozen=True)
class BaselineRun:
    """The baseline beside one run, in the same order as the runs.

    Args:
        host_ms: As of the run.
        device_ms: As of the run.
        ratio: Median of the model ÷ median of the baseline.
    """

    host_ms: Statistics
    device_ms: Statistics | None
    ratio: float


@dataclass(frozen=True)
class Baseline:
    """The file that was timed in between, and its times beside every run."""

    model: ModelFile
    runs: tuple[BaselineRun, ...]


@dataclass(frozen=True)
class Result:
    """Everything that was measured.

    Args:
        model: The file.
        runtime: What ran it.
        device: Where.
        command: The command line.
        time: When it began, ISO 8601 with the offset.
        runs: In the order in which they were made.
        fit: Time against β, of the first batch.
        baseline: Or None.
        warnings: Why the times may not be trusted.
        partial: Whether it was interrupted: some runs are missing.
    """

    model: ModelFile
    runtime: RuntimeInfo
    device: Device
    command: str
    time: str
    runs: tuple[RunResult, ...]
    fit: Line
    baseline: Baseline | None = None
    warnings: tuple[str, ...] = ()
    partial: bool = False

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return {"schema": SCHEMA, **asdict(self)}


def to_text(result: Result) -> str:
    """The document as text."""
    return json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n"


_RESULT = {
    "schema": WHOLE, "model": OBJECT, "runtime": OBJECT, "device": OBJECT, "command": TEXT, "time": TEXT, "runs": LIST,
    "fit": OBJECT, "baseline": OBJECT_OR_NULL, "warnings": LIST, "partial": BOOL,
}  # fmt: skip
_MODEL = {"file": TEXT, "sha256": TEXT}
_RUNTIME = {"name": TEXT, "version": TEXT, "provider": TEXT}
_DEVICE = dict.fromkeys(("name", "arch", "clocks", "power_mode", "driver"), TEXT_OR_NULL)
_FIT = dict.fromkeys(("fixed_ms", "ms_per_budget", "r2"), NUMBER_OR_NULL)
_RUN = {
    "inputs": OBJECT, "routing": TEXT, "budget_requested": NUMBER_OR_NULL, "budget_measured": NUMBER_OR_NULL,
    "host_ms": OBJECT, "device_ms": OBJECT_OR_NULL,
}  # fmt: skip
_STATISTICS = dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"), NUMBER) | {"std": NUMBER_OR_NULL}
_STATISTICS |= {"n": POSITIVE}
_BASELINE = {"model": OBJECT, "runs": LIST}
_BASELINE_RUN = {"host_ms": OBJECT, "device_ms": OBJECT_OR_NULL, "ratio": NUMBER}


def read_result(path: Path) -> Result:
    """Read what an earlier ``latency`` wrote.

    Raises:
        UsageError: There is no file, or it is no such result.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content.get("schema") if isinstance(content, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise UsageError(f"{path} has schema {schema}, this version reads up to {SCHEMA}", "update acm-export")
        return _parse(content)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}") from error
    except (OSError, ValueError, RecursionError, BrokenFieldError) as error:
        raise UsageError(
            f"{path} is no result of acm-export latency: {error}", "write one with: acm-export latency M.onnx -o R.json"
        ) from error


def _parse(content: Any) -> Result:
    fields = checked(content, _RESULT, "")
    runs = [_run(run, f"runs[{i}].") for i, run in enumerate(fields["runs"])]
    parsed = {
        "model": ModelFile(**checked(fields["model"], _MODEL, "model.")),
        "runtime": RuntimeInfo(**checked(fields["runtime"], _RUNTIME, "runtime.")),
        "device": Device(**checked(fields["device"], _DEVICE, "device.")),
        "fit": Line(**checked(fields["fit"], _FIT, "fit.")),
        "baseline": None if fields["baseline"] is None else _baseline(fields["baseline"]),
        "runs": tuple(runs),
        "warnings": tuple(map(str, fields["warnings"])),
    }
    return Result(**({k: v for k, v in fields.items() if k != "schema"} | parsed))


def _run(content: Any, where: str) -> RunResult:
    fields = checked(content, _RUN, where)
    checked(fields["inputs"], dict.fromkeys(fields["inputs"], SHAPE), f"{where}inputs.")
    return RunResult(**(fields | _times(fields, where)))


def _baseline(content: Any) -> Baseline:
    fields = checked(content, _BASELINE, "baseline.")
    runs = [checked(run, _BASELINE_RUN, f"baseline.runs[{i}].") for i, run in enumerate(fields["runs"])]
    return Baseline(
        ModelFile(**checked(fields["model"], _MODEL, "baseline.model.")),
        tuple(BaselineRun(**(run | _times(run, f"baseline.runs[{i}]."))) for i, run in enumerate(runs)),
    )


def _times(fields: dict[str, Any], where: str) -> dict[str, Statistics | None]:
    return {
        name: None if fields[name] is None else Statistics(**checked(fields[name], _STATISTICS, f"{where}{name}."))
        for name in ("host_ms", "device_ms")
    }
