"""Check that the plugin library can be loaded on this machine and has TensorRT's entry points."""

from __future__ import annotations

import platform
from pathlib import Path

from acm_export.machine.finding import Finding
from acm_export.machine.processes import ProbeError, probe
from acm_export.machine.versions import numbers
from acm_export.plugins.tensorrt.build import LIBRARY

_MACHINES = {"x86_64": 62, "aarch64": 183}
"""Values of e_machine in ELF headers."""

_MACHINE_AT, _ELF_HEADER = 18, 20
_FIRST_THAT_LOADS, _FIRST_V3 = (8, 6), (10,)
"""First TensorRT whose registry loads libraries, and first that gets IPluginV3 creators from them."""

BUILD = "acm-export build-plugin"


def check_plugin_library(path: Path | None) -> Finding:
    """Check the plugin library: built for this processor, can be loaded, has TensorRT's entry points.

    Args:
        path: Path of the library; by default the one that build-plugin writes into the working folder.
    """
    name, file = "plugin library", path or Path(LIBRARY)
    fix = BUILD  # never with -o FILE, which would overwrite the user's file
    if file.exists() and not file.is_file():
        return Finding(name, "wrong", f"{file} is not a regular file", fix)
    try:
        with file.open("rb") as stream:
            start = stream.read(_ELF_HEADER)
    except FileNotFoundError:
        return Finding(
            name,
            "missing",
            f"{file} does not exist" + ("" if path else " in the working folder"),
            fix + (f" -o {path}" if path else ""),
        )
    except OSError as error:
        return Finding(name, "wrong", f"{file} cannot be read: {error.strerror}", fix)
    if reason := _not_for_this_machine(start):
        return Finding(name, "wrong", f"{file} {reason}", fix)
    reason, built_for = _examined(file)
    return Finding(name, "wrong", reason, fix) if reason else Finding(name, "ok", f"{file}, built for {built_for}")


def _examined(file: Path) -> tuple[str | None, str]:
    """Why a library is not the plugin, or None, and what it was built for."""
    try:
        output = probe("library", str(file.absolute())).value
    except ProbeError as error:
        return f"{file} cannot be loaded: {error}", ""
    if output["built_for"] is None:
        return f"{file} is not the plugin library, or is from an earlier acm-export", ""
    missing = _entry_points(numbers(output["built_for"])) - set(output["entry_points"])
    reason = f"{file} lacks TensorRT's entry points: {', '.join(sorted(missing))}" if missing else None
    return reason, f"TensorRT {output['built_for']}"


def _entry_points(version: tuple[int, ...]) -> set[str]:
    """Functions that the registry calls in a library that it loads; before 8.6 it loads none."""
    if version < _FIRST_THAT_LOADS:
        return set()
    return {"setLoggerFinder", "getCreators" if version >= _FIRST_V3 else "getPluginCreators"}


def _not_for_this_machine(start: bytes) -> str | None:
    if not start.startswith(b"\x7fELF") or len(start) < _ELF_HEADER:
        return "is not a shared library"
    machine, own = int.from_bytes(start[_MACHINE_AT:_ELF_HEADER], "little"), platform.machine()
    if own in _MACHINES and machine != _MACHINES[own]:
        theirs = next((name for name, number in _MACHINES.items() if number == machine), f"processor type {machine}")
        return f"is for {theirs}, this machine is {own}"
    return None
