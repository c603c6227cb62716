"""A latency result as one JSON document, written and read here alone.

Its fields are fixed, because calibration reads it (``calibrate --latency-file``). What is missing is null.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import UsageError
from acm_export.base.json_fields import (
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
from acm_export.timing.device import Device
from acm_export.timing.result import (
    SCHEMA,
    Baseline,
    BaselineRun,
    ModelFile,
    Result,
    RunResult,
    RuntimeInfo,
)  # fmt: skip
from acm_export.timing.statistics import Line, Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def to_text(result: Result) -> str:
    """The document as text."""
    return json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n"


_RESULT = {
    "schema": WHOLE, "model": OBJECT, "runtime": OBJECT, "device": OBJECT, "command": TEXT, "time": TEXT, "runs": LIST,
    "fit": OBJECT, "baseline": OBJECT_OR_NULL, "warnings": LIST, "partial": BOOL, "error": TEXT_OR_NULL,
    "source": OBJECT_OR_NULL, "cuda_graph": BOOL,
}  # fmt: skip
_MODEL = {"file": TEXT, "sha256": TEXT_OR_NULL}
_RUNTIME = {"name": TEXT, "version": TEXT_OR_NULL, "provider": TEXT}
_DEVICE = dict.fromkeys(("name", "arch", "clocks", "power_mode", "driver"), TEXT_OR_NULL)
_FIT = dict.fromkeys(("fixed_ms", "ms_per_budget", "r2"), NUMBER_OR_NULL)
_RUN = {
    "inputs": OBJECT, "routing": TEXT, "budget_requested": NUMBER_OR_NULL, "budget_measured": NUMBER_OR_NULL,
    "host_ms": OBJECT, "device_ms": OBJECT_OR_NULL, "enqueue_ms": OBJECT_OR_NULL, "transfer_ms": OBJECT_OR_NULL,
    "streams": POSITIVE, "throughput": NUMBER_OR_NULL,
}  # fmt: skip
_STATISTICS = dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"), NUMBER) | {"std": NUMBER_OR_NULL}
_STATISTICS |= {"n": POSITIVE}
_BASELINE = {"model": OBJECT, "runs": LIST}
_BASELINE_RUN = {
    "host_ms": OBJECT, "device_ms": OBJECT_OR_NULL, "ratio": NUMBER, "enqueue_ms": OBJECT_OR_NULL,
    "transfer_ms": OBJECT_OR_NULL, "throughput": NUMBER_OR_NULL,
}  # fmt: skip
_LATER = {"error": None, "source": None, "cuda_graph": False}
_LATER_BASELINE_RUN: dict[str, Any] = {"enqueue_ms": None, "transfer_ms": None, "throughput": None}
_LATER_RUN = _LATER_BASELINE_RUN | {"streams": 1}
"""Fields that came later, and what results without them mean."""


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
        if isinstance(content, dict) and isinstance(content.get("error"), dict):  # what --json printed on a failure
            content["error"] = content["error"].get("message")
        return _parse(content)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}") from error
    except (OSError, ValueError, RecursionError, BrokenFieldError) as error:
        raise UsageError(
            f"{path} is no result of acm-export latency: {error}", "write one with: acm-export latency M.onnx -o R.json"
        ) from error


def _parse(content: Any) -> Result:
    fields = checked(_completed(content, _LATER), _RESULT, "")
    runs = [_run(run, f"runs[{i}].") for i, run in enumerate(fields["runs"])]
    parsed = {
        "model": ModelFile(**checked(fields["model"], _MODEL, "model.")),
        "runtime": RuntimeInfo(**checked(fields["runtime"], _RUNTIME, "runtime.")),
        "device": Device(**checked(fields["device"], _DEVICE, "device.")),
        "fit": Line(**checked(fields["fit"], _FIT, "fit.")),
        "baseline": None if fields["baseline"] is None else _baseline(fields["baseline"]),
        "source": None if fields["source"] is None else ModelFile(**checked(fields["source"], _MODEL, "source.")),
        "runs": tuple(runs),
        "warnings": tuple(map(str, fields["warnings"])),
    }
    return Result(**({k: v for k, v in fields.items() if k != "schema"} | parsed))


def _run(content: Any, where: str) -> RunResult:
    fields = checked(_completed(content, _LATER_RUN), _RUN, where)
    checked(fields["inputs"], dict.fromkeys(fields["inputs"], SHAPE), f"{where}inputs.")
    return RunResult(**(fields | _times(fields, where)))


def _baseline(content: Any) -> Baseline:
    fields = checked(content, _BASELINE, "baseline.")
    runs = [
        checked(_completed(run, _LATER_BASELINE_RUN), _BASELINE_RUN, f"baseline.runs[{i}].")
        for i, run in enumerate(fields["runs"])
    ]
    return Baseline(
        ModelFile(**checked(fields["model"], _MODEL, "baseline.model.")),
        tuple(BaselineRun(**(run | _times(run, f"baseline.runs[{i}]."))) for i, run in enumerate(runs)),
    )


def _times(fields: dict[str, Any], where: str) -> dict[str, Statistics | None]:
    return {
        name: None if fields[name] is None else Statistics(**checked(fields[name], _STATISTICS, f"{where}{name}."))
        for name in ("host_ms", "device_ms", "enqueue_ms", "transfer_ms")
    }


def _completed(content: Any, later: Mapping[str, Any]) -> Any:
    return {**later, **content} if isinstance(content, dict) else content
