"""examples/cpp/run_engine.cpp, compiled with the headers of every TensorRT found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from example_stubs import stubs
from plugin_build import each_header_set

from acm_export.base.errors import PluginError
from acm_export.plugins.tensorrt.headers import cuda_headers

if TYPE_CHECKING:
    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "cpp" / "run_engine.cpp"
COMPILER = os.environ.get("CXX", "c++")


def compile_against(headers: TensorRTHeaders, *arguments: str | Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"compiling needs {COMPILER}, which is not installed")
    try:
        cuda = cuda_headers()
    except PluginError as error:
        pytest.skip(str(error))
    system = [word for folder in (headers.folder, cuda) for word in ("-isystem", folder)]
    done = subprocess.run(
        [COMPILER, "-std=c++17", *arguments, *system, "-ldl"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@each_header_set()
def test_it_compiles_and_needs_one_symbol_of_tensorrt(headers: TensorRTHeaders, tmp_path: Path) -> None:
    compile_against(headers, "-c", "-Wall", "-Wextra", "-Werror", SOURCE, "-o", tmp_path / "run_engine.o")
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed")
    listed = subprocess.run([nm, "-u", tmp_path / "run_engine.o"], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"\bU (\S*(?:nvinfer|Infer|Plugin)\S*)", listed))
    assert needed == {"createInferRuntime_INTERNAL"}


@pytest.fixture(scope="session")
def folder(headers: TensorRTHeaders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, linked with a fake TensorRT that sums three pixels of at most four samples, and its input files."""
    folder = tmp_path_factory.mktemp("run_engine")
    (folder / "stubs.h").write_text(stubs(headers.folder))
    fake = Path(__file__).parents[1] / "support" / "example_fake_tensorrt.cpp"
    compile_against(headers, "-w", f"-I{folder}", SOURCE, fake, "-o", folder / "run_engine")
    (folder / "empty.cpp").touch()
    compile_against(headers, "-shared", "-fPIC", folder / "empty.cpp", "-o", folder / "library.so")
    for name in ("budget", "plain"):
        (folder / f"{name}.plan").write_text(name)
    for name, floats in (("two", 6), ("five", 15), ("odd", 4)):
        np.arange(1, floats + 1, dtype=np.float32).tofile(folder / f"{name}.f32")
    return folder


def run(folder: Path, *arguments: str, gpu: bool = True) -> subprocess.CompletedProcess[str]:
    surroundings = os.environ if gpu else os.environ | {"NO_GPU": "1"}
    return subprocess.run(
        [folder / "run_engine", *arguments], cwd=folder, env=surroundings, capture_output=True, text=True, check=False
    )


@each_header_set()
@pytest.mark.parametrize(
    ("arguments", "logits"),
    [
        (("budget.plan", "./library.so", "two.f32", "0.25"), "6 0.25 15 0.25"),
        (("budget.plan", "./library.so", "two.f32"), "6 1 15 1"),
        (("plain.plan", "./library.so", "two.f32"), "6 -1 15 -1"),
    ],
)
def test_it_feeds_input_and_budget_and_prints_the_logits(folder: Path, arguments: tuple[str, ...], logits: str) -> None:
    ran = run(folder, *arguments)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"logits: {logits}\n", "")


@each_header_set()
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("budget.plan", "./none.so", "two.f32"), "the plugin library cannot be loaded"),
        (("two.f32", "./library.so", "two.f32"), "the engine was not built for this TensorRT, GPU or plugin library"),
        (("budget.plan", "./library.so", "five.f32"), "the batch is outside the engine's profile"),
        (("budget.plan", "./library.so", "odd.f32"), "the input file does not have the engine's input shape"),
        (("none.plan", "./library.so", "two.f32"), "cannot read none.plan"),
        ((), "expected MODEL.plan LIBRARY.so INPUT.f32 [BUDGET]"),
    ],
)
def test_errors_name_the_cause(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    ran = run(folder, *arguments)
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", f"run_engine: {message}\n")


@each_header_set()
def test_a_missing_gpu_is_an_error(folder: Path) -> None:
    assert run(folder, "budget.plan", "./library.so", "two.f32", gpu=False).stderr == "run_engine: CUDA finds no GPU\n"


def test_the_guide_shows_the_current_program() -> None:
    shown = re.findall(r"```cpp\n(.*?)```", (ROOT / "docs" / "datacenter.md").read_text(), re.DOTALL)
    assert SOURCE.read_text() in shown
