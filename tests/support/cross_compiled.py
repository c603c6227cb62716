"""Libraries that zig compiled for both processors, with a fake pack."""

from __future__ import annotations

import os
import platform as machines
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from plugin_build import need_tools
from plugin_pack import write_fake_pack
from shared_files import shared_folder

from acm_export.base.errors import PluginError
from acm_export.plugins.tensorrt.build import TARGET
from acm_export.plugins.tensorrt.headers import cuda_headers
from acm_export.plugins.tensorrt.wheels.cross_compile import cross_compile, find_zig
from acm_export.plugins.tensorrt.wheels.platforms import PLATFORMS

if TYPE_CHECKING:
    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

HERE = Path(__file__).parent
ARCHITECTURES = ("sm_80", "sm_87", "sm_90", "sm_121")
BUILT_FOR = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.acm_built_for_tensorrt.restype = ctypes.c_char_p
print(library.acm_built_for_tensorrt().decode())
"""
HARNESS = "acm_plugin_harness"


def compiled(factory: pytest.TempPathFactory, machine: str, headers: TensorRTHeaders, target: str = TARGET) -> Path:
    """A library for one processor; skips the test without zig."""
    need_tools()
    need_zig()
    platform = next(platform for platform in PLATFORMS if platform.machine == machine)
    built: list[Path] = []

    def make(folder: Path) -> None:
        write_fake_pack(folder / "pack", ARCHITECTURES)
        built.append(cross_compile(platform, headers, cuda_headers(), folder / "pack", folder / "build", target))
        shutil.copy(built[0], folder / "library.so")

    name = f"zig-{machine}-{headers.version_text}-{target}"
    return shared_folder(factory, name, make) / "library.so"


def fake_driver(factory: pytest.TempPathFactory, machine: str) -> Path:
    """The fake CUDA driver for one processor."""
    target = next(platform.target for platform in PLATFORMS if platform.machine == machine)
    zig = need_zig()

    def make(folder: Path) -> None:
        flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", f"--target={target}"]
        source = str(HERE / "plugin_fake_cuda.cpp")
        subprocess.run([str(zig), "c++", *flags, source, "-o", str(folder / "driver.so")], check=True)

    return shared_folder(factory, f"zig-{machine}-driver", make) / "driver.so"


def need_zig() -> Path:
    try:
        return find_zig()
    except PluginError as error:
        pytest.skip(f"{error}: {error.hint}")


def this_machine() -> str:
    """The processor that the tests run on; skips the test where no wheel is for it."""
    if machines.machine() not in {platform.machine for platform in PLATFORMS}:
        pytest.skip(f"no library is compiled for {machines.machine()}")
    return machines.machine()


def aarch64_python() -> list[str]:
    """The command of a Python for aarch64, run by qemu; skips the test where there is none.

    ACM_AARCH64_ROOT names a folder with a system for aarch64 that has Python: on Debian, ``dpkg -x`` of the arm64
    packages libc6, python3-minimal and what they need (CONTRIBUTING.md).
    """
    qemu, root = shutil.which("qemu-aarch64"), os.environ.get("ACM_AARCH64_ROOT")
    if qemu is None or not root:
        pytest.skip("needs qemu-aarch64 (apt install qemu-user) and a Python for it: set ACM_AARCH64_ROOT")
    found = sorted(
        path for path in Path(root, "usr", "bin").glob("python3*") if path.name[7:].replace(".", "").isdigit()
    )
    if not found:
        pytest.skip(f"ACM_AARCH64_ROOT is {root}, which has no usr/bin/python3.N")
    return [qemu, "-L", root, str(found[-1])]
