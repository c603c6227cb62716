"""Stand-ins for the Python module of TensorRT 8.5, 10.3 and 11.1: only names that its bindings really define.

They record what they are asked, and refuse every name that is not there.
"""

from __future__ import annotations

from enum import IntEnum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from engine_fake_runtime import FakeRuntime, TensorIOMode, TensorLocation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Flag(IntEnum):
    """Base of stand-ins for pybind enums, which ``int()`` takes."""


class ParserError:
    """As before TensorRT 10: the node's number alone."""

    def node(self) -> int:
        return 0

    def desc(self) -> str:
        return "no importer"

    def code(self) -> str:
        return "UNSUPPORTED_NODE"


class NamingParserError(ParserError):
    def node_name(self) -> str:
        return "a"

    def node_operator(self) -> str:
        return "B"


class Layer:
    def __init__(self, kind: str, dtype: Any, weakly: bool) -> None:
        self.type, self.num_outputs, self.types = kind, 1, []  # type: ignore[var-annotated]
        self._dtype = dtype
        if weakly:
            self.precision = None
            self.set_output_type = lambda index, dtype: self.types.append((index, dtype))

    def get_output(self, _index: int) -> Any:
        return SimpleNamespace(dtype=self._dtype)


class Recorded:
    """What was asked for."""

    def __init__(self) -> None:
        self.network_flags = 0
        self.flags: dict[str, bool] = {}
        self.shapes: dict[str, Any] = {}
        self.parsed: bytes = b""
        self.monitor: Any = None
        self.tactic_sources = 0b0101
        self.layers: list[Layer] = []


def fake(  # noqa: C901  one closure for each class of the module
    version: str,
    *,
    errors: int = 0,
    plan: bytes | None = b"engine",
    creator: bool = True,
    handle: Any = 1,
    driver: Path | None = None,
    change: Callable[[dict[str, Any]], None] = lambda _: None,
) -> tuple[Any, Recorded]:
    """A stand-in for one version, and its record; with a ``driver`` it runs what it parsed."""
    major = int(version.partition(".")[0])
    seen = Recorded()
    float16, float32 = np.dtype(np.float16), np.dtype(np.float32)
    seen.layers = [Layer("MATMUL", float16, major < 11), Layer("PLUGIN_V2", float16, major < 11)]
    seen.layers += [Layer("SOFTMAX", float32, major < 11), Layer("SHAPE", np.dtype(np.int32), major < 11)]

    network_names = {
        8: {"EXPLICIT_BATCH": 0},
        10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
        11: {"STRONGLY_TYPED": 2},
    }
    builder_names = {"TF32": 7} | ({"FP16": 0, "OBEY_PRECISION_CONSTRAINTS": 13} if major < 11 else {})
    builder_flags = Flag("BuilderFlag", builder_names)

    class Config:
        def set_flag(self, flag: Any) -> None:
            seen.flags[builder_flags(flag).name] = True

        def clear_flag(self, flag: Any) -> None:
            seen.flags[builder_flags(flag).name] = False

        def get_tactic_sources(self) -> int:
            return seen.tactic_sources

        def set_tactic_sources(self, bits: int) -> bool:
            seen.tactic_sources = bits
            return True

        def add_optimization_profile(self, _profile: Any) -> int:
            return 0

        def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
            return SimpleNamespace(serialize=lambda: serialized_timing_cache + b"+")

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            self._cache = cache
            return not ignore_mismatch

        def get_timing_cache(self) -> Any:
            return self._cache

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "progress_monitor" and major >= 10:
                seen.monitor = value
            elif not name.startswith("_"):
                raise AttributeError(name)
            object.__setattr__(self, name, value)

    class Builder:
        def __init__(self, _logger: Any) -> None:
            pass

        def create_network(self, flags: int = 0) -> Any:
            seen.network_flags = flags
            return SimpleNamespace(num_layers=len(seen.layers), get_layer=seen.layers.__getitem__)

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Any:
            return SimpleNamespace(set_shape=lambda name, *shapes: seen.shapes.update({name: shapes}))

        def build_serialized_network(self, _network: Any, _config: Config) -> bytes | None:
            if seen.monitor is not None:
                seen.monitor.phase_start("Building", None, 2)
                assert seen.monitor.step_complete("Building", 1)
                seen.monitor.phase_finish("Building")
            return plan if driver is None else seen.parsed

    class OnnxParser:
        num_errors = errors

        def __init__(self, _network: Any, _logger: Any) -> None:
            pass

        def parse(self, model: bytes, path: str | None = None) -> bool:
            assert path
            seen.parsed = model
            return not errors

        def get_error(self, _index: int) -> ParserError:
            return NamingParserError() if major >= 10 else ParserError()

    right = SimpleNamespace(name="GatedLearners", plugin_version="1", plugin_namespace="")
    wrong = SimpleNamespace(name="GatedLearners", plugin_version="2", plugin_namespace="")
    held = [] if major >= 10 else [right if creator else wrong]  # before 10 the library registers itself

    def get_creator(_type: str, version: str, _namespace: str = "") -> Any:
        return next((item for item in held if item.plugin_version == version), None)

    def load_library(_path: str) -> Any:
        if held:
            return None  # as the real one, of a creator that it has
        held.append(right if creator else wrong)
        return handle

    registry: dict[str, Any] = {}
    if major < 11:
        registry |= {"plugin_creator_list": held, "get_plugin_creator": get_creator}
    if major >= 10:
        registry |= {"all_creators": held, "get_creator": get_creator, "load_library": load_library}

    class Logger:
        WARNING = 2

        def __init__(self, _severity: int) -> None:
            pass

    names: dict[str, Any] = {
        "__version__": version, "Logger": Logger, "Builder": Builder, "OnnxParser": OnnxParser,
        "BuilderFlag": builder_flags, "NetworkDefinitionCreationFlag": Flag("Flags", network_names[major]),
        "LayerType": SimpleNamespace(PLUGIN_V2="PLUGIN_V2", SHAPE="SHAPE"), "float16": float16, "float32": float32,
        "TacticSource": Flag("TacticSource", {"CUBLAS": 0, "CUBLAS_LT": 1, "CUDNN": 2, "JIT_CONVOLUTIONS": 3}),
        "get_plugin_registry": lambda: SimpleNamespace(**registry),
    }  # fmt: skip
    if driver is not None:
        names |= {"TensorIOMode": TensorIOMode, "TensorLocation": TensorLocation}
        names["Runtime"] = lambda _logger: FakeRuntime(driver, seen.shapes, change)
    if major >= 10:
        names["IProgressMonitor"] = type("IProgressMonitor", (), {})
    return SimpleNamespace(**names), seen
