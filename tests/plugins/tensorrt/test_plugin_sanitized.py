"""The host code under the address and undefined-behaviour sanitizers, in a process that has them loaded first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_build import TOOLS, build, header_sets, need_tools

pytest_plugins = ["plugin_fixtures"]
pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[2] / "support"


def sanitizer_runtimes() -> str:
    """What to preload into a Python that is not built with sanitizers; libstdc++ so that exceptions are intercepted."""
    need_tools()
    names = ("libasan.so", "libubsan.so", "libstdc++.so.6")
    ask = [
        subprocess.run([TOOLS[1], f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        for name in names
    ]
    paths = [done.stdout.strip() for done in ask]
    missing = [name for name, path in zip(names, paths, strict=True) if path == name]
    if missing:
        pytest.skip(f"the compiler has no {', '.join(missing)}")
    return " ".join(paths)


@pytest.mark.parametrize("headers", [None, *header_sets()], ids=lambda h: f"trt{h.version_text}" if h else "core")
def test_no_sanitizer_complains(headers: object, fake_pack: Path, fake_driver: Path, tmp_path: Path) -> None:
    target = "acm_plugin_harness" if headers else "acm_core_harness"
    library = build(target, tmp_path, fake_pack, headers, sanitize="address,undefined")
    environment = {
        **os.environ,
        "LD_PRELOAD": sanitizer_runtimes(),
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(TESTS),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [sys.executable, str(TESTS / "plugin_exercise.py"), target, str(library), str(fake_driver)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.split()[-1] == "done"
    assert "runtime error" not in done.stderr
