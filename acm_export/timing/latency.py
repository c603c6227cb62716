"""Measure the latency of a model for each budget and for controlled routing."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmError, OutputError, UsageError
from acm_export.base.files import check_input, sha256_of, write_text
from acm_export.base.progress import Silent
from acm_export.timing.backends import open_backend
from acm_export.timing.baselines import baseline_warnings, check_data, open_baselines
from acm_export.timing.checks import differences, failures, read_checks
from acm_export.timing.environment import EnvironmentWatch
from acm_export.timing.gpu_watch import watch_gpu
from acm_export.timing.plot import write_plot
from acm_export.timing.reliability import device_warnings, environment_warnings, input_warnings, steadiness_warnings
from acm_export.timing.request import LatencyRequest
from acm_export.timing.result import Baseline, LatencyResult, ModelFile, ResultNotWrittenError, first_batch
from acm_export.timing.result_file import to_text
from acm_export.timing.routing import SKEWED
from acm_export.timing.runs import prepare_runs
from acm_export.timing.statistics import LinearFit, fit_line
from acm_export.timing.timed_runs import LoadedModels, time_runs
from acm_export.timing.trtexec import trtexec_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from acm_export.base.progress import Progress
    from acm_export.timing.result import RunResult
    from acm_export.timing.timed_runs import TimedRuns

    StrPath = str | os.PathLike[str]


def latency(
    model: StrPath | None = None,
    *,
    budgets: Sequence[float] = (),
    threshold: float | None = None,
    baseline: StrPath | None = None,
    baseline_int8: bool = False,
    data: StrPath | None = None,
    processor: StrPath | None = None,
    batch: int | Sequence[int] = 1,
    duration: float = 2.0,
    runs: int | None = None,
    warm_up: float | None = None,
    percentiles: Sequence[float] = (),
    runtime: str | None = None,
    plugin: StrPath | None = None,
    engine_cache: StrPath | None = None,
    onnx: StrPath | None = None,
    checkpoint: StrPath | None = None,
    part: str | None = None,
    streams: int = 1,
    cuda_graph: bool = False,
    assert_p99: Sequence[str] = (),
    compare: StrPath | None = None,
    max_regression: str | float = 0.05,
    trtexec_times: StrPath | None = None,
    output: StrPath | None = None,
    plot: StrPath | None = None,
    progress: Progress | None = None,
    command: str | None = None,
) -> LatencyResult:
    """Time a model for each budget, with routing by the gates and with controlled routing (least, most, skewed).

    Times are from inputs to outputs in host memory, after a warm-up. The blocks of a baseline lie between those of the
    model. An interrupt or an error after the first run gives a partial result.

    Args:
        model: Path of an ONNX file or engine; optional with ``trtexec_times``.
        budgets: β to time, from the calibrated table; by default the current setting of the model.
        threshold: One τ for every gated learner, for models that are not calibrated.
        baseline: Path of the dense model: an ONNX file, an engine or a checkpoint.
        baseline_int8: Time an int8 version of the baseline too. It is quantised with the options of an int8 ``model``,
            or with the default options, and needs ``data`` unless activations are dynamic. For ONNX Runtime.
        data: Real inputs: a file, a folder or ``module:function``; by default random inputs.
        processor: Folder of the tokenizer or processor; by default that of the model.
        batch: Batch sizes.
        duration: Seconds of timed runs for each combination of batch size, budget and routing.
        runs: Number of timed runs of each stream, instead of ``duration``.
        warm_up: Seconds of warm-up before the timed runs; by default until times are stable, at most five seconds.
        percentiles: Percentiles in addition to p50, p90, p95 and p99, such as 99.9.
        runtime: onnxruntime, onnxruntime-cuda, onnxruntime-tensorrt, tensorrt or pytorch; by default tensorrt for an
            engine and onnxruntime for an ONNX file.
        plugin: Path of the plugin library; by default the one next to the model.
        engine_cache: Folder in which onnxruntime-tensorrt keeps its engines.
        onnx: The ONNX file that an engine was built from, to measure β.
        checkpoint: Folder that the model was exported from, for pytorch.
        part: Part of a baseline folder, for pytorch, such as ``encoder``; by default the part of the checkpoint that
            the model was exported from, which the file names.
        streams: Number of streams that run at the same time.
        cuda_graph: Launch each run as a CUDA graph.
        assert_p99: Upper bounds of p99, such as ``4ms@0.5``.
        compare: Path of an earlier result; ratios to the baseline are compared if both results have one.
        max_regression: Share by which a run may be slower than in the earlier result, such as 0.05 or ``5%``.
        trtexec_times: Times that ``trtexec --exportTimes`` wrote; nothing is run.
        output: Path of the JSON file to write.
        plot: Path of the plot to write, .png or .svg.
        progress: Receives each step.
        command: Command line to record; by default that of this process.

    Returns:
        The result. Its ``failures`` name the assertions and comparisons that failed.

    Raises:
        UsageError: Options contradict each other or the model.
        ResultNotWrittenError: The measurement is done, but its files cannot be written.
        AcmError: The model is broken, a dependency is missing, or the model does not run.
    """
    watch = EnvironmentWatch()
    if model is None and trtexec_times is None:
        raise UsageError("there is no model to time", "give an ONNX file or an engine, or --trtexec-times")
    request = LatencyRequest(
        model=Path(model or trtexec_times or ""),
        budgets=tuple(budgets),
        threshold=threshold,
        batch=(batch,) if isinstance(batch, int) else tuple(batch),
        streams=streams,
        baseline=_path(baseline),
        baseline_int8=baseline_int8,
        data=None if data is None else os.fspath(data),
        processor=_path(processor),
        duration=duration,
        runs=runs,
        warm_up=warm_up,
        percentiles=tuple(dict.fromkeys(percentiles)),
        runtime=runtime,
        plugin=_path(plugin),
        engine_cache=_path(engine_cache),
        onnx=_path(onnx),
        checkpoint=_path(checkpoint),
        part=part,
        cuda_graph=cuda_graph,
        trtexec_times=_path(trtexec_times),
        checks=read_checks(assert_p99, _path(compare), max_regression),
        output=_path(output),
        plot=_path(plot),
        command=command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )
    request.check_outputs()
    if request.trtexec_times is not None:
        result = trtexec_result(request, request.trtexec_times)
    else:
        result = _measure(request, watch, progress or Silent())
    if request.checks.old is not None:
        result = replace(result, warnings=(*result.warnings, *differences(request.checks.old, result)))
    result = replace(result, failures=(*failures(request.checks, result), *result.failures))
    try:
        if request.output is not None:
            write_text(to_text(result), request.output)
        if request.plot is not None:
            write_plot(result, request.plot)
    except OutputError as error:
        raise ResultNotWrittenError(error, result) from error
    return result


def _path(value: StrPath | None) -> Path | None:
    return None if value is None else Path(value)


def _measure(request: LatencyRequest, watch: EnvironmentWatch, progress: Progress) -> LatencyResult:
    engine = request.model.suffix in (".plan", ".engine")
    write = "build-engine M.onnx" if engine else "export CHECKPOINT"
    what = "file or folder" if request.runtime == "pytorch" else "file"
    check_input(request.model, what, f"write it with: acm-export {write} -o {request.model.name}")
    backend = open_backend(request)
    gpu = watch_gpu() if backend.on_gpu else None
    try:
        file = backend.read(request.model)
        check_data(request, file.manifest)
        runs = prepare_runs(request, backend, file, progress)
        with open_baselines(request, backend, file.manifest, progress) as baselines:
            device, began = backend.device(), datetime.now().astimezone().isoformat(timespec="seconds")
            watch.start()
            paths = [baseline.path for baseline in baselines]
            with closing(LoadedModels(backend, file, paths, request.streams)) as models:
                timed = time_runs(request, runs, models, progress, gpu)
                environment = watch.stop()
    except AcmError as error:
        if gpu is not None and gpu.processes and not isinstance(error, UsageError):
            hint = error.hint or "run again with --debug for the traceback"
            error.hint = f"{hint}; the GPU is also used by {', '.join(gpu.processes)}"
        raise
    beside = [Baseline(b.model, tuple(results)) for b, results in zip(baselines, timed.baselines, strict=True)]
    return LatencyResult(
        model=ModelFile(str(file.path), sha256_of(file.path)),
        runtime=backend.info(),
        device=device,
        command=request.command,
        time=began,
        runs=tuple(timed.runs),
        fit=_fit(timed.runs),
        baseline=beside[0] if beside else None,
        baseline_int8=beside[1] if len(beside) > 1 else None,
        precision=file.manifest.precision,
        warnings=(
            *input_warnings(file, runs),
            *baseline_warnings(request, file.manifest),
            *environment_warnings(environment),
            *(() if gpu is None else gpu.warnings()),
            *steadiness_warnings(
                timed.steadiness, clocks_known=device.clocks is not None, percentiles=request.percentiles
            ),
            *device_warnings([run for run in timed.runs if run.is_whole], cuda_graph=request.cuda_graph),
        ),
        partial=timed.partial,
        error=None if timed.error is None else str(timed.error),
        source=file.source,
        cuda_graph=request.cuda_graph,
        failures=(_ended_early(timed, len(runs), request.output),) if timed.partial else (),
    )


def _fit(runs: Sequence[RunResult]) -> LinearFit:
    """The line over the data, least and most runs of the first batch size."""
    first = [run for run in map(runs.__getitem__, first_batch(runs)) if run.routing != SKEWED]
    return fit_line([(r.budget_measured, r.host_ms.p50) for r in first if r.budget_measured is not None])


def _ended_early(timed: TimedRuns, planned: int, output: Path | None) -> str:
    what = "interrupted" if timed.error is None else f"{timed.error}; stopped"
    done = f"{sum(run.is_whole for run in timed.runs)} of {planned} runs"
    kept = "they are not written to a file" if output is None else f"they are in {output}, marked as partial"
    return f"{what} after {done}; {kept}"
