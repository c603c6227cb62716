"""The doubles of TensorRT have only names, arguments and enums of the real bindings, and run nothing of acm-export."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engine_builds import VERSIONS
from engine_fake_enums import ENUMS
from engine_fake_runtime import FakeContext, FakeEngine
from engine_fake_tensorrt import fake
from tensorrt_installed import members, read_stored

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPPORT = Path(__file__).parents[1] / "support"
STORED = read_stored()


@pytest.mark.parametrize("version", VERSIONS)
def test_doubles_have_names_and_arguments_of_the_real_classes(version: str) -> None:
    for kind, double in doubles(version):
        for name in (name for name in dir(double) if not name.startswith("_")):
            described = STORED[version].get(f"{kind}.{name}")
            assert described is not None, f"{kind}.{name}"
            if callable(getattr(double, name)) and not inspect.isclass(getattr(double, name)):
                own = parameters(getattr(double, name), skip_self=inspect.isclass(double))
                assert any(fits(own, overload) for overload in described.split(" | ")), (f"{kind}.{name}", described)


@pytest.mark.parametrize("version", VERSIONS)
def test_doubles_have_enums_and_functions_of_the_real_module(version: str) -> None:
    tensorrt, _ = fake(version)
    for kind in ENUMS:
        real = members(STORED[version], kind)
        double = tensorrt.ILogger.Severity if kind == "Severity" else getattr(tensorrt, kind)
        assert {name: int(getattr(double, name)) for name in real} == real
    names = {name for name in vars(tensorrt) if not name.startswith("_")}
    assert names - STORED[version].keys() == set()
    assert int(tensorrt.float16) == int(tensorrt.DataType.HALF)


def test_doubles_run_nothing_of_acm_export() -> None:
    files = sorted(SUPPORT.glob("engine_fake_*.py"))
    assert len(files) == 3
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert [name for name in modules if name.partition(".")[0] == "acm_export"] == []


def doubles(version: str) -> Iterator[tuple[str, Any]]:
    """The doubles of TensorRT's classes: instances, or classes that only an engine creates."""
    tensorrt, seen = fake(version, errors=1)
    builder = tensorrt.Builder(None)
    config, network = builder.create_builder_config(), builder.create_network()
    parser = tensorrt.OnnxParser(network, None)
    yield from (("Builder", builder), ("IBuilderConfig", config), ("INetworkDefinition", network))
    yield from (("OnnxParser", parser), ("ParserError", parser.get_error(0)))
    yield from (("IOptimizationProfile", builder.create_optimization_profile()), ("Logger", tensorrt.Logger(None)))
    yield from (("ITimingCache", config.create_timing_cache(b"")), ("IPluginRegistry", tensorrt.get_plugin_registry()))
    yield from (("Runtime", tensorrt.Runtime(None)), ("ICudaEngine", FakeEngine), ("IExecutionContext", FakeContext))
    yield from (("ILayer", layer) for layer in seen.layers)
    yield "ITensor", seen.layers[0].get_output(0)
    yield "ILogger", tensorrt.ILogger
    if not version.startswith("8"):
        yield "IProgressMonitor", tensorrt.IProgressMonitor


def parameters(function: Any, *, skip_self: bool) -> list[str]:
    """Names of parameters; one that the double does not use begins with an underscore."""
    names = [name.lstrip("_") for name in inspect.signature(function).parameters]
    return names[1:] if skip_self else names


def fits(own: list[str], overload: str) -> bool:
    """Whether the double takes the real arguments, except the last ones that have defaults."""
    real = [name for name in re.sub(r"^\(|\) -> .*$", "", overload).split(", ") if name]
    return [name.rstrip("=") for name in real[: len(own)]] == own and all(n.endswith("=") for n in real[len(own) :])
