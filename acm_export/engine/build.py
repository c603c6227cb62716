"""The call of TensorRT's builder. Tests drive it with stand-ins; not yet run with a real builder and a GPU."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from acm_export.base import interrupts
from acm_export.base.errors import EngineError, first_line
from acm_export.base.files import move_into_place, staging_folder
from acm_export.engine.parsing import parse
from acm_export.engine.settings import BuilderSettings, network_flags, set_precision, set_tactic_sources

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.engine.prepare import Prepared

_LOGGER = logging.getLogger(__name__)


def build(tensorrt: Any, prepared: Prepared, settings: BuilderSettings) -> bytes:
    """Build an engine.

    Args:
        tensorrt: The module, with the plugin in its registry.
        prepared: The model.
        settings: How to build.

    Returns:
        The serialised engine.

    Raises:
        EngineError: The parser or the builder refuses.
        OutputError: The timing cache cannot be written.
    """
    log = tensorrt.Logger(tensorrt.Logger.WARNING)
    try:
        builder = tensorrt.Builder(log)
    except TypeError as error:  # of pybind11, for a constructor that returns nothing: CUDA does not start
        raise EngineError("TensorRT makes no builder here; its log above says why", "acm-export doctor") from error
    network = builder.create_network(network_flags(tensorrt))
    parse(tensorrt.OnnxParser(network, log), prepared.model, str(prepared.source))
    config = builder.create_builder_config()
    set_precision(tensorrt, network, config, settings)
    set_tactic_sources(tensorrt, config, settings.tactic_sources)
    _add_profile(builder, config, settings)
    cache = _use_timing_cache(config, settings.timing_cache)
    if hasattr(tensorrt, "IProgressMonitor"):
        config.progress_monitor = _monitor(tensorrt)
    plan = builder.build_serialized_network(network, config)
    interrupts.check()
    if plan is None:
        raise EngineError(
            f"TensorRT {tensorrt.__version__} could not build the engine; its log above says why",
            "a smaller --max-shapes needs less memory; acm-export doctor --for tensorrt looks at the rest",
        )
    if cache is not None and settings.timing_cache is not None:
        _write(bytes(config.get_timing_cache().serialize()), settings.timing_cache)
    return bytes(plan)


def _add_profile(builder: Any, config: Any, settings: BuilderSettings) -> None:
    if not settings.profiles:
        return
    profile = builder.create_optimization_profile()
    try:
        for name, shapes in settings.profiles.items():
            profile.set_shape(name, shapes.minimum, shapes.optimum, shapes.maximum)
    except (TypeError, ValueError) as error:
        raise EngineError(f"TensorRT refuses the shapes of {name}: {first_line(error)}") from error
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"TensorRT refuses the optimisation profile {settings.profiles}; its log above says why")


def _use_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineError(
            f"the timing cache {path} is of another TensorRT or GPU, or damaged", "name another with --timing-cache"
        )
    return cache


def _write(content: bytes, path: Path) -> None:
    with staging_folder(path, "--timing-cache") as staging:
        (staging / path.name).write_bytes(content)
        move_into_place(staging / path.name, path)


def _monitor(tensorrt: Any) -> Any:
    """Says which phase the builder is in; an interrupt ends the build at the next step."""

    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)  # pybind wants it called by name

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                _LOGGER.info("%s (%d steps)", phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002  TensorRT passes them
            return not interrupts.asked()

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()
