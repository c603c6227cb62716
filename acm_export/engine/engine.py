"""``build-engine``: plan an engine, build it, compare it with the portable file, and write it with its passport."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import ExportError, MissingDependencyError
from acm_export.base.progress import Silent
from acm_export.engine import host, options
from acm_export.engine.build_planned import PluginSource, build_planned
from acm_export.engine.check import EngineCheck, data_inputs
from acm_export.engine.plan import EnginePlan, plan_engine
from acm_export.engine.prepare import ExtraIO, save_for_trtexec
from acm_export.engine.release import TENSORRT, TENSORRT_RTX, Release, release_of
from acm_export.engine.settings import parse_tactic_sources
from acm_export.onnx_file.file_data import open_file_data

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from types import ModuleType
    from typing import TypeAlias

    from acm_export.base.json_fields import JsonObject
    from acm_export.base.progress import Progress
    from acm_export.data.open_data import Data
    from acm_export.engine.options import ShapesOption
    from acm_export.engine.passport import Passport

    AnyPath: TypeAlias = str | os.PathLike[str]

PLANNED = {
    TENSORRT: tuple(Release(version) for version in ((8, 5), (10, 3), (11, 0))),
    TENSORRT_RTX: (Release((1, 7), TENSORRT_RTX),),
}
"""Releases that a dry run shows where the runtime is not installed: one for each generation of its interface."""


@dataclass(frozen=True)
class EngineResult:
    """Result of :func:`build_engine`.

    Args:
        model: ONNX file that the engine is built from.
        output: Path of the engine.
        plans: What was built; after a dry run without TensorRT, what each generation of TensorRT would build.
        passport: What the engine was built from and how it compared; None after a dry run.
    """

    model: Path
    output: Path
    plans: tuple[EnginePlan, ...]
    passport: Passport | None = None

    def to_json(self) -> JsonObject:
        """The result for ``--json``."""
        return {
            "output": str(self.output),
            "dry_run": self.passport is None,
            "plans": [plan.to_json() for plan in self.plans],
            "passport": None if self.passport is None else self.passport.to_json(),
        }


def build_engine(
    model: AnyPath,
    output: AnyPath,
    *,
    runtime: str = TENSORRT,
    min_shapes: ShapesOption | None = None,
    opt_shapes: ShapesOption | None = None,
    max_shapes: ShapesOption | None = None,
    counts: bool = True,
    threshold_inputs: bool = False,
    tf32: bool = False,
    timing_cache: AnyPath | None = None,
    plugin: AnyPath | None = None,
    tensorrt_root: AnyPath | None = None,
    cuda_root: AnyPath | None = None,
    tactic_sources: str | None = None,
    data: Data | None = None,
    processor: AnyPath | None = None,
    check: bool = True,
    save_onnx: AnyPath | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> EngineResult:
    """Build a TensorRT engine on this machine and write it with its passport, ``OUTPUT.json``.

    Args:
        model: An ONNX file written by acm-export, for any target.
        output: Engine to write. An engine that fails the comparison is not written.
        runtime: ``tensorrt``, or ``tensorrt-rtx``, which needs no GPU and takes no plugin: it builds the portable
            function bodies. Its engines are not run, so not compared.
        min_shapes: Smallest input shapes, as ``name:1x3x224x224,...`` or a mapping; by default a batch of 1.
        opt_shapes: Input shapes to optimize for; by default those of the export.
        max_shapes: Largest input shapes; by default a batch of 8.
        counts: Whether the engine outputs the learner counts of each layer, at the cost of one copy per layer.
        threshold_inputs: Whether the engine takes thresholds as inputs instead of a budget.
        tf32: Whether float32 products outside the plugin may be rounded to TF32.
        timing_cache: TensorRT timing cache to read, if it exists, and to write.
        plugin: Plugin library; by default the prebuilt one, else a compiled one, is written next to the engine.
        tensorrt_root: Folder of TensorRT, to compile the plugin with; by default the usual places are searched.
        cuda_root: Folder of CUDA, to compile the plugin with; by default the usual places are searched.
        tactic_sources: Changes to the builder's default tactic sources, as in ``-CUDNN,+CUBLAS``.
        data: Samples for the comparison, as for :func:`acm_export.verify`; by default random inputs.
        processor: Folder of the tokenizer or processor; by default that of the model.
        check: Whether to compare the engine with the portable file.
        save_onnx: File to write with the model that TensorRT parses, for trtexec.
        dry_run: Only plan; nothing is built, and TensorRT need not be installed.
        progress: Receives the steps.

    Raises:
        UsageError: Options contradict each other or the model.
        ModelFileError: The file was not written by acm-export.
        MissingDependencyError: The runtime is not installed, or ONNX Runtime for the comparison.
        EngineError: There is no GPU, the registry, the parser or the builder fails, or the engine does not compute
            what the portable file computes.
        PluginError: The plugin library cannot be compiled.
        OutputError: The output cannot be written.
    """
    model, output, progress = Path(model), Path(output), progress or Silent()
    library, cache, saved, folder = map(_path, (plugin, timing_cache, save_onnx, processor))
    low = options.shapes(min_shapes, "--min-shapes")
    best = options.shapes(opt_shapes, "--opt-shapes")
    high = options.shapes(max_shapes, "--max-shapes")
    given = {"--plugin": library, "--timing-cache": cache, "--save-onnx": saved, "--processor": folder, "--data": data}
    given |= {"--tensorrt-root": tensorrt_root, "--cuda-root": cuda_root}
    options.check_options(runtime, output, given, check=check)
    options.check_files(model, output, given)
    check = check and runtime == TENSORRT
    tensorrt = _find(runtime, required=not dry_run)
    sources = () if tactic_sources is None else parse_tactic_sources(tactic_sources)
    plan = partial(
        plan_engine,
        model,
        output,
        shapes=(low, best, high),
        extra=ExtraIO(counts=counts, thresholds=threshold_inputs),
        tf32=tf32,
        timing_cache=cache,
        tactic_sources=sources,
    )
    plans = _plans([release_of(tensorrt)] if tensorrt else PLANNED[runtime], plan)
    plans = plans if library is None else [replace(one, plugin=library) for one in plans]
    if saved is not None:
        save_for_trtexec(plans[-1].prepared, saved)
        plans = [replace(plan, saved=saved) if plan.target == plans[-1].target else plan for plan in plans]
    passport = None
    open_inputs = None
    if data is not None and plans:
        manifest = plans[0].prepared.manifest
        open_inputs = partial(open_file_data, data, path=model, manifest=manifest, processor=folder)
        if dry_run:
            open_inputs(data_inputs(plans[0].prepared))  # refuses data that a build would refuse
    if tensorrt is not None and not dry_run:
        source = PluginSource(library, _path(tensorrt_root), _path(cuda_root))
        prepared, settings = plans[0].prepared, plans[0].settings
        make_check = partial(EngineCheck, prepared, settings.profiles, open_inputs) if check else None
        passport = build_planned(plans[0], tensorrt, source, make_check, progress)
    return EngineResult(model, output, tuple(plans), passport)


def _plans(releases: Sequence[Release], plan: Callable[..., EnginePlan]) -> list[EnginePlan]:
    """A plan for each release, without those that cannot run the model; an error if none can."""
    planned = [_plan_or_refusal(plan, release) for release in releases]
    plans = [one for one in planned if isinstance(one, EnginePlan)]
    if not plans and isinstance(planned[-1], ExportError):
        raise planned[-1]
    return plans


def _plan_or_refusal(plan: Callable[..., EnginePlan], release: Release) -> EnginePlan | ExportError:
    try:
        return plan(release=release)
    except ExportError as error:  # TensorRT 8 cannot run bf16, and no version dynamic int8 activations
        return error


def _find(runtime: str, *, required: bool) -> ModuleType | None:
    try:
        return host.find_tensorrt(runtime)
    except MissingDependencyError:
        if required:
            raise
        return None


def _path(value: AnyPath | None) -> Path | None:
    return None if value is None else Path(value)
