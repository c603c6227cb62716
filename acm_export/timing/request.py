"""The request of ``latency``, validated as far as possible without opening a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.base.files import check_apart, check_suffix, check_writable
from acm_export.base.optional import require
from acm_export.engine.passport import files_of
from acm_export.timing.checks import Checks

if TYPE_CHECKING:
    from collections.abc import Sequence

RUNTIMES = ("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "pytorch")
MAX_STREAMS = 64
_WITHOUT_RUNNING = ("model", "trtexec_times", "batch", "streams", "percentiles", "checks", "output", "command")


@dataclass(frozen=True)
class LatencyRequest:
    """What to time and how.

    Args:
        model: Path of an ONNX file or engine; the times of trtexec if nothing else is known.
        budgets: β to time.
        threshold: τ of every gated learner, instead of budgets.
        batch: Batch sizes.
        streams: Streams that run at the same time.
        baseline: Path of the dense model that is timed between the blocks, or None.
        baseline_int8: Whether to time an int8 version of the baseline too.
        data: Real inputs, as :func:`acm_export.data.open_data.open_data` takes them; None for random inputs.
        processor: Folder of the tokenizer or processor; by default that of the model.
        duration: Seconds of timed runs, for each batch size, budget and routing.
        runs: Timed runs of each stream, instead of ``duration``; None if the duration decides.
        warm_up: Seconds of the warm-up; None to warm up until times are stable.
        percentiles: Percentiles in addition to those that every result has.
        runtime: One of :data:`RUNTIMES`; None to choose by the file.
        plugin: Path of the plugin library; None for the one next to the model.
        engine_cache: Folder of the TensorRT provider's engine cache.
        onnx: The ONNX file that an engine was built from.
        checkpoint: Folder that the model was exported from, for pytorch.
        part: Part of a baseline for pytorch; None for the part of the checkpoint that the model names.
        cuda_graph: Whether to launch each run as a CUDA graph.
        trtexec_times: Times that trtexec exported; nothing is run then.
        checks: Assertions, and the earlier result to compare with.
        output: Path of the result, or None.
        plot: Path of the plot, or None.
        command: Command line to record in the result.

    Raises:
        UsageError: A value is out of range, or two options exclude each other.
    """

    model: Path
    budgets: Sequence[float] = ()
    threshold: float | None = None
    batch: Sequence[int] = (1,)
    streams: int = 1
    baseline: Path | None = None
    baseline_int8: bool = False
    data: str | None = None
    processor: Path | None = None
    duration: float = 2.0
    runs: int | None = None
    warm_up: float | None = None
    percentiles: Sequence[float] = ()
    runtime: str | None = None
    plugin: Path | None = None
    engine_cache: Path | None = None
    onnx: Path | None = None
    checkpoint: Path | None = None
    part: str | None = None
    cuda_graph: bool = False
    trtexec_times: Path | None = None
    checks: Checks = field(default_factory=Checks)
    output: Path | None = None
    plot: Path | None = None
    command: str = ""

    def __post_init__(self) -> None:
        self._check_values()
        if self.budgets and self.threshold is not None:
            raise UsageError("--budgets and --threshold exclude each other", "give one of them")
        if self.baseline_int8 and self.baseline is None:
            raise UsageError("--baseline-int8 has no effect without --baseline", "give the dense file with --baseline")
        if self.processor is not None and self.data is None:
            raise UsageError("--processor has no effect without --data", "give samples with --data")
        if self.part is not None and (self.runtime != "pytorch" or self.baseline is None):
            raise UsageError(
                "--part names the part of a --baseline folder that --runtime pytorch loads, and has no effect here",
                "leave it out: the part of the --checkpoint folder is in the file",
            )
        if self.trtexec_times is None:
            return
        for option in fields(self):
            if option.name not in _WITHOUT_RUNNING and getattr(self, option.name) != option.default:
                flag = f"--{option.name.replace('_', '-')}"
                raise UsageError(f"{flag} does not apply with --trtexec-times, which runs nothing", f"leave {flag} out")
        if len(self.batch) != 1:
            raise UsageError(
                f"--batch names {len(self.batch)} sizes; trtexec times one", "give the size that trtexec timed"
            )

    def _check_values(self) -> None:
        if not 0 < self.duration < math.inf:
            raise UsageError(f"--duration is {self.duration:g} s; it must be above 0", "for example: --duration 2s")
        if self.runs is not None and self.runs < 1:
            raise UsageError(f"--runs is {self.runs}; expected at least 1")
        if self.warm_up is not None and not 0 <= self.warm_up < math.inf:
            raise UsageError(f"--warm-up is {self.warm_up:g} s; it must be at least 0", "for example: --warm-up 1s")
        if not self.batch or min(self.batch) < 1:
            raise UsageError(f"--batch is {', '.join(map(str, self.batch))}; expected sizes of at least 1, as in 1,8")
        if not 1 <= self.streams <= MAX_STREAMS:
            raise UsageError(f"--streams is {self.streams}; expected 1 to {MAX_STREAMS}")
        if wrong := [percent for percent in self.percentiles if not 0 < percent <= 100]:
            raise UsageError(
                f"--percentile is {wrong[0]:g}; expected a number above 0 and at most 100", "for example: 99.9"
            )
        if self.runtime is not None and self.runtime not in RUNTIMES:
            raise UsageError(f"unknown runtime {self.runtime!r}", f"choose one of {', '.join(RUNTIMES)}")

    def check_outputs(self) -> None:
        """Check before any work that result and plot can be written without replacing what is read.

        Raises:
            UsageError: They would replace an input, or a name has the wrong suffix.
            OutputError: They cannot be written.
            MissingDependencyError: A plot is asked for, and Matplotlib is not installed.
        """
        read = (self.model, self.baseline, self.onnx, self.trtexec_times, self.plugin, self.data, self.checkpoint)
        paths = [Path(name) for name in read if name is not None]
        check_apart([part for path in paths for part in files_of(path)], {"-o": self.output, "--plot": self.plot})
        if self.output is not None:
            check_suffix(self.output, (".json",))
            check_writable(self.output)
        if self.plot is not None:
            check_suffix(self.plot, (".png", ".svg"), "--plot")
            require("matplotlib")
            check_writable(self.plot, "--plot")
