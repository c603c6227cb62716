"""The part of a run of ONNX Runtime that its profile attributes to no kernel."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import onnx

_RUNS = 300
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class RunProfile:
    """Medians and means of profiled runs.

    Args:
        kernels: Kernels in one run.
        run_us: Microseconds of one run, median.
        outside_us: Microseconds of one run outside kernels: the median run less the mean time in kernels.
    """

    kernels: float
    run_us: float
    outside_us: float


def profile_runs(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], outputs: list[str], folder: Path, threads: int
) -> RunProfile:
    """Run a model many times with profiling.

    Args:
        model: Model to run.
        feeds: Its inputs.
        outputs: Outputs to compute.
        folder: Folder for the profile.
        threads: Threads of one operator.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, _ERRORS_ONLY
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for _ in range(_RUNS):
        session.run(outputs, dict(feeds))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = [event["dur"] for event in events if event["name"] == "model_run"]
    kernels = [e["dur"] for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    run = float(median(runs))
    return RunProfile(len(kernels) / len(runs), run, run - sum(kernels) / len(runs))
