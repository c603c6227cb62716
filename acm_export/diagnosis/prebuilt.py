"""Checks of the prebuilt plugin libraries that a platform wheel brings. Nothing is written into the user's cache."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import PluginError
from acm_export.machine.finding import Finding
from acm_export.machine.plugin_library import BUILD, check_plugin_library
from acm_export.machine.tensorrt import query_system_tensorrt
from acm_export.machine.versions import numbers
from acm_export.plugins.tensorrt.build import LIBRARY
from acm_export.plugins.tensorrt.prebuilt import content_of, read_prebuilt, series_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.machine.tensorrt import TensorRT
    from acm_export.plugins.tensorrt.prebuilt import PrebuiltLibrary

NAME = "prebuilt plugin"


@dataclass(frozen=True)
class PrebuiltCheck:
    """What the installed package brings for the installed TensorRT.

    Args:
        finding: The finding about the prebuilt libraries.
        replaces_compiling: Whether no library has to be compiled for the installed TensorRT.
        content: The library for the installed TensorRT; None if there is none, or not exactly one TensorRT.
    """

    finding: Finding
    replaces_compiling: bool = False
    content: bytes | None = None

    def without_compiling(self, finding: Finding) -> Finding:
        """A finding about something that only compiling needs: not a problem where nothing is compiled."""
        if finding.state == "ok" or not self.replaces_compiling:
            return finding
        return Finding(finding.name, "ok", f"{finding.state}; not needed, because the plugin is prebuilt")

    @contextmanager
    def check_library(self, named: Path | None) -> Iterator[tuple[Path | None, Finding]]:
        """Check the plugin library: a named one, else the one in the working folder, else the prebuilt one.

        Yields:
            Path of the library, which exists inside the block if the finding is ok, and the finding.
        """
        if named is not None or Path(LIBRARY).exists() or not self.replaces_compiling:
            yield named, check_plugin_library(named)
            return
        if self.content is None:
            found = "there is a prebuilt library for each TensorRT, but this machine has none or several"
            yield None, Finding("plugin library", "missing", found, "acm-export plugin-path --tensorrt 10")
            return
        with ExitStack() as stack:
            try:
                path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / LIBRARY
                path.write_bytes(self.content)
            except OSError as error:
                reason = f"the prebuilt one cannot be tried: {error.strerror}"
                yield None, Finding("plugin library", "missing", reason, "export TMPDIR=FOLDER")
                return
            finding = check_plugin_library(path)
            yield path, replace(finding, found=finding.found.replace(str(path), "prebuilt"))


def check_prebuilt(found: TensorRT) -> PrebuiltCheck:
    """Check which libraries the package brings, and the one for the installed TensorRT.

    Args:
        found: The TensorRT of Python; without one, the system's libraries decide.
    """
    try:
        prebuilt = read_prebuilt()
        if prebuilt is None:
            text = "none: a checkout and the wheel py3-none-any have none"
            return PrebuiltCheck(Finding(NAME, "missing", text, f"{BUILD}, or install the wheel for this platform"))
        versions = [numbers(found.version)] if found.version else query_system_tensorrt().versions
        series = {series_of(version[:2]) for version in versions}
        libraries = [library for library in prebuilt.libraries if library.tensorrt in series]
        content = content_of(prebuilt, libraries[0]) if len(libraries) == 1 else None
    except PluginError as error:
        return PrebuiltCheck(Finding(NAME, "wrong", str(error), error.hint))
    text = f"for TensorRT {_names(prebuilt.libraries)}; kernels for {', '.join(prebuilt.architectures)}"
    if len(libraries) < len(series):
        installed = ", ".join(".".join(map(str, version)) for version in versions)
        return PrebuiltCheck(Finding(NAME, "missing", f"{text}; TensorRT {installed} is installed", BUILD))
    return PrebuiltCheck(Finding(NAME, "ok", text), replaces_compiling=True, content=content)


def _names(libraries: tuple[PrebuiltLibrary, ...]) -> str:
    return ", ".join(library.tensorrt for library in libraries)
