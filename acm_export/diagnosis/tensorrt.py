"""Checks of TensorRT: its Python package, builder and plugin interface."""

from __future__ import annotations

from acm_export.base.optional import install_command
from acm_export.machine.finding import Finding
from acm_export.machine.tensorrt import JETPACKS, MODULES, TensorRT
from acm_export.machine.versions import numbers
from acm_export.plugins.tensorrt.support import OLDEST, OLDEST_10, supported

_INSTALL = (
    f"{install_command('gpu')}   (JetPack: apt install python3-libnvinfer; "
    "a virtual environment needs --system-site-packages)"
)


def package(found: TensorRT) -> Finding:
    """Check the Python package and its version."""
    name = "TensorRT"
    if found.module is None:
        return Finding(name, "missing", f"none of {', '.join(MODULES)} is installed for this Python", _INSTALL)
    package = " ".join(found.distribution or (found.module,))
    if found.version is None:
        return Finding(name, "wrong", f"{package} cannot be imported: {found.broken}", _reinstall(found))
    text = f"{found.version} ({found.module}), {_jetpack(found.version)}"
    if numbers(found.version)[:2] < OLDEST:
        return Finding(name, "wrong", f"{text}; {'.'.join(map(str, OLDEST))} is the oldest supported", _INSTALL)
    return Finding(name, "ok", text)


def builder(found: TensorRT) -> Finding:
    """Check that TensorRT can build engines; tensorrt_lean only runs them."""
    name = "TensorRT builder"
    if found.version is None:
        return Finding(name, "missing", "no TensorRT can be imported", _INSTALL)
    if not found.builder:
        return Finding(name, "missing", f"{found.module} {found.version} has no builder or no ONNX parser", _INSTALL)
    return Finding(name, "ok", "builder and ONNX parser")


def interface(found: TensorRT) -> Finding:
    """Check the plugin interface of this TensorRT."""
    name = "plugin interface"
    if found.version is None:
        return Finding(name, "missing", "no TensorRT can be imported", _INSTALL)
    version = numbers(found.version)[:2]
    if not supported(version):
        oldest = ".".join(map(str, OLDEST_10))
        found_text = f"TensorRT {found.version}; the plugin supports 8.5, 8.6, and {oldest} and later"
        return Finding(name, "wrong", found_text, "pip install --upgrade 'tensorrt>=10.3'")
    if version < (10, 0):
        return Finding(name, "ok", "no IPluginV3: the plugin is compiled as IPluginV2DynamicExt (files: tensorrt-8)")
    return Finding(name, "ok", "IPluginV3")


def _reinstall(found: TensorRT) -> str:
    if found.distribution is None:
        return _INSTALL
    name, version = found.distribution
    parts = (name, name.replace("-bindings", "-libs")) if name.endswith("-bindings") else (name,)
    again = f"pip install --force-reinstall {' '.join(f'{part}=={version}' for part in parts)}"
    return f"{again}   (JetPack: apt install --reinstall python3-libnvinfer)" if found.module == "tensorrt" else again


def _jetpack(version: str) -> str:
    major, minor, *_ = (*numbers(version), 0, 0)
    release = JETPACKS.get((major, minor))
    return f"as in JetPack {release}" if release else "not part of a known JetPack"
