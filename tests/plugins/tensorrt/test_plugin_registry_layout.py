"""TensorRT 8.6.0 and 8.6.1 lay out their registry differently; a library built with either runs in both.

In the registry of 8.6.0 the function that 8.6.1 has in the place of ``deregisterCreator`` is the destructor.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from plugin_build import compile_fake_registry, each_header_set, header_sets

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

pytest_plugins = ["plugin_fixtures"]
pytestmark = each_header_set()

LOADS = """
import ctypes, sys
tensorrt = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
tensorrt.fake_calls.restype = ctypes.c_char_p
assert tensorrt.fake_load_library(sys.argv[2].encode())
print(tensorrt.fake_calls().decode())
"""
OPERATORS = ("GatedLearners", "QuantizedGatedLearners", "GLUGatedLearners", "QuantizedGLUGatedLearners")


def test_a_library_for_8_6_deregisters_in_every_layout(
    built: dict[str, Path], headers: TensorRTHeaders, tmp_path: Path
) -> None:
    if headers.version[:2] != (8, 6):
        pytest.skip("only TensorRT 8.6 has two layouts")
    for other in (headers for headers in header_sets() if headers.version[:2] == (8, 6)):
        double = compile_fake_registry(tmp_path / other.version_text, other)
        command = [sys.executable, "-c", LOADS, str(double), str(built["acm_gated_learners"])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, (other.version_text, done.stderr)
        expected = [f"{step}:{name}" for step in ("register", "deregister", "register") for name in OPERATORS]
        assert done.stdout.split() == expected, other.version_text
