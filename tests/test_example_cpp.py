"""examples/cpp/run_engine.cpp against the headers of every TensorRT that is found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from plugin_build import each_header_set

from acm_export.errors import PluginError
from acm_export.plugins.tensorrt.headers import cuda_headers

if TYPE_CHECKING:
    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "examples" / "cpp" / "run_engine.cpp"
COMPILER = os.environ.get("CXX", "c++")


def compile_against(headers: TensorRTHeaders, output: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"compiling needs {COMPILER}, which is not installed")
    try:
        cuda = cuda_headers()
    except PluginError as error:
        pytest.skip(str(error))
    command = [COMPILER, "-std=c++17", "-c", "-Wall", "-Wextra", "-Werror", "-o", output, SOURCE]
    system = [word for folder in (headers.folder, cuda) for word in ("-isystem", folder)]
    done = subprocess.run([*command, *system], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@each_header_set()
def test_it_compiles_and_needs_one_symbol_of_tensorrt(headers: TensorRTHeaders, tmp_path: Path) -> None:
    compile_against(headers, tmp_path / "run_engine.o")
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed")
    listed = subprocess.run([nm, "-u", tmp_path / "run_engine.o"], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"\bU (\S*(?:nvinfer|Infer|Plugin)\S*)", listed))
    assert needed == {"createInferRuntime_INTERNAL"}


def test_the_guide_shows_the_program_as_it_is() -> None:
    shown = re.findall(r"```cpp\n(.*?)```", (ROOT / "docs" / "datacenter.md").read_text(), re.DOTALL)
    assert SOURCE.read_text() in shown
