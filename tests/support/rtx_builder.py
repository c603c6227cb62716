"""Build engines with TensorRT-RTX, in the Python that ACM_RTX_PYTHON names; no GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from acm_export.engine.profiles import format_shapes
from acm_export.exporter import export
from acm_export.surgery import interface_of
from acm_export.surgery.examples import example_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

PYTHON = os.environ.get("ACM_RTX_PYTHON", "")
ROOT = Path(__file__).parents[2]

needs_rtx = pytest.mark.skipif(
    not PYTHON, reason="ACM_RTX_PYTHON names no Python with TensorRT-RTX; make builder-check sets one up"
)

NETWORK_SCRIPT = """
import json, sys
import tensorrt_rtx_bindings as trt
log = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(log)
network = builder.create_network(0)
parser = trt.OnnxParser(network, log)
parsed = parser.parse_from_file(sys.argv[1])
layers = [network.get_layer(i) for i in range(network.num_layers)] if parsed else []
print(json.dumps({"parsed": parsed, "layers": [layer.type.name for layer in layers]}))
"""


BUILD_SCRIPT = """
import json, sys
from acm_export import AcmError, build_engine
said = []
for model, engine, profile in json.loads(sys.argv[1]):
    try:
        build_engine(model, engine, runtime="tensorrt-rtx", **profile)
        said.append("")
    except AcmError as error:
        said.append(str(error))
print(json.dumps(said))
"""

Profile = dict[str, str]
"""The arguments ``min_shapes``, ``opt_shapes`` and ``max_shapes`` of ``build_engine``."""


def command(*arguments: str | Path) -> list[str]:
    """The command line of acm-export in that Python."""
    return [PYTHON, "-m", "acm_export", *map(str, arguments)]


def environment() -> dict[str, str]:
    """Environment in which that Python imports this checkout."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a verb of acm-export in that Python."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=500, check=False, env=environment()
    )


def build(model: Path, engine: Path, *options: str) -> dict[str, Any]:
    """Build an engine; returns the result of ``--json``."""
    done = run("build-engine", model, "-o", engine, "--runtime", "tensorrt-rtx", "--json", *options)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def parsed_layers(model: Path) -> list[str]:
    """Types of the layers in the network that NVIDIA's parser makes of a file, unchanged."""
    arguments = [PYTHON, "-c", NETWORK_SCRIPT, str(model)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    network = json.loads(done.stdout.splitlines()[-1])
    assert network["parsed"], done.stderr
    return list(network["layers"])


def build_files(profiles: Mapping[Path, Profile]) -> dict[Path, str]:
    """Build engines beside ONNX files, all in one process.

    Args:
        profiles: Profile of each file.

    Returns:
        For each file what the parser or the builder says against it; empty if its engine was built.
    """
    files = [[str(file), str(file.with_suffix(".rtx")), profile] for file, profile in profiles.items()]
    arguments = [PYTHON, "-c", BUILD_SCRIPT, json.dumps(files)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=500, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    return dict(zip(profiles, json.loads(done.stdout.splitlines()[-1]), strict=True))


def export_model(model: nn.Module, path: Path, dtype: str, **options: Any) -> Path:
    """Export a model of transformers, with every length dynamic that its inputs leave open."""
    how = interface_of(model)
    settings = {"dtype": dtype, "verify": False, "dynamic_shapes": how.dynamic_axes(), "output_fields": how.outputs}
    export(model, example_inputs(how), path, **(settings | options))
    return path


def profile_of(model: nn.Module, file: Path, batch: tuple[int, int, int] = (1, 2, 4)) -> Profile:
    """A range for every dynamic length of a file: batch, tokens, audio samples."""
    how = interface_of(model)
    ranges = {"batch": batch}
    for name, length in how.lengths.items():
        low, high = how.bounds.get(name, (length, None))
        ranges[name] = (low, length, high or 2 * length)
    inputs = {value.name: value.type.tensor_type.shape.dim for value in onnx.load(file).graph.input}

    def shapes(end: int) -> str:
        return format_shapes(
            {
                name: tuple(ranges[dim.dim_param][end] if dim.dim_param else dim.dim_value for dim in dims)
                for name, dims in inputs.items()
            }
        )

    return {name: shapes(end) for end, name in enumerate(("min_shapes", "opt_shapes", "max_shapes"))}


def profile_options(model: nn.Module, file: Path, batch: tuple[int, int, int] = (1, 2, 4)) -> list[str]:
    """Options of ``build-engine`` for :func:`profile_of`."""
    profile = profile_of(model, file, batch)
    return [word for name, shapes in profile.items() for word in (f"--{name.replace('_', '-')}", shapes)]
