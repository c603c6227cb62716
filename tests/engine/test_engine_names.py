"""Every name of TensorRT that engines are built and run with is there, in the TensorRTs that this machine has."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from plugin_build import each_tensorrt

RUNTIME = {
    "Runtime": ["deserialize_cuda_engine"],
    "ICudaEngine": [
        "num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_location", "get_tensor_dtype",
        "get_tensor_shape", "get_tensor_profile_shape", "create_execution_context",
    ],
    "IExecutionContext": ["set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3"],
    "TensorIOMode": ["INPUT"],
    "TensorLocation": ["DEVICE"],
    "Logger": ["WARNING"],
}  # fmt: skip
BUILDER = {
    "Builder": [
        "create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"
    ],
    "IBuilderConfig": [
        "set_flag", "clear_flag", "add_optimization_profile", "create_timing_cache", "set_timing_cache",
        "get_timing_cache", "get_tactic_sources", "set_tactic_sources",
    ],
    "IOptimizationProfile": ["set_shape"],
    "ITimingCache": ["serialize"],
    "INetworkDefinition": ["num_layers", "get_layer"],
    "OnnxParser": ["parse", "num_errors", "get_error"],
    "ParserError": ["node", "desc", "code"],
    "BuilderFlag": ["TF32"],
    "TacticSource": ["EDGE_MASK_CONVOLUTIONS"],
}  # fmt: skip
BEFORE_10 = {
    "BuilderFlag": ["FP16", "OBEY_PRECISION_CONSTRAINTS"],
    "ILayer": ["type", "num_outputs", "get_output", "precision", "set_output_type"],
    "LayerType": ["PLUGIN_V2", "SHAPE"],
    "NetworkDefinitionCreationFlag": ["EXPLICIT_BATCH"],
}
FROM_10 = {"IProgressMonitor": [], "NetworkDefinitionCreationFlag": ["STRONGLY_TYPED"]}
SCRIPT = """
import json, sys
from plugin_registry_probe import import_tensorrt
trt = import_tensorrt()
tables = json.loads(sys.argv[1])
wanted = [tables[0]]
if hasattr(trt, "Builder"):
    wanted += [tables[1], tables[3 if int(trt.__version__.split(".")[0]) >= 10 else 2]]
missing = [
    f"{kind}.{name}" for table in wanted for kind, names in table.items() for name in names
    if not hasattr(getattr(trt, kind, None), name)
] + [kind for table in wanted for kind in table if not hasattr(trt, kind)]
print(json.dumps(missing))
"""


@each_tensorrt()
def test_names(python: str) -> None:
    tables = json.dumps([RUNTIME, BUILDER, BEFORE_10, FROM_10])
    done = subprocess.run(
        [python, "-c", SCRIPT, tables],
        cwd=Path(__file__).parents[1] / "support",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
