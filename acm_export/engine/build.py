"""Parse a model and build an engine with TensorRT or TensorRT-RTX.

Tested with the builder of TensorRT-RTX 1.7.1, which needs no GPU; not yet with a TensorRT builder on a GPU.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from acm_export.base import interrupts
from acm_export.base.errors import EngineError, first_line
from acm_export.base.files import move_into_place, staging_folder
from acm_export.engine.log import SHOWN_ERRORS, logger, reasons
from acm_export.engine.release import release_of
from acm_export.engine.settings import BuilderSettings, network_flags, set_precision, set_tactic_sources

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

    import onnx
    import tensorrt as trt

    from acm_export.engine.prepare import TensorRTModel

_LOGGER = logging.getLogger(__name__)

_MEMORY = "if memory ran out, use smaller --max-shapes"
_DOCTOR = "; acm-export doctor --for tensorrt checks TensorRT, the GPU and the plugin"
_TOPK_LIMIT = "3840"
_FEWER_TOKENS = f"the builder's TopK sorts at most {_TOPK_LIMIT} tokens: use smaller --opt-shapes and --max-shapes"


def build(tensorrt: ModuleType, prepared: TensorRTModel, settings: BuilderSettings) -> bytes:
    """Build an engine.

    Args:
        tensorrt: The TensorRT module, with the plugin in its registry.
        prepared: The model to parse.
        settings: How to build the engine.

    Returns:
        The serialized engine.

    Raises:
        EngineError: The parser rejects the model, or the builder fails.
        OutputError: The timing cache cannot be written.
    """
    log, release = logger(tensorrt), release_of(tensorrt)
    doctor = "" if release.is_rtx else _DOCTOR
    log.errors.clear()
    try:
        builder = tensorrt.Builder(log)
    except TypeError as error:  # pybind11 raises it for a constructor that returns null: CUDA did not start
        raise EngineError(
            f"{release.name} cannot create a builder{reasons(log.errors)}", "acm-export doctor shows the GPU and driver"
        ) from error
    network = builder.create_network(network_flags(tensorrt))
    parser = tensorrt.OnnxParser(network, log)
    if refused := parse(parser, prepared.model, str(prepared.source)):
        raise EngineError(
            f"the parser of {release.name} rejects {prepared.source}:\n{refused}",
            f"change the named nodes, or leave them out of the model{doctor}",
        )
    config = builder.create_builder_config()
    set_precision(tensorrt, network, config, settings)
    set_tactic_sources(tensorrt, config, settings.tactic_sources)
    _add_profile(builder, config, settings, log.errors)
    cache = _use_timing_cache(config, settings.timing_cache)
    if hasattr(tensorrt, "IProgressMonitor"):
        config.progress_monitor = _monitor(tensorrt)
    plan = builder.build_serialized_network(network, config)
    interrupts.check()
    if plan is None:
        raise EngineError(
            f"{release.name} {tensorrt.__version__} could not build the engine{reasons(log.errors)}",
            _FEWER_TOKENS if any(_TOPK_LIMIT in error for error in log.errors) else _MEMORY + doctor,
        )
    if cache is not None and settings.timing_cache is not None:
        _write(bytes(config.get_timing_cache().serialize()), settings.timing_cache)
    return bytes(plan)


def _add_profile(
    builder: trt.Builder, config: trt.IBuilderConfig, settings: BuilderSettings, logged: Sequence[str]
) -> None:
    if not settings.profiles:
        return
    profile = builder.create_optimization_profile()
    try:
        for name, shapes in settings.profiles.items():
            profile.set_shape(name, shapes.minimum, shapes.optimum, shapes.maximum)
    except (TypeError, ValueError) as error:
        raise EngineError(f"TensorRT rejects the shapes of {name}: {first_line(error)}") from error
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"TensorRT rejects the optimization profile {settings.profiles}{reasons(logged)}")


def _use_timing_cache(config: trt.IBuilderConfig, path: Path | None) -> trt.ITimingCache | None:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineError(
            f"the timing cache {path} belongs to another TensorRT or GPU, or is damaged",
            "choose another --timing-cache",
        )
    return cache


def _write(content: bytes, path: Path) -> None:
    with staging_folder(path, "--timing-cache") as staging:
        (staging / path.name).write_bytes(content)
        move_into_place(staging / path.name, path)


def _monitor(tensorrt: ModuleType) -> trt.IProgressMonitor:
    """A monitor that logs the builder's phases and stops the build at its next step after an interrupt."""
    base: Any = tensorrt.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)  # pybind11 does not accept super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                _LOGGER.info("%s (%d steps)", phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002  TensorRT passes them
            return not interrupts.received()

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()


def parse(parser: trt.OnnxParser, model: onnx.ModelProto, path: str) -> str:
    """Parse a model.

    Args:
        parser: TensorRT's ``OnnxParser``.
        model: Model in the form that TensorRT needs.
        path: File that the model was read from; its folder holds the external data.

    Returns:
        Why the parser rejects the model, one line for each node; empty if it parses.
    """
    if parser.parse(model.SerializeToString(), path):
        return ""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = list(dict.fromkeys(_explain(error, model) for error in errors))  # one line for a node of several bodies
    more = [f"and {len(lines) - SHOWN_ERRORS} more"] if len(lines) > SHOWN_ERRORS else []
    return "\n".join([*lines[:SHOWN_ERRORS], *more]) or "no reason given"


def _explain(error: trt.ParserError, model: onnx.ModelProto) -> str:
    """One parser error: number, name and operator of the node, and the reason.

    Before TensorRT 10, ``ParserError`` has only the number of the node.
    """
    number, nodes = error.node(), model.graph.node
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    if 0 <= number < len(nodes) and not (name and operator):
        name, operator = name or nodes[number].name, operator or nodes[number].op_type
    where = f"node {number} {name} ({operator})" if operator else "the file"
    return f"  {where}: {error.desc().strip()} [{error.code()}]"
