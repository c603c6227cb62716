"""The loaded models of a measurement: the file, its copy with thresholds as inputs, and the baseline."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from acm_export.calibration import budget_input
from acm_export.errors import LatencyError, UsageError, first_line
from acm_export.inspection import stored_thresholds
from acm_export.latency.runtime import OnnxRuntime, required_inputs
from acm_export.model_file import read_model
from acm_export.verification.runnable import thresholds_as_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from acm_export.calibration.data import Arrays, GraphInput
    from acm_export.latency.measure import Subject
    from acm_export.latency.plan import Plan, PlannedRun
    from acm_export.latency.runtime import Runtime


class Sides:
    """Models, loaded when a run first needs them.

    Args:
        planned: The file.
        baseline: Another file with the same inputs, or None.
    """

    def __init__(self, planned: Plan, baseline: Path | None) -> None:
        self._plan, self._baseline_path = planned, baseline
        self._open: dict[str, Runtime] = {}

    def subject(self, run: PlannedRun) -> Subject:
        """The model as the run wants it, tried once.

        Raises:
            LatencyError: It does not run.
        """
        runtime = self._opened("own" if run.own_thresholds else "thresholds")
        return _subject(runtime, [feeds | run.dials for feeds in run.feeds.batches], self._plan.path)

    def baseline(self, run: PlannedRun) -> Subject | None:
        """The baseline on the same inputs, tried once; None where there is none.

        Raises:
            LatencyError: It does not run.
        """
        if self._baseline_path is None:
            return None
        return _subject(self._opened("baseline"), list(run.feeds.batches), self._baseline_path)

    def close(self) -> None:
        """Close all of them."""
        for runtime in self._open.values():
            runtime.close()
        self._open.clear()

    def _opened(self, name: str) -> Runtime:
        if name not in self._open:
            self._open[name] = self._load(name)
        return self._open[name]

    def _load(self, name: str) -> Runtime:
        path = self._baseline_path if name == "baseline" and self._baseline_path is not None else self._plan.path
        model, manifest = read_model(path), self._plan.manifest
        if name == "thresholds":
            if manifest.budget_input:
                budget_input.detach(model, stored_thresholds(model, manifest, path.parent))
            thresholds_as_inputs(model, manifest)
        return OnnxRuntime(model, path.parent, self._plan.session)


def check_baseline(path: Path, inputs: Sequence[GraphInput], model: Path) -> None:
    """Refuse a baseline that cannot be fed what the model is fed.

    Raises:
        UsageError: Names, dtypes or shapes of its inputs differ.
        ModelFileError: It is no ONNX file.
    """
    theirs = required_inputs(read_model(path))
    if len(theirs) != len(inputs) or not all(any(_same(a, b) for b in inputs) for a in theirs):
        raise UsageError(
            f"the baseline {path} takes {_words(theirs)}; {model} takes {_words(inputs)}",
            "both are fed the same arrays, so that their times can be compared",
        )


def _same(one: GraphInput, other: GraphInput) -> bool:
    if (one.name, one.dtype, len(one.shape)) != (other.name, other.dtype, len(other.shape)):
        return False
    return all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in zip(one.shape, other.shape, strict=True))


def _words(inputs: Sequence[GraphInput]) -> str:
    return ", ".join(f"{v.name} {v.dtype} [{', '.join(map(str, v.shape))}]" for v in inputs) or "nothing"


def _subject(runtime: Runtime, batches: list[Arrays], path: Path) -> Subject:
    try:
        for feeds in batches[:1]:
            runtime.run(feeds)
    except Exception as error:  # the runtime's own types, with no common base but Exception
        reason = f"{path} does not run on these inputs: {first_line(error)}"
        raise LatencyError(reason, "--debug shows everything") from error
    run, turns = runtime.run, cycle(batches)
    return lambda: run(next(turns))
