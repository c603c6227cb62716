"""Build engines with TensorRT-RTX, in the Python that ACM_RTX_PYTHON names; no GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from acm_export.exporter import export
from acm_export.surgery.examples import example_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from acm_export.surgery import ModelFamily

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


def export_family(model: PreTrainedModel, family: ModelFamily, path: Path, dtype: str, **options: Any) -> Path:
    """Export a model of a family, with every length dynamic that its inputs leave open."""
    how = family.interface(model)
    settings = {"dtype": dtype, "verify": False, "dynamic_shapes": how.dynamic_axes(), "output_fields": how.outputs}
    export(model, example_inputs(how), path, **(settings | options))
    return path


def profile_options(
    model: PreTrainedModel, family: ModelFamily, file: Path, batch: tuple[int, int, int] = (1, 2, 4)
) -> list[str]:
    """Options of ``build-engine`` that give every dynamic length of a file a range: batch, tokens, audio samples."""
    bounds = family.bounds(model.config)
    ranges = {"batch": batch}
    for name, length in family.lengths(model.config).items():
        low, high = bounds.get(name, (length, None))
        ranges[name] = (low, length, high or 2 * length)
    inputs = {value.name: value.type.tensor_type.shape.dim for value in onnx.load(file).graph.input}
    options = []
    for i, option in enumerate(("--min-shapes", "--opt-shapes", "--max-shapes")):
        shapes = [
            f"{name}:{'x'.join(str(ranges[d.dim_param][i] if d.dim_param else d.dim_value) for d in dims)}"
            for name, dims in inputs.items()
        ]
        options += [option, ",".join(shapes)]
    return options
