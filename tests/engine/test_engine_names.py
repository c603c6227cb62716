"""TensorRT's bindings define the functions and names that acm-export uses, and the doubles of the tests have the same.

The real signatures of three versions are stored in support/data; a TensorRT of this machine is checked, too.
"""

from __future__ import annotations

import inspect
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from engine_fake_runtime import FakeContext, FakeEngine
from engine_fake_tensorrt import fake
from plugin_build import each_tensorrt
from tensorrt_signatures import accepts, calls, overloads

SUPPORT = Path(__file__).parents[1] / "support"
STORED = json.loads((SUPPORT / "data" / "tensorrt_signatures.json").read_text())
VERSIONS = list(STORED)

RUNTIME = {
    "ICudaEngine": ["num_io_tensors"],
    "TensorIOMode": ["INPUT"],
    "TensorLocation": ["DEVICE"],
    "Logger": ["WARNING"],
}
BUILDER = {
    "INetworkDefinition": ["num_layers"],
    "OnnxParser": ["num_errors"],
    "BuilderFlag": ["TF32"],
    "TacticSource": ["EDGE_MASK_CONVOLUTIONS"],
}
BEFORE_10 = {
    "BuilderFlag": ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"],
    "ILayer": ["type", "num_inputs", "num_outputs", "precision"],
    "ITensor": ["name"],
    "LayerType": ["PLUGIN_V2", "SHAPE", "IDENTITY", "DEQUANTIZE"],
    "NetworkDefinitionCreationFlag": ["EXPLICIT_BATCH"],
    "IPluginRegistry": ["plugin_creator_list"],
}
FROM_10 = {
    "NetworkDefinitionCreationFlag": ["STRONGLY_TYPED"],
    "IPluginRegistry": ["all_creators"],
    "IBuilderConfig": ["progress_monitor"],
}
NAMES_SCRIPT = """
import json, sys
from plugin_registry_probe import import_tensorrt
trt = import_tensorrt()
tables = json.loads(sys.argv[1])
wanted = [tables[0]]
if hasattr(trt, "Builder"):
    wanted += [tables[1], tables[3 if int(trt.__version__.split(".")[0]) >= 10 else 2]]
print(json.dumps([
    f"{kind}.{name}" for table in wanted for kind, names in table.items() for name in names
    if not hasattr(getattr(trt, kind, None), name)
]))
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_calls_match_the_stored_signatures(version: str) -> None:
    check_calls(version, STORED[version], builder=True)


@each_tensorrt()
def test_calls_match_the_tensorrt_of_this_machine(python: str) -> None:
    found = run(python, str(SUPPORT / "tensorrt_signatures.py"))
    for version, signatures in found.items():
        check_calls(version, signatures, builder="Builder.create_network" in signatures)


@each_tensorrt()
def test_names_are_in_the_tensorrt_of_this_machine(python: str) -> None:
    assert run(python, "-c", NAMES_SCRIPT, json.dumps([RUNTIME, BUILDER, BEFORE_10, FROM_10])) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_doubles_have_the_stored_signatures(version: str) -> None:
    doubles = instances(version)
    for name, arguments in calls(version).items():
        kind, _, function = name.partition(".")
        if function != "__init__":
            own = [
                parameter.lstrip("_") for parameter in inspect.signature(getattr(doubles[kind], function)).parameters
            ]
            own = own[1:] if inspect.isclass(doubles[kind]) else own
            assert own[: len(arguments)] == arguments, name
            assert any(accepts(overload, own) for overload in STORED[version][name]), name


def test_docstrings_of_pybind11_are_read() -> None:
    text = """f(*args, **kwargs)
Overloaded function.

1. f(self: trt.T, name: str, shape: Tuple[int, int] = (1, 2), kind: trt.Kind = <Kind.A: 0>) -> Dict[str, int]

2. f(self: trt.T) -> None
"""
    assert overloads(text) == [["name", "shape=", "kind="], []]
    assert accepts(["name", "shape="], ["name"])
    assert not accepts(["name", "shape"], ["name"])
    assert not accepts(["shape", "name"], ["name", "shape"])


def check_calls(version: str, signatures: dict[str, list[list[str]]], *, builder: bool) -> None:
    wanted = calls(version, builder=builder)
    assert [name for name in wanted if name not in signatures] == []
    for name, arguments in wanted.items():
        assert any(accepts(overload, arguments) for overload in signatures[name]), (name, signatures[name])


def instances(version: str) -> dict[str, Any]:
    """The doubles of TensorRT's classes: instances, or classes that only an engine creates."""
    tensorrt, seen = fake(version, errors=1)
    builder = tensorrt.Builder(None)
    config, network = builder.create_builder_config(), builder.create_network()
    parser = tensorrt.OnnxParser(network, None)
    monitored = {} if version.startswith("8") else {"IProgressMonitor": tensorrt.IProgressMonitor}
    return monitored | {
        "Runtime": tensorrt.Runtime(None),
        "ICudaEngine": FakeEngine,
        "IExecutionContext": FakeContext,
        "Builder": builder,
        "IBuilderConfig": config,
        "IOptimizationProfile": builder.create_optimization_profile(),
        "ITimingCache": config.create_timing_cache(b""),
        "INetworkDefinition": network,
        "ILayer": seen.layers[0],
        "OnnxParser": parser,
        "ParserError": parser.get_error(0),
        "IPluginRegistry": tensorrt.get_plugin_registry(),
    }


def run(python: str, *arguments: str) -> Any:
    done = subprocess.run([python, *arguments], cwd=SUPPORT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
