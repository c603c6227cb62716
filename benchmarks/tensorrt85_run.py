"""Build an engine with TensorRT 8.5 and run it once: MODEL.onnx PLUGIN.so INPUTS.npz OUTPUTS.npz.

Runs in a separate Python that has only tensorrt, numpy and onnx; tensorrt85_engines.py calls it. Device
memory comes from the driver's own functions, since no other CUDA package is there.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import tensorrt as trt

_WORKSPACE = 1 << 30


class Parser:
    """A parsed network and the objects that must outlive it."""

    def __init__(self, model: Path) -> None:
        self.log = trt.Logger(trt.Logger.WARNING)
        self.builder = trt.Builder(self.log)
        self.network = self.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
        parser = trt.OnnxParser(self.network, self.log)
        if not parser.parse(model.read_bytes()):
            sys.exit("\n".join(parser.get_error(i).desc() for i in range(parser.num_errors)))

    def engine(self, batch: int) -> trt.ICudaEngine:
        """Build for batches of 1 to ``batch``; exact float32, and without cuBLAS and cuDNN, which may be missing."""
        config = self.builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE)
        config.clear_flag(trt.BuilderFlag.TF32)
        config.set_tactic_sources(
            1 << int(trt.TacticSource.EDGE_MASK_CONVOLUTIONS) | 1 << int(trt.TacticSource.JIT_CONVOLUTIONS)
        )
        inputs = [self.network.get_input(i) for i in range(self.network.num_inputs)]
        if any(tensor.dtype == trt.float16 for tensor in inputs) or _has_half(self.network):
            config.set_flag(trt.BuilderFlag.FP16)
            config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        profile = self.builder.create_optimization_profile()
        for tensor in inputs:
            rest = tuple(tensor.shape)[1:]
            profile.set_shape(tensor.name, (1, *rest), (batch, *rest), (batch, *rest))
        config.add_optimization_profile(profile)
        plan = self.builder.build_serialized_network(self.network, config)
        if plan is None:
            sys.exit("TensorRT could not build the engine")
        return trt.Runtime(self.log).deserialize_cuda_engine(plan)


def _has_half(network: trt.INetworkDefinition) -> bool:
    layers = (network.get_layer(i) for i in range(network.num_layers))
    return any(layer.get_output(0).dtype == trt.float16 for layer in layers if layer.num_outputs)


class Driver:
    """Device memory through libcuda."""

    def __init__(self) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1")

    def _check(self, code: int) -> None:
        if code:
            sys.exit(f"the CUDA driver returned {code}")

    def upload(self, array: np.ndarray) -> int:
        """Copy an array to the device and return its address."""
        pointer = ctypes.c_uint64()
        self._check(self.cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(max(array.nbytes, 1))))
        source = array.ctypes.data_as(ctypes.c_void_p)
        self._check(self.cuda.cuMemcpyHtoD_v2(pointer, source, ctypes.c_size_t(array.nbytes)))
        return pointer.value

    def download(self, pointer: int, array: np.ndarray) -> None:
        """Wait for the device and copy back."""
        self._check(self.cuda.cuCtxSynchronize())
        target = array.ctypes.data_as(ctypes.c_void_p)
        self._check(self.cuda.cuMemcpyDtoH_v2(target, ctypes.c_uint64(pointer), ctypes.c_size_t(array.nbytes)))


def main(model: Path, plugin: Path, inputs: Path, outputs: Path) -> None:
    """Parse, build, run, and write the outputs."""
    ctypes.CDLL(str(plugin), mode=ctypes.RTLD_GLOBAL)
    creators = [c.name for c in trt.get_plugin_registry().plugin_creator_list]
    if "GatedLearners" not in creators:
        sys.exit(f"{plugin} registered no GatedLearners; TensorRT knows {len(creators)} plugins")
    arrays = {name: np.ascontiguousarray(value) for name, value in np.load(inputs).items()}
    start = monotonic()
    engine = Parser(model).engine(len(next(iter(arrays.values()))))
    print(f"TensorRT {trt.__version__}: built {model.name} in {monotonic() - start:.1f} s")
    context, driver = engine.create_execution_context(), Driver()
    results: dict[str, tuple[int, np.ndarray]] = {}
    for name, array in arrays.items():
        context.set_input_shape(name, array.shape)
        context.set_tensor_address(name, driver.upload(array))
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    for name in (n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT):
        array = np.zeros(tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name)))
        results[name] = (driver.upload(array), array)
        context.set_tensor_address(name, results[name][0])
    if not context.execute_async_v3(0):
        sys.exit("TensorRT could not run the engine")
    for pointer, array in results.values():
        driver.download(pointer, array)
    np.savez(outputs, **dict[str, Any]({name: array for name, (_, array) in results.items()}))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:5]))
