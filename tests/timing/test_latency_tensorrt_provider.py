"""``latency`` with ONNX Runtime's TensorRT provider, replaced by one that checks its model and runs it on the CPU."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime
import pytest
import torch
from calibration_files import calibrated, write_images
from click.testing import CliRunner, Result
from exported_files import images
from plugin_build import compile_fake_plugin
from tiny_models import tiny_vit

from acm_export.base.optional import install_command
from acm_export.cli import main
from acm_export.exporter import export
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.targets import ORT_TENSORRT_DOMAIN, gated_learners_nodes, rewrite_for
from acm_export.timing import warm_up

if TYPE_CHECKING:
    from pathlib import Path

PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["latency", *map(str, args), "--runtime", "onnxruntime-tensorrt"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vit_files: Path) -> Path:
    folder = tmp_path_factory.mktemp("provider")
    shutil.copytree(vit_files, folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    options = {"output_fields": ("logits",), "dtype": "fp16", "target": "tensorrt"}
    export(tiny_vit(), images(2), folder / "half.onnx", verify=False, **options)
    write_images(folder / "d.npz", 20)
    calibrated(folder / "m.onnx", folder / "d.npz", folder / "b.onnx", (0.5,), solver="uniform", budget_input=True)
    compile_fake_plugin(folder, "10.3.0").rename(folder / "libacm_gated_learners.so")
    return folder


class Opened(list[dict[str, Any]]):
    """Options and required inputs of each session of the provider."""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    opened, real = Opened(), onnxruntime.InferenceSession

    class Session:
        def __init__(self, content: bytes, options: Any, providers: Any, **more: Any) -> None:
            name, given = providers[0]
            model = onnx.load_from_string(content)
            if name == PROVIDERS[0]:
                held = {tensor.name for tensor in model.graph.initializer}
                required = {value.name for value in model.graph.input} - held
                domains = {node.domain for node in gated_learners_nodes(model)}
                assert not model.functions
                opened.append(given | {"required": required, "domains": domains})
                if domains:
                    rewrite_for(model, read_manifest(model, "m").replaced(calibration=None), "portable")
            self._session = real(model.SerializeToString(), options, providers=["CPUExecutionProvider"], **more)
            self._names = [p if isinstance(p, str) else p[0] for p in providers]

        def get_providers(self) -> list[str]:
            return self._names

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(warm_up, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(warm_up, "MAX_WARM_UP_RUNS", 10)
    return opened


def test_files_are_rewritten_for_the_provider_with_thresholds_required(folder: Path, opened: Opened) -> None:
    result = run(
        folder / "b.onnx",
        "--budgets",
        "0.5",
        "--runs",
        2,
        "--engine-cache",
        folder / "cache",
        "--baseline",
        folder / "dense.onnx",
        "--json",
    )
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert [r["routing"] for r in content["runs"]] == ["data", "skewed", "least", "most"]
    assert content["runtime"]["provider"] == PROVIDERS[0]
    own, dense, fed = opened  # in the order in which runs need them
    assert own["required"] == {"pixel_values", "budget"}
    assert fed["required"] > {"pixel_values"}
    assert all(name.endswith(".thresholds") for name in fed["required"] - {"pixel_values"})
    assert own["domains"] == fed["domains"] == {ORT_TENSORRT_DOMAIN}
    assert dense["domains"] == set()
    for options in (own, fed, dense):
        assert options["trt_extra_plugin_lib_paths"] == str(folder / "libacm_gated_learners.so")
        assert options["trt_engine_cache_path"] == str(folder / "cache")
        assert "trt_fp16_enable" not in options


def test_half_precision_is_allowed_if_the_file_has_it(folder: Path, opened: Opened) -> None:
    result = run(folder / "half.onnx", "--runs", 1)
    assert result.exit_code == 0, result.stderr
    assert {options["trt_fp16_enable"] for options in opened} == {"True"}
    assert not any("trt_engine_cache_enable" in options for options in opened)


def test_an_int8_file_enables_int8_in_the_provider(folder: Path, int8_files: Path, opened: Opened) -> None:
    plugin = ("--plugin", folder / "libacm_gated_learners.so")
    for name in ("mixed", "dynamic"):
        result = run(int8_files / f"{name}.onnx", "--runs", 2, *plugin)
        assert result.exit_code == (0 if name == "mixed" else 1), result.stderr
    assert "scales its activations at run time" in result.stderr
    assert {options["trt_int8_enable"] for options in opened} == {"True"}
    assert all(options["domains"] == {ORT_TENSORRT_DOMAIN} for options in opened)
    run(folder / "m.onnx", "--runs", 2)
    assert "trt_int8_enable" not in opened[-1]


def test_a_missing_library_is_refused_before_any_work(folder: Path, opened: Opened) -> None:
    result = run(folder / "m.onnx", "--plugin", folder / "none.so")
    assert result.exit_code == 1
    assert "none.so" in result.stderr
    assert "acm-export build-plugin" in result.stderr
    assert opened == []


def test_without_the_provider_the_error_says_what_installs_it(folder: Path) -> None:
    result = run(folder / "m.onnx", "--runs", 1)
    assert result.exit_code == 1
    assert "has no TensorrtExecutionProvider" in result.stderr
    assert install_command("gpu") in result.stderr
