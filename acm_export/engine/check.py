"""Run an engine beside the portable file and judge what comes out, before the engine is written."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import AcmWarning, EngineError, MissingDependencyError
from acm_export.data.batches import graph_inputs
from acm_export.engine.agreement import Agreement, Reference, agreement
from acm_export.engine.passport import Checked
from acm_export.engine.trial_inputs import batches
from acm_export.onnx_file.budget_input import INPUT
from acm_export.onnx_file.inspection import stored_thresholds
from acm_export.onnx_file.manifest import Setting, read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.thresholds import setting_thresholds
from acm_export.runtimes.runnable import open_runnable, runnable_copy
from acm_export.runtimes.session import tap_gate_logits
from acm_export.verification.report import MARGIN_TOLERANCE, OUTPUT_TOLERANCE
from acm_export.verification.settings import uniform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays, GraphInput
    from acm_export.data.dataset import Dataset
    from acm_export.engine.prepare import Prepared
    from acm_export.engine.profiles import Profile
    from acm_export.engine.runtime import LoadedEngine


@dataclass(frozen=True)
class Dials:
    """One setting: what the engine is fed beside its inputs, and the thresholds that the portable file runs with."""

    feeds: Arrays
    thresholds: Mapping[str, NDArray[np.float32]]


class PortableFile:
    """The file an engine was built from, in ONNX Runtime on the CPU, with counts and gate logits as outputs.

    Args:
        path: For any target.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        ModelFileError: It refuses the file.
    """

    def __init__(self, path: Path) -> None:
        model = read_model(path)
        manifest = read_manifest(model, path)
        self._layers = manifest.layers
        self.outputs = [value.name for value in model.graph.output if not value.name.startswith("counts/")]
        copy, _ = runnable_copy(model, manifest)
        self._logits = tap_gate_logits(copy)
        self._session, _ = open_runnable(copy, manifest, path.parent, lean=True)

    def run(self, feeds: Arrays, thresholds: Mapping[str, NDArray[np.float32]]) -> Reference:
        """Run once with the thresholds, float32 ``[N]`` by layer."""
        dials = {layer.thresholds: thresholds[layer.name] for layer in self._layers}
        ran = self._session.run(feeds | dials)
        return Reference(
            {name: ran[name] for name in self.outputs},
            {layer.name: ran[f"counts/{layer.name}"] for layer in self._layers},
            {layer.name: ran[self._logits[layer.name]] for layer in self._layers},
            thresholds,
        )


class EngineCheck:
    """The comparison of an engine with its file: made before the engine is built, so that it fails before that.

    Args:
        prepared: What the engine is built from.
        profiles: Of the inputs with a dynamic dimension.
        open_inputs: Opens real data for the inputs of the model; None for random inputs.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        ModelFileError: It refuses the file.
        UsageError: The data do not fit the model or the profile.
    """

    def __init__(
        self,
        prepared: Prepared,
        profiles: Mapping[str, Profile],
        open_inputs: Callable[[tuple[GraphInput, ...]], Dataset] | None = None,
    ) -> None:
        self._prepared = prepared
        try:
            self._portable = PortableFile(prepared.source)
        except MissingDependencyError as error:
            reason = f"comparing the engine with the portable file: {error}"
            raise MissingDependencyError(reason, f"{error.hint}; --no-check leaves the comparison out") from error
        added = {INPUT, *(layer.thresholds for layer in prepared.manifest.layers)}
        inputs = graph_inputs(prepared.model, tuple(name for name in prepared.inputs if name not in added))
        self._batches = batches(inputs, profiles, open_inputs(inputs) if open_inputs else None)
        self._dials = tuple(dials(prepared))

    def run(self, engine: LoadedEngine) -> Checked:
        """Run every setting of the dials on every batch in both and judge.

        Raises:
            EngineError: The engine does not compute what the file computes.
        """
        layers, dtype = self._prepared.manifest.layers, self._prepared.manifest.dtype
        context = engine.context()
        try:
            found = [
                agreement(self._portable.run(feeds, dial.thresholds), context.run(feeds | dial.feeds)[0], layers)
                for feeds in self._batches
                for dial in self._dials
            ]
        finally:
            context.close()
        return judge(found, dtype, len(self._dials))


def judge(found: list[Agreement], dtype: str, settings: int) -> Checked:
    """Sum up agreements, refuse what rounding cannot explain, and warn of what was not seen.

    Args:
        found: Of every batch and setting.
        dtype: Of the file, which decides the tolerances (verification/report.py).
        settings: How many there were.

    Raises:
        EngineError: Samples that were routed alike differ by more than the tolerance, or a token was routed differently
            whose margin is not near its threshold. Where the engine gives no counts: most samples differ.
    """
    errors = [error for one in found for error in one.errors]
    tolerance, told = OUTPUT_TOLERANCE[dtype], all(one.moved is not None for one in found)
    worst = max((math.inf if math.isnan(error) else error for error in errors), default=None)
    beyond = [error for error in errors if not error <= tolerance]
    farthest = max((one.farthest for one in found), default=0.0)
    samples = sum(one.samples for one in found)
    compared = Checked(
        settings, None if worst is None or math.isinf(worst) else worst, samples, len(errors),
        sum(one.moved or 0 for one in found) if told else None, sum(one.tokens for one in found),
    )  # fmt: skip
    if any(math.isnan(error) for error in errors):
        raise EngineError("the engine gives NaN or infinity where the portable file does not", _KEEP)
    if (told and beyond) or 2 * len(beyond) > len(errors):
        raise EngineError(
            f"the engine's outputs differ by {max(beyond):.2e} of the largest value, in {len(beyond)} of {len(errors)} "
            f"samples by more than the {tolerance:g} that {dtype} allows",
            _KEEP,
        )
    if farthest > MARGIN_TOLERANCE[dtype]:
        raise EngineError(
            f"the engine routes a token differently whose margin is {farthest:.2g} standard deviations from its "
            f"threshold; rounding in {dtype} explains {MARGIN_TOLERANCE[dtype]:g}",
            _KEEP,
        )
    if not told and beyond:
        _warn(
            f"{len(beyond)} of {samples} samples differ by more than {tolerance:g}: an engine without counts cannot "
            "tell whether they were routed differently or are wrong"
        )
    if not errors:
        _warn(f"each of {samples} samples has a token that was routed differently: no error was measured")
    return compared


_KEEP = "--no-check keeps it all the same; --tf32 and other shapes may change it"


def _warn(text: str) -> None:
    warnings.warn(text, AcmWarning, stacklevel=3)


def dials(prepared: Prepared) -> Iterator[Dials]:
    """The settings to run: as stored; or over the table of a budget input; or the extremes where thresholds go in."""
    manifest = prepared.manifest
    bound, layers = manifest.setting.max_learners, manifest.layers
    if manifest.calibration is not None and manifest.budget_input:
        table = manifest.calibration.table
        for budget in (table.smallest, (table.smallest + table.largest) / 2, table.largest):
            thresholds = setting_thresholds(manifest.replaced(setting=Setting(None, bound, budget)))
            yield Dials({INPUT: np.array(budget, np.float32)}, thresholds)
        return
    source = read_model(prepared.source)
    stored = stored_thresholds(source, read_manifest(source, prepared.source), prepared.source.parent)
    if not prepared.ends.thresholds:
        yield Dials({}, stored)
        return
    extremes = (uniform(f"τ = {tau}", tau, layers).thresholds for tau in (math.inf, -math.inf))
    for chosen in (stored, *extremes):
        yield Dials({layer.thresholds: chosen[layer.name] for layer in layers}, chosen)
