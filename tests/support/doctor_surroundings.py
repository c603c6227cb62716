"""Fakes of what the doctor checks: importable packages, tools on the PATH, a CUDA driver."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

HANGS = "import time\ntime.sleep(600)\n"
CRASHES = "import ctypes\nctypes.string_at(0)\n"

TENSORRT_10 = """
import sys
class Creator:
    plugin_version, plugin_namespace = '1', ''
    def __init__(self, name): self.name = name
NAMES = 'QuantizedGatedLearners', 'GatedLearners', 'QuantizedGLUGatedLearners', 'GLUGatedLearners'
def creators(): return [Creator(name) for name in NAMES]
class Registry:
    all_creators = []
    def load_library(self, path):
        {load}
class Builder: pass
class OnnxParser: pass
def get_plugin_registry(): return Registry()
"""
LIBRARY = """
extern "C" {
void setLoggerFinder() {}
void getCreators() {}
const char* acm_built_for_tensorrt() { return "10.3.0"; }
}
"""

DRIVER = """
static int result = {init};
extern "C" {
int cuInit(unsigned) { return result; }
int cuDriverGetVersion(int* v) { *v = {version}; return 0; }
int cuDeviceGetCount(int* n) { *n = 1; return 0; }
int cuDeviceGet(int* d, int i) { *d = i; return 0; }
int cuDeviceGetName(char* s, int, int) { const char n[] = "Fake"; for (int i = 0; i < 5; ++i) s[i] = n[i]; return 0; }
int cuDeviceGetAttribute(int* v, int a, int) { *v = a == 75 ? {major} : a == 76 ? {minor} : {integrated}; return 0; }
int cuGetErrorName(int, const char** s) { *s = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"; return 0; }
}
"""


class Surroundings:
    """Changes what this process and its children find.

    Args:
        folder: Folder for the fakes.
        monkeypatch: Undoes it all.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.site, self.bin = folder / "site", folder / "bin"
        self.site.mkdir()
        self.bin.mkdir()
        monkeypatch.syspath_prepend(str(self.site))

    def package(self, name: str, version: str, code: str = "", distribution: str | None = None) -> None:
        """Install a package with metadata; ``__version__`` is its version."""
        (self.site / name).mkdir()
        (self.site / name / "__init__.py").write_text(f"__version__ = {version!r}\n{code}")
        info = self.site / f"{(distribution or name).replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution or name}\nVersion: {version}\n")
        self.monkeypatch.syspath_prepend(str(self.site))  # forgets what importlib has listed before

    def tool(self, name: str, script: str) -> None:
        """Put a shell script on the PATH, before everything else."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        self.monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")

    def no_tools(self) -> None:
        """Leave an empty PATH."""
        self.monkeypatch.setenv("PATH", str(self.bin))

    def library(self, name: str, source: str) -> Path:
        """Compile a shared library."""
        compiler = shutil.which("c++")
        if compiler is None:
            pytest.skip("no C++ compiler")
        code, path = self.folder / f"{name}.cpp", self.folder / name
        code.write_text(source)
        subprocess.run([compiler, "-shared", "-fPIC", str(code), "-o", str(path)], check=True)
        return path

    def driver(
        self, *, init: int = 0, version: int = 12060, major: int = 9, minor: int = 0, integrated: int = 0
    ) -> None:
        """Compile a CUDA driver with one GPU, which children find first."""
        source = DRIVER
        for key, value in (
            ("init", init),
            ("version", version),
            ("major", major),
            ("minor", minor),
            ("integrated", integrated),
        ):
            source = source.replace(f"{{{key}}}", str(value))
        self.library("libcuda.so.1", source)
        self.monkeypatch.setenv("LD_LIBRARY_PATH", str(self.folder))
