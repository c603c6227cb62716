"""Probes that run in child processes: import packages, load libraries and query drivers that may crash or hang.

Each function is one probe; its result is printed as JSON. Only the standard library is imported.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME_BYTES = 256
_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _INTEGRATED = 75, 76, 18  # CUdevice_attribute
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def package(name: str) -> dict[str, object]:
    """Import a package and return its ``__version__``."""
    return {"version": getattr(importlib.import_module(name), "__version__", None)}


def torch() -> dict[str, object]:
    """Import PyTorch and return its version and the CUDA version that it was built for."""
    module = importlib.import_module("torch")
    return {"version": module.__version__, "cuda": module.version.cuda}


def onnxruntime() -> dict[str, object]:
    """Import ONNX Runtime and return its version and built-in execution providers."""
    module = importlib.import_module("onnxruntime")
    return {"version": module.__version__, "providers": module.get_available_providers()}


def tensorrt(name: str) -> dict[str, object]:
    """Import a TensorRT package and return its version and whether it can parse ONNX and build engines."""
    module = importlib.import_module(name)
    builder = hasattr(module, "Builder") and hasattr(module, "OnnxParser")
    return {"version": module.__version__, "builder": builder}


def nvinfer(*majors: str) -> dict[str, object]:
    """Load the ``libnvinfer.so.MAJOR`` that the dynamic linker finds; return their versions, and why others fail."""
    versions, broken = [], []
    for name in (f"libnvinfer.so.{major}" for major in majors):
        try:
            number = ctypes.CDLL(name).getInferLibVersion()
        except (OSError, AttributeError) as error:
            if not str(error).startswith(f"{name}: cannot open"):  # it is there, and lacks another library
                broken.append(f"{name}: {error}")
            continue
        scale = 10_000 if number >= 100_000 else 1_000  # 8503 is 8.5.3, and 100300 is 10.3.0
        versions.append([number // scale, number % scale // 100, number % 100])
    return {"versions": versions, "broken": broken}


def cuda() -> dict[str, object]:
    """Query the CUDA driver for its version and GPUs, without creating a context or using GPU memory."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return {"absent": str(error)}
    code = driver.cuInit(0)
    version = ctypes.c_int()
    _check(driver, driver.cuDriverGetVersion(ctypes.byref(version)))
    report: dict[str, object] = {"version": version.value, "gpus": []}
    if code == _NO_DEVICE:
        return report
    _check(driver, code)
    count = ctypes.c_int()
    _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)))
    report["gpus"] = [_gpu(driver, ordinal) for ordinal in range(count.value)]
    return report


def _gpu(driver: ctypes.CDLL, ordinal: int) -> dict[str, object]:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    _check(driver, driver.cuDeviceGet(ctypes.byref(device), ordinal))
    _check(driver, driver.cuDeviceGetName(name, _NAME_BYTES, device))
    values = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR, _INTEGRATED):
        value = ctypes.c_int()
        _check(driver, driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        values.append(value.value)
    return {"name": name.value.decode(errors="replace"), "capability": values[:2], "integrated": bool(values[2])}


def _check(driver: ctypes.CDLL, code: int) -> None:
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorName(code, ctypes.byref(text))
        name = (text.value or b"unknown").decode(errors="replace")
        raise OSError(f"the CUDA driver returned {name} ({code})")


def library(path: str) -> dict[str, object]:
    """Load a shared library and return the TensorRT it was built for and its entry points for TensorRT."""
    handle = ctypes.CDLL(path)
    names = ("getCreators", "getPluginCreators", "setLoggerFinder")
    if not hasattr(handle, "acm_built_for_tensorrt"):
        return {"built_for": None, "entry_points": []}
    handle.acm_built_for_tensorrt.restype = ctypes.c_char_p
    built_for = handle.acm_built_for_tensorrt().decode()
    return {"built_for": built_for, "entry_points": [name for name in names if hasattr(handle, name)]}


def registry(name: str, path: str, *plugin_names: str) -> dict[str, object]:
    """Load a plugin library into TensorRT's registry and return what the registry lists under the given names."""
    module = importlib.import_module(name)
    plugins = module.get_plugin_registry()
    if hasattr(plugins, "load_library"):
        loaded = plugins.load_library(path) is not None
    else:  # before TensorRT 8.6
        ctypes.CDLL(path)
        loaded = True
    listed = plugins.all_creators if hasattr(plugins, "all_creators") else plugins.plugin_creator_list
    creators = [
        {"name": creator.name, "version": creator.plugin_version, "namespace": creator.plugin_namespace}
        for creator in listed
        if creator.name in plugin_names
    ]
    return {"loaded": loaded, "creators": creators}


PROBES: dict[str, Callable[..., dict[str, object]]] = {
    function.__name__: function
    for function in (package, torch, onnxruntime, tensorrt, nvinfer, cuda, library, registry)
}


def main(arguments: list[str]) -> None:
    """Run one probe: its name, then its arguments."""
    name, *rest = arguments
    result = PROBES[name](*rest)
    sys.stdout.write("\n" + json.dumps(result) + "\n")
