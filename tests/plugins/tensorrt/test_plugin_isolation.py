"""The plugin's libraries use their own C++ runtime, whatever a process has loaded.

NVIDIA's libcufile, for example, exports parts of the libstdc++ that it was linked with, such as the constructors of
string streams. Loaded globally, they would be called instead of those that a library was compiled with.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from plugin_build import build, each_header_set

if TYPE_CHECKING:
    from pathlib import Path

CPP = ("_ZNS", "_ZNKS", "_ZS", "_ZT", "__cxa_throw", "__gxx_personality", "_Unwind")
"""How names of libstdc++ and libgcc begin."""


def looked_up(library: Path) -> list[str]:
    """Symbols of a C++ runtime that the dynamic linker looks for in other libraries."""
    if not shutil.which("nm"):
        pytest.skip("needs nm of binutils")
    done = subprocess.run(["nm", "-D", "--undefined-only", str(library)], check=True, capture_output=True, text=True)  # noqa: S607
    names = [line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()]
    return [name for name in names if name.startswith(CPP)]


@pytest.mark.slow
def test_the_core_needs_no_other_cpp_runtime(fake_pack: Path, tmp_path: Path) -> None:
    assert looked_up(build("acm_core_harness", tmp_path, fake_pack)) == []


@each_header_set()
def test_the_plugin_needs_no_other_cpp_runtime(headers: object, built: dict[str, Path]) -> None:
    assert headers
    for library in built.values():
        assert looked_up(library) == []
