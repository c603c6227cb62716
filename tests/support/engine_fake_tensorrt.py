"""Doubles of TensorRT's Python module, for what no real TensorRT shows without a GPU: builders, engines, and registries
with the wrong plugins.

They record how they are called. Enums come from the stored signatures of the real version, and
tests/engine/test_engine_names.py compares names and arguments of the doubles with them.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from engine_fake_enums import enums
from engine_fake_runtime import FakeRuntime, GatedLearners

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from onnx.reference.op_run import OpRun


class ParserError:
    """The parser error before TensorRT 10, which has only the number of the node."""

    def __init__(self, index: int) -> None:
        self._index = index

    def node(self) -> int:
        return 0

    def desc(self) -> str:
        return f"no importer {self._index}"

    def code(self) -> str:
        return "UNSUPPORTED_NODE"


class NamingParserError(ParserError):
    def node_name(self) -> str:
        return "a"

    def node_operator(self) -> str:
        return "B"


class Network:
    """Names of ``tensorrt.INetworkDefinition``."""

    def __init__(self, layers: list[Layer]) -> None:
        self._layers, self.num_layers = layers, len(layers)

    def get_layer(self, index: int) -> Layer:
        return self._layers[index]


class Profile:
    """Names of ``tensorrt.IOptimizationProfile``."""

    def __init__(self, shapes: dict[str, Any]) -> None:
        self._shapes = shapes

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002  the real names
        self._shapes[input] = (min, opt, max)


class TimingCache:
    """Names of ``tensorrt.ITimingCache``."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content + b"+"


class ProgressMonitor:
    """Names of ``tensorrt.IProgressMonitor``, which acm-export derives from."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool: ...  # type: ignore[empty-body]

    def phase_finish(self, phase_name: str) -> None: ...


class Layer:
    """Names of ``tensorrt.ILayer``."""

    def __init__(
        self, kind: Any, dtype: Any, weakly: bool, output: str = "", inputs: tuple[str | None, ...] = ()
    ) -> None:
        self.type, self.num_outputs = kind, 1
        self._dtype, self._output, self._inputs, self.num_inputs = dtype, output, inputs, len(inputs)
        if weakly:
            self.precision = None
            self.set_output_type = lambda index, dtype: setattr(self, "_types", (index, dtype))

    def get_input(self, index: int) -> Any:
        name = self._inputs[index]
        return None if name is None else SimpleNamespace(name=name)

    def get_output(self, index: int) -> Any:
        assert index == 0
        return SimpleNamespace(dtype=self._dtype, name=self._output)


class Logger:
    """Names of ``tensorrt.ILogger``."""

    def log(self, severity: Any, msg: str) -> None: ...


class PrintingLogger(Logger):
    """Names of ``tensorrt.Logger``."""

    def __init__(self, min_severity: Any) -> None:
        self.min_severity = min_severity


class Recorded:
    """How the double was called."""

    def __init__(self) -> None:
        self.network_flags = 0
        self.flags: dict[str, bool] = {}
        self.shapes: dict[str, Any] = {}
        self.parsed: bytes = b""
        self.monitor: Any = None
        self.tactic_sources = 0b0101
        self.layers: list[Layer] = []


CREATORS = ("GatedLearners", "QuantizedGatedLearners", "GLUGatedLearners", "QuantizedGLUGatedLearners")
"""Names of the plugins in the library."""


def fake(  # noqa: C901  one closure for each class of the module
    version: str,
    *,
    errors: int = 0,
    plan: bytes | None = b"engine",
    creator: bool = True,
    creators: tuple[str, ...] = CREATORS,
    handle: Any = 1,
    driver: Path | None = None,
    change: Callable[[dict[str, Any]], None] = lambda _: None,
    op: type[OpRun] = GatedLearners,
) -> tuple[Any, Recorded]:
    """A double of one version, and its record.

    Args:
        version: Version of TensorRT.
        errors: Number of errors that the parser reports.
        plan: The serialized engine, without a ``driver``.
        creator: Whether the registry lists the right version of the plugins.
        creators: Names of the plugins in the library.
        handle: Result of ``load_library``.
        driver: Double of the CUDA driver; with it, engines run what the parser was given (engine_fake_runtime.py).
        change: Changes the outputs of every run, to make an engine wrong.
        op: Computes GatedLearners.
    """
    major = int(version.partition(".")[0])
    seen = Recorded()
    real = enums(version)
    severity = real.pop("Severity")
    logger = type("ILogger", (Logger,), {"Severity": severity, **severity.__members__})
    kinds, builder_flags = real["LayerType"], real["BuilderFlag"]
    seen.layers = [
        Layer(kinds.MATRIX_MULTIPLY, real["float16"], major < 11),
        Layer(kinds.PLUGIN_V2, real["float16"], major < 11),
        Layer(kinds.SOFTMAX, real["float32"], major < 11),
        Layer(kinds.SHAPE, real["int32"], major < 11),
    ]

    class Config:
        def set_flag(self, flag: Any) -> None:
            seen.flags[builder_flags(flag).name] = True

        def clear_flag(self, flag: Any) -> None:
            seen.flags[builder_flags(flag).name] = False

        def get_tactic_sources(self) -> int:
            return seen.tactic_sources

        def set_tactic_sources(self, tactic_sources: int) -> bool:
            seen.tactic_sources = tactic_sources
            return True

        def add_optimization_profile(self, _profile: Any) -> int:
            return 0

        def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
            return TimingCache(serialized_timing_cache)

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

        def create_network(self, flags: int = 0) -> Network:
            seen.network_flags = flags
            return Network(seen.layers)

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile(seen.shapes)

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

        def get_error(self, index: int) -> ParserError:
            return NamingParserError(index) if major >= 10 else ParserError(index)

    registered = [
        SimpleNamespace(name=name, plugin_version="1" if creator else "2", plugin_namespace="") for name in creators
    ]
    held = [] if major >= 10 else list(registered)  # before 10 the library registers itself

    def get_creator(type: str, version: str, _plugin_namespace: str = "") -> Any:  # noqa: A002  as TensorRT names it
        return next((item for item in held if (item.name, item.plugin_version) == (type, version)), None)

    def load_library(_plugin_path: str) -> Any:
        if held:
            return None  # like the real one for a registered creator
        held.extend(registered)
        return handle

    registry: dict[str, Any] = {}
    if major < 11:
        registry |= {"plugin_creator_list": held, "get_plugin_creator": get_creator}
    if major >= 10:
        registry |= {"all_creators": held, "get_creator": get_creator, "load_library": load_library}

    names: dict[str, Any] = {
        "__version__": version,
        "ILogger": logger,
        "Logger": type("Logger", (PrintingLogger,), dict(severity.__members__)),
        "Builder": Builder,
        "OnnxParser": OnnxParser,
        "get_plugin_registry": lambda: SimpleNamespace(**registry),
    }
    names |= real
    names["Runtime"] = lambda _logger: FakeRuntime(driver, seen.shapes, change, op, SimpleNamespace(**real))
    if major >= 10:
        names["IProgressMonitor"] = ProgressMonitor
    module = ModuleType("tensorrt")
    vars(module).update(names)
    return module, seen
