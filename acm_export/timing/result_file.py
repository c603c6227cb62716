"""The JSON file of a latency result.

Its fields are fixed, because ``calibrate --latency-file`` reads them. Missing values are null.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import UsageError
from acm_export.base.file_kinds import not_a
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
)
from acm_export.timing.environment import Device
from acm_export.timing.lengths import Lengths
from acm_export.timing.result import SCHEMA, Baseline, BaselineRun, LatencyResult, ModelFile, RunResult, RuntimeInfo
from acm_export.timing.statistics import LinearFit, Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


_HINT = "write one with: acm-export latency M.onnx -o R.json"


def to_text(result: LatencyResult) -> str:
    """The JSON document as text."""
    return json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n"


_RESULT = {
    "schema": WHOLE, "model": OBJECT, "runtime": OBJECT, "device": OBJECT, "command": TEXT, "time": TEXT, "runs": LIST,
    "fit": OBJECT, "baseline": OBJECT_OR_NULL, "warnings": LIST, "partial": BOOL, "error": TEXT_OR_NULL,
    "source": OBJECT_OR_NULL, "cuda_graph": BOOL, "failures": LIST, "baseline_int8": OBJECT_OR_NULL,
    "precision": TEXT_OR_NULL,
}  # fmt: skip  # a table of fields
_MODEL = {"file": TEXT, "sha256": TEXT_OR_NULL}
_RUNTIME = {"name": TEXT, "version": TEXT_OR_NULL, "provider": TEXT}
_DEVICE = dict.fromkeys(("name", "arch", "clocks", "power_mode", "driver"), TEXT_OR_NULL)
_FIT = dict.fromkeys(("fixed_ms", "ms_per_budget", "r2"), NUMBER_OR_NULL)
_RUN = {
    "inputs": OBJECT, "routing": TEXT, "budget_requested": NUMBER_OR_NULL, "budget_measured": NUMBER_OR_NULL,
    "host_ms": OBJECT, "device_ms": OBJECT_OR_NULL, "enqueue_ms": OBJECT_OR_NULL, "transfer_ms": OBJECT_OR_NULL,
    "streams": POSITIVE, "throughput": NUMBER_OR_NULL, "percentiles": OBJECT_OR_NULL,
    "lengths": OBJECT_OR_NULL,
}  # fmt: skip  # a table of fields
_LENGTHS = {"axis": TEXT, "low": WHOLE, "high": WHOLE, "requests": POSITIVE, "whole": BOOL}
_STATISTICS = dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"), NUMBER) | {"std": NUMBER_OR_NULL}
_STATISTICS |= {"n": POSITIVE}
_BASELINE = {"model": OBJECT, "runs": LIST}
_BASELINE_RUN = {
    "host_ms": OBJECT, "device_ms": OBJECT_OR_NULL, "ratio": NUMBER, "enqueue_ms": OBJECT_OR_NULL,
    "transfer_ms": OBJECT_OR_NULL, "throughput": NUMBER_OR_NULL, "percentiles": OBJECT_OR_NULL,
}  # fmt: skip  # a table of fields
_ADDED: dict[str, object] = {
    "baseline_int8": None,
    "precision": None,
    "error": None,
    "source": None,
    "cuda_graph": False,
    "failures": [],
}
_ADDED_BASELINE_RUN = dict.fromkeys(("enqueue_ms", "transfer_ms", "throughput", "percentiles"))
_ADDED_RUN = {**_ADDED_BASELINE_RUN, "streams": 1, "lengths": None}
"""Fields that were added later, and their values in results that lack them."""


def read_result(path: Path) -> LatencyResult:
    """Read the result of an earlier ``latency``.

    Raises:
        UsageError: The file is missing or is not a latency result.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content.get("schema") if isinstance(content, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise UsageError(
                f"{path} has schema {schema}; this version reads schemas up to {SCHEMA}", "update acm-export"
            )
        if isinstance(content, dict) and isinstance(content.get("error"), dict):  # what --json printed on a failure
            content["error"] = content["error"].get("message")
        return _parse(content)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}", _HINT) from error
    except (OSError, ValueError, RecursionError, BrokenFieldError) as error:
        raise UsageError(not_a(path, "a result of acm-export latency", str(error)), _HINT) from error


def _parse(content: object) -> LatencyResult:
    fields = checked(_completed(content, _ADDED), _RESULT, "")
    runs = [_run(run, f"runs[{i}].") for i, run in enumerate(fields["runs"])]
    parsed = {
        "model": ModelFile(**checked(fields["model"], _MODEL, "model.")),
        "runtime": RuntimeInfo(**checked(fields["runtime"], _RUNTIME, "runtime.")),
        "device": Device(**checked(fields["device"], _DEVICE, "device.")),
        "fit": LinearFit(**checked(fields["fit"], _FIT, "fit.")),
        **{name: _baseline(fields[name], f"{name}.") for name in ("baseline", "baseline_int8")},
        "source": None if fields["source"] is None else ModelFile(**checked(fields["source"], _MODEL, "source.")),
        "runs": tuple(runs),
        "warnings": tuple(map(str, fields["warnings"])),
        "failures": tuple(map(str, fields["failures"])),
    }
    return LatencyResult(**({k: v for k, v in fields.items() if k != "schema"} | parsed))


def _run(content: object, where: str) -> RunResult:
    fields = checked(_completed(content, _ADDED_RUN), _RUN, where)
    checked(fields["inputs"], dict.fromkeys(fields["inputs"], SHAPE), f"{where}inputs.")
    lengths = fields["lengths"]
    if lengths is not None:
        lengths = Lengths(**checked(lengths, _LENGTHS, f"{where}lengths."))
    return RunResult(**(fields | _times(fields, where) | {"lengths": lengths}))


def _baseline(content: object, where: str) -> Baseline | None:
    if content is None:
        return None
    fields = checked(content, _BASELINE, where)
    runs = [_baseline_run(run, f"{where}runs[{i}].") for i, run in enumerate(fields["runs"])]
    return Baseline(ModelFile(**checked(fields["model"], _MODEL, f"{where}model.")), tuple(runs))


def _baseline_run(content: object, where: str) -> BaselineRun:
    fields = checked(_completed(content, _ADDED_BASELINE_RUN), _BASELINE_RUN, where)
    return BaselineRun(**(fields | _times(fields, where)))


def _times(fields: Mapping[str, Any], where: str) -> dict[str, Statistics | None]:
    percentiles = fields["percentiles"] or {}
    checked(percentiles, dict.fromkeys(percentiles, OBJECT), f"{where}percentiles.")
    for name, values in percentiles.items():
        checked(values, dict.fromkeys(values, NUMBER), f"{where}percentiles.{name}.")
    return {
        name: None if fields[name] is None else Statistics(**checked(fields[name], _STATISTICS, f"{where}{name}."))
        for name in ("host_ms", "device_ms", "enqueue_ms", "transfer_ms")
    }


def _completed(content: object, defaults: Mapping[str, object]) -> Any:
    return {**defaults, **content} if isinstance(content, dict) else content
