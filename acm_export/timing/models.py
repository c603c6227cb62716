"""The loaded models of a measurement: the file, its copy with thresholds as inputs, and the baseline."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmError, LatencyError, UsageError, first_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.timing.backends.backend import Backend, LoadedModel, RunContext, TimedFile
    from acm_export.timing.runs import Run
    from acm_export.timing.streams import Call


class Models:
    """Models that are loaded when a run first needs them.

    Args:
        backend: Runtime of all of them.
        file: The file to time.
        baseline: Path of a dense model with the same inputs, or None.
        streams: Contexts of each model.
    """

    def __init__(self, backend: Backend, file: TimedFile, baseline: Path | None, streams: int) -> None:
        self._backend, self._file, self._baseline, self._streams = backend, file, baseline, streams
        self._loaded: dict[str, tuple[LoadedModel, list[RunContext]]] = {}

    def calls(self, run: Run) -> list[Call]:
        """A call of the model for each stream, after one trial.

        Raises:
            LatencyError: The model does not run.
        """
        contexts = self._contexts("own" if run.own_thresholds else "thresholds")
        return _tried(contexts, [feeds | run.controls for feeds in run.inputs.batches], self._file.path)

    def baseline_calls(self, run: Run) -> list[Call] | None:
        """A call of the baseline on the same inputs for each stream, after one trial; None without a baseline.

        Raises:
            LatencyError: The baseline does not run.
        """
        if self._baseline is None:
            return None
        return _tried(self._contexts("baseline"), list(run.inputs.batches), self._baseline)

    def close(self) -> None:
        """Close all models."""
        while self._loaded:
            model, contexts = self._loaded.popitem()[1]
            for context in contexts:
                context.close()
            model.close()

    def _contexts(self, name: str) -> list[RunContext]:
        if name not in self._loaded:
            model = self._load(name)
            contexts: list[RunContext] = []
            self._loaded[name] = model, contexts
            contexts.extend(model.context() for _ in range(self._streams))
        return self._loaded[name][1]

    def _load(self, name: str) -> LoadedModel:
        if name == "baseline" and self._baseline is not None:
            return self._backend.load_baseline(self._baseline)
        return self._backend.load(self._file, own_thresholds=name == "own")


def check_baseline(baseline: Path, file: TimedFile, backend: Backend) -> None:
    """Refuse a baseline that does not take the inputs of the model.

    Raises:
        UsageError: Names, dtypes or shapes of the inputs differ.
        AcmError: The runtime cannot run the baseline.
    """
    inputs = backend.baseline_inputs(baseline)
    if len(inputs) != len(file.inputs) or not all(any(_same(a, b) for b in file.inputs) for a in inputs):
        raise UsageError(
            f"the baseline {baseline} takes {_listed(inputs)}; {file.path} takes {_listed(file.inputs)}",
            "give a baseline with the same inputs: both are fed the same arrays",
        )


def _same(one: GraphInput, other: GraphInput) -> bool:
    if (one.name, one.dtype, len(one.shape)) != (other.name, other.dtype, len(other.shape)):
        return False
    return all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in zip(one.shape, other.shape, strict=True))


def _listed(inputs: Sequence[GraphInput]) -> str:
    return ", ".join(f"{v.name} {v.dtype} [{', '.join(map(str, v.shape))}]" for v in inputs) or "no inputs"


def _tried(contexts: Sequence[RunContext], batches: list[Arrays], path: Path) -> list[Call]:
    """A call for each context, which takes the batches in turn."""
    try:
        for context in contexts:
            context.run(batches[0])
    except AcmError:
        raise
    except Exception as error:  # the runtime's own types, with no common base but Exception
        raise LatencyError(
            f"{path} does not run on these inputs: {first_line(error)}", "run again with --debug for the traceback"
        ) from error
    return [_in_turn(context, batches) for context in contexts]


def _in_turn(context: RunContext, batches: list[Arrays]) -> Call:
    run, turns = context.run, cycle(batches)
    return lambda: run(next(turns))
