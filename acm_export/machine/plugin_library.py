"""The plugin library: a file that this machine can load, with TensorRT's entry points."""

from __future__ import annotations

import platform
from pathlib import Path

from acm_export.machine.finding import Finding
from acm_export.machine.processes import ProbeError, ask
from acm_export.machine.versions import numbers
from acm_export.plugins.tensorrt.build import LIBRARY

_MACHINES = {"x86_64": 62, "aarch64": 183}
"""e_machine of ELF files."""

_MACHINE_AT, _ELF_HEADER = 18, 20
_FIRST_THAT_LOADS, _FIRST_V3 = (8, 6), (10,)
"""TensorRT whose registry loads libraries, and the first that asks them for IPluginV3."""

BUILD = "acm-export build-plugin"


def check_plugin_library(path: Path | None) -> Finding:
    """The plugin library: a file for this processor that can be loaded and has TensorRT's entry points.

    Args:
        path: It; by default where build-plugin writes it, in the working folder.
    """
    name, file = "plugin library", path or Path(LIBRARY)
    fix = BUILD  # with -o where nothing can be overwritten by it
    if file.exists() and not file.is_file():
        return Finding(name, "wrong", f"{file} is no regular file", fix)
    try:
        with file.open("rb") as stream:
            start = stream.read(_ELF_HEADER)
    except FileNotFoundError:
        return Finding(
            name,
            "missing",
            f"there is no {file}" + ("" if path else " in the working folder"),
            fix + (f" -o {path}" if path else ""),
        )
    except OSError as error:
        return Finding(name, "wrong", f"{file} cannot be read: {error.strerror}", fix)
    if reason := _not_for_this_machine(start):
        return Finding(name, "wrong", f"{file} {reason}", fix)
    reason, built_for = _examined(file)
    return Finding(name, "wrong", reason, fix) if reason else Finding(name, "ok", f"{file}, built for {built_for}")


def _examined(file: Path) -> tuple[str | None, str]:
    """Why a library is not our plugin, or None, and what it is built for."""
    try:
        told = ask("library", str(file.absolute())).value
    except ProbeError as error:
        return f"{file} cannot be loaded: {error}", ""
    if told["built_for"] is None:
        return f"{file} is not the plugin library, or one of an earlier acm-export", ""
    lacking = _entry_points(numbers(told["built_for"])) - set(told["entry_points"])
    reason = f"{file} lacks TensorRT's entry points: {', '.join(sorted(lacking))}" if lacking else None
    return reason, f"TensorRT {told['built_for']}"


def _entry_points(version: tuple[int, ...]) -> set[str]:
    """What the registry of a TensorRT calls in a library that it loads; before 8.6 it loads none."""
    if version < _FIRST_THAT_LOADS:
        return set()
    return {"setLoggerFinder", "getCreators" if version >= _FIRST_V3 else "getPluginCreators"}


def _not_for_this_machine(start: bytes) -> str | None:
    if not start.startswith(b"\x7fELF") or len(start) < _ELF_HEADER:
        return "is no shared library"
    machine, own = int.from_bytes(start[_MACHINE_AT:_ELF_HEADER], "little"), platform.machine()
    if own in _MACHINES and machine != _MACHINES[own]:
        theirs = next((name for name, number in _MACHINES.items() if number == machine), f"processor type {machine}")
        return f"is for {theirs}, this machine is {own}"
    return None
