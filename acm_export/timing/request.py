"""The whole of ``latency``: refuse what cannot work, prepare, time, and give back one result."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmError, UsageError
from acm_export.base.files import check_apart, check_writable, sha256_of
from acm_export.base.plots import check_plot
from acm_export.data.open_data import open_data
from acm_export.engine.passport import files_of, passport_path, read_passport
from acm_export.timing import checks
from acm_export.timing.backends import Asked, open_backend
from acm_export.timing.gpu_watch import GpuWatch, watch_gpu
from acm_export.timing.inputs import MOST_BATCHES
from acm_export.timing.latency import Origin, time_file
from acm_export.timing.measure import Effort
from acm_export.timing.plan import Plan, plan, prepare
from acm_export.timing.result import ModelFile
from acm_export.timing.routing import DATA
from acm_export.timing.sides import Sides, check_baseline
from acm_export.timing.trtexec import read_times, result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from acm_export.base.progress import Progress
    from acm_export.timing.backend import Backend
    from acm_export.timing.clock import Clock
    from acm_export.timing.result import Result


@dataclass(frozen=True)
class Request:
    """What to time and how.

    Args:
        model: The file.
        asked: The runtime.
        budgets: β to measure at.
        threshold: τ to measure at, in their place.
        batches: Batch sizes.
        streams: Contexts that run at once.
        baseline: What is timed in between, or None.
        data: Real inputs, as :func:`acm_export.data.open_data.open_data` takes them, or None.
        processor: Folder with the preprocessing of images, or None.
        effort: Spent on each run.
    """

    model: Path
    asked: Asked = field(default_factory=Asked)
    budgets: Sequence[float] = ()
    threshold: float | None = None
    batches: Sequence[int] = (1,)
    streams: int = 1
    baseline: Path | None = None
    data: str | None = None
    processor: Path | None = None
    effort: Effort = field(default_factory=Effort)


@dataclass(frozen=True)
class Surveyor:
    """What a measurement is made with.

    Args:
        clock: In seconds.
        progress: Shows how the preparation goes, and is closed before anything is timed.
        log: Receives the name of what comes next.
        command: The command line, for the result.
        load: Average load of the minute before, or None.
    """

    clock: Clock
    progress: Callable[[], AbstractContextManager[Progress]]
    log: Callable[[str], None]
    command: str
    load: float | None


def check_outputs(read: Sequence[Path | str | None], output: Path | None, plot: Path | None) -> None:
    """Find out before any work whether results can be written.

    Args:
        read: Files that the request names; what belongs to them (passports, data beside a model) is kept from harm too.
        output: Of the result, or None.
        plot: Of the picture, or None.

    Raises:
        UsageError: They would replace what is read, or the picture has a name that cannot be drawn.
        OutputError: They cannot be written.
    """
    paths = [Path(name) for name in read if name is not None]
    check_apart([part for path in paths for part in files_of(path)], {"-o": output, "--plot": plot})
    if output is not None:
        check_writable(output)
    if plot is not None:
        check_plot(plot)
        check_writable(plot, "--plot")


def carry_out(request: Request, demands: checks.Demands, surveyor: Surveyor) -> tuple[Result, int]:
    """Time what is asked for.

    Args:
        request: It.
        demands: Refused where they cannot be held against what will be measured; they are not judged here.
        surveyor: What it is made with.

    Returns:
        The result, and how many runs were planned.

    Raises:
        AcmError: Something does not fit, is missing, or does not run.
    """
    backend = open_backend(request.model, request.asked)
    gpu = watch_gpu() if backend.on_gpu else None
    try:
        return _timed(request, demands, surveyor, backend, gpu)
    except AcmError as error:
        if gpu is not None and gpu.tenants and not isinstance(error, UsageError):
            error.hint = f"{error.hint or '--debug shows more'}; the GPU is also held by {', '.join(gpu.tenants)}"
        raise


def _timed(
    request: Request, demands: checks.Demands, surveyor: Surveyor, backend: Backend, gpu: GpuWatch | None
) -> tuple[Result, int]:
    planned = plan(
        request.model, backend, budgets=request.budgets, threshold=request.threshold, batches=request.batches,
        streams=request.streams,
    )  # fmt: skip
    _check_demands(demands, planned)
    baseline = _baseline(request, planned, backend)
    source = None
    if request.data is not None:
        source = open_data(
            request.data,
            planned.file.inputs,
            model_folder=request.model.absolute().parent,
            processor=request.processor,
            limit=max(request.batches) * MOST_BATCHES,
        )
    with surveyor.progress() as shown:
        prepared = prepare(planned, source, shown)
    if demands.old is not None:
        keys = [(run.feeds.shapes, run.routing, run.budget_requested, request.streams) for run in prepared]
        checks.check_common(demands.old, keys)
    sides = Sides(planned, request.baseline)
    origin = Origin(surveyor.command, surveyor.load, baseline, request.asked.cuda_graph, gpu)
    try:
        result = time_file(planned, prepared, sides, request.effort, surveyor.clock, origin, surveyor.log)
    finally:
        sides.close()
    return result, len(prepared)


def read_trtexec(
    times: Path, model: Path | None, demands: checks.Demands, batches: Sequence[int], streams: int, command: str
) -> Result:
    """The result of times that trtexec wrote; nothing is run.

    Args:
        times: The file.
        model: What trtexec ran, or None where it is not known.
        demands: Refused where they cannot be held against it; they are not judged here.
        batches: Samples of a query, one number.
        streams: That trtexec ran at once.
        command: The command line.

    Raises:
        UsageError: The file is none of trtexec, or the demands do not fit.
    """
    if len(batches) != 1:
        raise UsageError(f"--batch names {len(batches)} sizes, the times of trtexec are of one", "name one")
    if model is not None and not model.is_file():
        raise UsageError(f"there is no file {model}", "name what trtexec ran, or leave it out")
    checks.check_assertions(demands.assertions, [None])
    file = ModelFile(str(model or times), None if model is None else sha256_of(model))
    source = None
    if model is not None and passport_path(model).is_file():
        onnx_file = read_passport(model).model
        source = ModelFile(onnx_file.name, onnx_file.sha256)
    if demands.old is not None and demands.old_path is not None:
        checks.check_comparable(demands.old, demands.old_path, (source or file).sha256, model or times)
        checks.check_common(demands.old, [({}, DATA, None, streams)])
    queries = read_times(times)
    when = datetime.fromtimestamp(times.stat().st_mtime).astimezone()
    return result_of(queries, file, source, when, command, batch=batches[0], streams=streams)


def _check_demands(demands: checks.Demands, planned: Plan) -> None:
    checks.check_assertions(demands.assertions, [choice.budget_requested for choice in planned.choices])
    if demands.old is None or demands.old_path is None:
        return
    source, path = planned.file.source, planned.file.path
    checks.check_comparable(demands.old, demands.old_path, source.sha256 if source else sha256_of(path), path)


def _baseline(request: Request, planned: Plan, backend: Backend) -> ModelFile | None:
    if request.baseline is None:
        return None
    check_baseline(request.baseline, planned.file.inputs, request.model, backend)
    return ModelFile(str(request.baseline), backend.baseline_digest(request.baseline))
