"""Checks of Python and of packages."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from acm_export.base.optional import BASE, EXPORT, install_command
from acm_export.machine.finding import Finding
from acm_export.machine.processes import ProbeError, probe
from acm_export.machine.versions import PYTHON, floor, installed, numbers

if TYPE_CHECKING:
    from collections.abc import Callable

RUNTIME = ("onnxruntime", "onnxruntime-gpu")
_CPU, _CUDA, _TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))


def python() -> Finding:
    """Check the Python version."""
    text = f"{'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})"
    if sys.version_info[:2] < PYTHON:
        oldest = ".".join(map(str, PYTHON))
        return Finding("Python", "wrong", f"{text}; {oldest} is the oldest supported", f"install Python {oldest}")
    return Finding("Python", "ok", text)


def base_package(name: str) -> Finding:
    """Check a package that every verb needs."""
    return _package(name, (name,), f"pip install '{name}{_at_least(name)}'", lambda: probe("package", name).value)


def export_package(name: str) -> Finding:
    """Check a package that export needs."""
    probing = ("torch",) if name == "torch" else ("package", name)
    return _package(name, (name,), install_command("export"), lambda: probe(*probing).value, _torch_text)


def onnx_runtime() -> Finding:
    """Check that ONNX Runtime can be imported and has the CPU provider."""
    fix = install_command("cpu")
    return _package("ONNX Runtime", RUNTIME, fix, lambda: probe("onnxruntime").value)


def providers() -> Finding:
    """Check ONNX Runtime's execution providers for NVIDIA GPUs; whether their libraries load is not checked."""
    name, fix = "GPU providers", f"pip uninstall -y onnxruntime && {install_command('gpu')}"
    if installed(*RUNTIME) is None:
        return Finding(name, "missing", "no ONNX Runtime", install_command("gpu"))
    try:
        listed = probe("onnxruntime").value["providers"]
    except ProbeError as error:
        return Finding(name, "wrong", f"ONNX Runtime cannot be imported: {error}", fix)
    text = ", ".join(listed)
    if _CUDA not in listed and _TENSORRT not in listed:
        return Finding(name, "missing", f"only {text}", fix)
    return Finding(name, "ok", f"built in: {text}; whether their libraries load was not checked")


def all_packages() -> list[Callable[[], Finding]]:
    """All checks of this module, in the order in which they are shown."""

    def check(function: Callable[[str], Finding], name: str) -> Callable[[], Finding]:
        return lambda: function(name)

    base, export = ([check(f, n) for n in names] for f, names in ((base_package, BASE), (export_package, EXPORT)))
    return [python, *base, *export, onnx_runtime, providers]


def _at_least(distribution: str) -> str:
    oldest = floor(distribution)
    return f">={oldest}" if oldest else ""


def _torch_text(facts: dict[str, Any]) -> str:
    if "cuda" not in facts:
        return ""
    return f", built for CUDA {facts['cuda']}" if facts["cuda"] else ", built without CUDA"


def _package(
    name: str,
    distributions: tuple[str, ...],
    fix: str,
    run_probe: Callable[[], dict[str, Any]],
    describe: Callable[[dict[str, Any]], str] = lambda _: "",
) -> Finding:
    """Check a package: its version from its metadata, then whether it can be imported."""
    found = installed(*distributions)
    if found is None:
        return Finding(name, "missing", "not installed", fix)
    distribution, version = found
    text = version if distribution == name else f"{version} ({distribution})"
    oldest = floor(distribution)
    if oldest and numbers(version) < numbers(oldest):
        return Finding(
            name,
            "wrong",
            f"{text}; {oldest} is the oldest supported",
            f"pip install --upgrade '{distribution}>={oldest}'",
        )
    again = f"pip install --force-reinstall {distribution}"
    try:
        facts = run_probe()
    except ProbeError as error:
        return Finding(name, "wrong", f"{text} cannot be imported: {error}", again)
    if _CPU not in facts.get("providers", [_CPU]):
        return Finding(name, "wrong", f"{text} has no {_CPU}", again)
    return Finding(name, "ok", text + describe(facts))
