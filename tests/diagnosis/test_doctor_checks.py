"""Each check of the doctor with fake packages and tools: missing, broken, old, good."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from doctor_surroundings import CRASHES, HANGS, Surroundings
from plugin_pack import write_fake_pack

from acm_export.base.optional import BASE, EXPORT, install_command
from acm_export.diagnosis import gpu, packages, plugin, tensorrt
from acm_export.machine import processes, versions
from acm_export.machine.gpu import Cuda, Gpu, query_cuda
from acm_export.machine.tensorrt import TensorRT, query_tensorrt
from acm_export.plugins.kernels.pack import Pack, read_pack

if TYPE_CHECKING:
    from pathlib import Path

RUNTIME = "def get_available_providers(): return {}\n"


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    return Surroundings(tmp_path, monkeypatch)


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    write_fake_pack(tmp_path / "pack")
    return read_pack(tmp_path / "pack")


def none_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed", lambda *_: None)


# Python and packages


def test_an_old_python_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.python().state == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 8, 10, "final", 0))
    finding = packages.python()
    assert (finding.state, finding.fix) == ("wrong", "install Python 3.10")
    assert "3.8.10" in finding.found


def test_versions_are_compared_as_numbers() -> None:
    assert versions.numbers("2.13.0+cpu") == (2, 13, 0)
    assert versions.numbers("11.4.0.106") > versions.numbers("2.9")
    assert versions.numbers("unknown") == ()
    assert versions.installed("no-such-distribution", "click") is not None


def test_oldest_versions_come_from_the_metadata() -> None:
    floors = {name: versions.floor(name) for name in (*BASE, *EXPORT, *packages.RUNTIME)}
    assert None not in floors.values(), floors


def test_an_absent_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    none_installed(monkeypatch)
    assert packages.export_package("torch").fix == install_command("export")
    assert packages.base_package("numpy").state == "missing"
    assert packages.onnx_runtime().fix == install_command("cpu")
    assert packages.providers().state == "missing"


def test_an_old_package_is_wrong_and_never_imported(around: Surroundings) -> None:
    around.package("torch", "1.13.1", CRASHES)
    finding = packages.export_package("torch")
    floor = versions.floor("torch")
    assert (finding.state, finding.fix) == ("wrong", f"pip install --upgrade 'torch>={floor}'")
    assert finding.found == f"1.13.1; {floor} is the oldest supported"


@pytest.mark.parametrize(("code", "reason"), [(CRASHES, "SIGSEGV"), ("raise ImportError('half')", "half")])
def test_a_broken_package_is_wrong_with_the_reason(around: Surroundings, code: str, reason: str) -> None:
    around.package("transformers", "99.0", code)
    finding = packages.export_package("transformers")
    assert (finding.state, finding.fix) == ("wrong", "pip install --force-reinstall transformers")
    assert reason in finding.found


def test_a_package_that_hangs_is_wrong(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TIMEOUT", 2.0)
    around.package("torch", "99.0", HANGS)
    finding = packages.export_package("torch")
    assert finding.state == "wrong"
    assert "no result within 2 s" in finding.found


@pytest.mark.parametrize(
    ("cuda", "text"), [("'13.0'", "99.0, built for CUDA 13.0"), ("None", "99.0, built without CUDA")]
)
def test_torch_shows_its_cuda_version(around: Surroundings, cuda: str, text: str) -> None:
    around.package("torch", "99.0", f"class version: cuda = {cuda}\n")
    finding = packages.export_package("torch")
    assert (finding.state, finding.found) == ("ok", text)


def test_providers_of_onnx_runtime(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    around.package("onnxruntime", "99.0", RUNTIME.format("['CUDAExecutionProvider', 'CPUExecutionProvider']"))
    assert (packages.onnx_runtime().state, packages.onnx_runtime().found) == ("ok", "99.0 (onnxruntime)")
    assert packages.providers().state == "ok"
    assert "not checked" in packages.providers().found
    (around.site / "onnxruntime" / "__init__.py").write_text(f"__version__ = '99'\n{RUNTIME.format([])}")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert "has no CPUExecutionProvider" in packages.onnx_runtime().found
    assert packages.providers().state == "missing"


# TensorRT


def test_no_tensorrt_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "MODULES", ("no_such_tensorrt",))
    found = query_tensorrt()
    states = [check(found).state for check in (tensorrt.package, tensorrt.builder, tensorrt.interface)]
    assert states == ["missing"] * 3


def test_a_tensorrt_that_crashes_is_wrong(around: Surroundings) -> None:
    around.package("tensorrt", "10.3.0", CRASHES)
    finding = tensorrt.package(query_tensorrt())
    assert finding.state == "wrong"
    assert (finding.fix or "").startswith("pip install --force-reinstall tensorrt==10.3.0   (JetPack: apt")
    assert "tensorrt 10.3.0 cannot be imported: crashed with SIGSEGV" in finding.found


@pytest.mark.parametrize(
    ("version", "jetpack", "state", "interface"),
    [
        ("8.4.1", None, "wrong", "8.5, 8.6, and 10.3 and later"),
        ("8.5.3.1", "JetPack 5.1", "ok", "IPluginV2DynamicExt"),
        ("8.6.2", "JetPack 6.0", "ok", "IPluginV2DynamicExt"),
        ("10.0.1", None, "wrong", "8.5, 8.6, and 10.3 and later"),
        ("10.3.0", "JetPack 6.1 and 6.2", "ok", "IPluginV3"),
        ("10.13.3.9", "JetPack 7.0 and 7.1", "ok", "IPluginV3"),
        ("10.14.1", None, "ok", "IPluginV3"),
        ("11.4.0.106", "JetPack 7.2 and later", "ok", "IPluginV3"),
    ],
)
def test_versions_of_tensorrt(version: str, jetpack: str | None, state: str, interface: str) -> None:
    found = TensorRT("tensorrt", version, builder=True)
    assert (jetpack or "not part of a known JetPack") in tensorrt.package(found).found
    assert tensorrt.interface(found).state == state
    assert interface in tensorrt.interface(found).found
    assert tensorrt.package(found).state == ("wrong" if version.startswith("8.4") else "ok")


def test_a_tensorrt_in_two_wheels_is_reinstalled_with_both() -> None:
    distribution = ("tensorrt-lean-cu13-bindings", "11.4.0")
    finding = tensorrt.package(TensorRT("tensorrt_lean_bindings", broken="no library", distribution=distribution))
    assert finding.fix == (
        "pip install --force-reinstall tensorrt-lean-cu13-bindings==11.4.0 tensorrt-lean-cu13-libs==11.4.0"
    )


def test_tensorrt_lean_has_no_builder(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "MODULES", ("no_such_tensorrt", "tensorrt_lean"))
    around.package("tensorrt_lean", "11.4.0", distribution="tensorrt-lean")
    found = query_tensorrt()
    assert (found.module, found.distribution) == ("tensorrt_lean", ("tensorrt-lean", "11.4.0"))
    assert tensorrt.package(found).state == "ok"
    assert tensorrt.builder(found).state == "missing"
    assert tensorrt.builder(TensorRT("tensorrt", "11.4.0", builder=True)).state == "ok"


# CUDA driver and GPUs


def test_gpus_of_the_driver(around: Surroundings) -> None:
    around.driver(version=12060, major=8, minor=7, integrated=1)
    cuda = query_cuda()
    assert cuda == Cuda((12, 6), (Gpu("Fake", (8, 7), integrated=True),))
    assert (gpu.driver(cuda).state, gpu.driver(cuda).found) == ("ok", "for CUDA 12.6")
    assert gpu.gpus(cuda).found == "Fake (sm_87, integrated)"


def test_a_driver_without_a_gpu(around: Surroundings) -> None:
    around.driver(init=100)
    cuda = query_cuda()
    assert gpu.driver(cuda).state == "ok"
    assert (gpu.gpus(cuda).state, gpu.gpus(cuda).found) == ("missing", "the driver shows no GPU")
    assert gpu.kernels_for_gpus(cuda, None).state == "missing"


def test_a_driver_that_does_not_fit_its_kernel_module_is_wrong(around: Surroundings) -> None:
    around.driver(init=803)
    finding = gpu.driver(query_cuda())
    assert finding.state == "wrong"
    assert "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)" in finding.found


def test_a_driver_that_crashes_is_wrong(around: Surroundings) -> None:
    around.library("libcuda.so.1", 'extern "C" int cuInit(unsigned) { __builtin_trap(); }')
    around.monkeypatch.setenv("LD_LIBRARY_PATH", str(around.folder))
    finding = gpu.driver(query_cuda())
    assert finding.state == "wrong"
    assert "crashed with" in finding.found


def test_an_old_driver_is_wrong() -> None:
    assert gpu.driver(Cuda((11, 4))).state == "wrong"
    assert gpu.driver(Cuda(None, reason="libcuda.so.1: cannot open")).state == "missing"


@pytest.mark.parametrize(
    ("capability", "integrated", "arch"),
    [
        ((8, 0), False, "sm_80"),
        ((8, 6), False, "sm_86"),
        ((8, 7), True, "sm_87"),
        ((8, 8), False, "sm_80"),  # discrete chips of the family run its first binaries
        ((8, 8), True, None),  # Tegra: exact match only
        ((9, 0), False, "sm_90"),
        ((11, 0), True, "sm_110"),
        ((10, 1), True, None),
        ((7, 2), True, None),
        ((7, 5), False, None),
        ((12, 9), False, None),
    ],
)
@pytest.mark.parametrize("with_pack", [True, False])
def test_kernels_fit_by_exact_architecture(
    pack: Pack, capability: tuple[int, int], integrated: bool, arch: str | None, with_pack: bool
) -> None:
    cuda = Cuda((13, 0), (Gpu("Fake", capability, integrated),))
    finding = gpu.kernels_for_gpus(cuda, pack if with_pack else None)
    assert finding.state == ("wrong" if arch is None else "ok")
    assert (f"uses those for {arch}" if arch else "no kernels for") in finding.found
    assert ("complete pack" in finding.found) is not with_pack


# Pack, tools, plugin


def test_the_pack_is_missing_stale_or_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pack"
    monkeypatch.setattr(plugin, "default_folder", lambda: folder)
    monkeypatch.setattr(plugin, "read_pack", lambda: read_pack(folder))
    assert (plugin.pack()[0].state, plugin.pack()[1]) == ("missing", None)
    write_fake_pack(folder)
    finding, held = plugin.pack()
    assert finding.state == "ok"
    assert held is not None
    table = folder / "table.json"
    table.write_text(table.read_text().replace(held.source_digest, "0" * 64))
    finding, held = plugin.pack()
    assert (finding.state, held) == ("wrong", None)
    assert "stale" in finding.found
    assert finding.fix
    assert "kernels.compile" in finding.fix
