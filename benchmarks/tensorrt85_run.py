"""Build an engine as ``build-engine`` does and run it once: MODEL.onnx PLUGIN.so INPUTS.npz OUTPUTS.npz.

Runs in the Python of an unpacked TensorRT 8.5.3, which has no ONNX Runtime; tensorrt85_engines.py compares the outputs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import tensorrt as trt
from tensorrt85_kit import WITHOUT_CUBLAS

from acm_export.engine.build import build
from acm_export.engine.library import load_plugin
from acm_export.engine.plan import plan_engine
from acm_export.engine.release import release_of
from acm_export.engine.runtime import LoadedEngine


def main(model: Path, plugin: Path, inputs: Path, outputs: Path) -> None:
    """Load the plugin, build for the shapes of the inputs, run, write the outputs."""
    load_plugin(trt, plugin)
    with np.load(inputs) as archive:
        feeds = dict(archive)
    shapes = {name: array.shape for name, array in feeds.items()}
    planned = plan_engine(model, Path("engine"), release_of(trt), ({}, shapes, shapes), tactic_sources=WITHOUT_CUBLAS)
    start = monotonic()
    engine = LoadedEngine(trt, build(trt, planned.prepared, planned.settings), str(model))
    print(f"TensorRT {trt.__version__}: built {model.name} in {monotonic() - start:.1f} s")
    context = engine.context()
    results, times = context.run(feeds)
    print(f"ran in {times.compute_ms:.2f} ms")
    np.savez(outputs, **dict[str, Any](results))
    context.close()
    engine.close()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:5]))
