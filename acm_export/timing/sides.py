"""The loaded models of a measurement: the file, its copy with thresholds as inputs, and the baseline."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmError, LatencyError, UsageError, first_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.timing.backend import Backend
    from acm_export.timing.plan import Plan, PlannedRun
    from acm_export.timing.runtime import RunContext, Runtime
    from acm_export.timing.streams import Run


class Sides:
    """Models, loaded when a run first needs them.

    Args:
        planned: The file.
        baseline: Another file with the same inputs, or None.
    """

    def __init__(self, planned: Plan, baseline: Path | None) -> None:
        self._plan, self._baseline_path = planned, baseline
        self._open: dict[str, tuple[Runtime, list[RunContext]]] = {}

    def subject(self, run: PlannedRun) -> list[Run]:
        """The model as the run wants it, for each stream, tried once.

        Raises:
            LatencyError: It does not run.
        """
        contexts = self._contexts("own" if run.own_thresholds else "thresholds")
        return _tried(contexts, [feeds | run.dials for feeds in run.feeds.batches], self._plan.file.path)

    def baseline(self, run: PlannedRun) -> list[Run] | None:
        """The baseline on the same inputs, for each stream, tried once; None where there is none.

        Raises:
            LatencyError: It does not run.
        """
        if self._baseline_path is None:
            return None
        return _tried(self._contexts("baseline"), list(run.feeds.batches), self._baseline_path)

    def close(self) -> None:
        """Close all of them."""
        while self._open:
            runtime, contexts = self._open.popitem()[1]
            for context in contexts:
                context.close()
            runtime.close()

    def _contexts(self, name: str) -> list[RunContext]:
        if name not in self._open:
            runtime = self._load(name)
            contexts: list[RunContext] = []
            self._open[name] = runtime, contexts
            contexts.extend(runtime.context() for _ in range(self._plan.streams))
        return self._open[name][1]

    def _load(self, name: str) -> Runtime:
        if name == "baseline" and self._baseline_path is not None:
            return self._plan.backend.load_baseline(self._baseline_path)
        return self._plan.backend.load(self._plan.file, own_thresholds=name == "own")


def check_baseline(path: Path, inputs: Sequence[GraphInput], model: Path, backend: Backend) -> None:
    """Refuse a baseline that cannot be fed what the model is fed.

    Raises:
        UsageError: Names, dtypes or shapes of its inputs differ.
        AcmError: It is nothing that the runtime could run.
    """
    theirs = backend.baseline_inputs(path)
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


def _tried(contexts: Sequence[RunContext], batches: list[Arrays], path: Path) -> list[Run]:
    """One run for each context, which takes the batches in turn."""
    try:
        for context in contexts:
            context.run(batches[0])
    except AcmError:
        raise
    except Exception as error:  # the runtime's own types, with no common base but Exception
        reason = f"{path} does not run on these inputs: {first_line(error)}"
        raise LatencyError(reason, "--debug shows everything") from error
    return [_turns(context, batches) for context in contexts]


def _turns(context: RunContext, batches: list[Arrays]) -> Run:
    run, turns = context.run, cycle(batches)
    return lambda: run(next(turns))
