"""Settings of TensorRT's builder, by the names that they have in each version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

    import tensorrt as trt

    from acm_export.engine.profiles import Profile

_TACTIC_SOURCE = re.compile(r"[+-][A-Z_]+")


@dataclass(frozen=True)
class BuilderSettings:
    """How an engine is built.

    Args:
        profiles: Shapes of every input with a dynamic dimension.
        tf32: Whether float32 products outside the plugin may be rounded to TF32.
        half: Whether the model is fp16.
        int8: Whether the model has QuantizeLinear and DequantizeLinear. Strongly typed networks need no setting for it.
        timing_cache: File to read, if it exists, and to write.
        tactic_sources: Changes to the default tactic sources: a sign and TensorRT's name, as in ``-CUDNN``.
    """

    profiles: dict[str, Profile]
    tf32: bool = False
    half: bool = False
    timing_cache: Path | None = None
    tactic_sources: tuple[str, ...] = ()
    int8: bool = False


def network_flags(tensorrt: ModuleType) -> int:
    """Flags for ``create_network``: strongly typed where TensorRT can; looked up by name, because the bit moved."""
    flags = tensorrt.NetworkDefinitionCreationFlag
    name = "STRONGLY_TYPED" if _strongly_typed(tensorrt) else "EXPLICIT_BATCH"
    return 1 << int(getattr(flags, name)) if hasattr(flags, name) else 0


def set_precision(
    tensorrt: ModuleType, network: trt.INetworkDefinition, config: trt.IBuilderConfig, settings: BuilderSettings
) -> None:
    """Set the builder's precision flags; on TensorRT 8 also constrain every layer to the precision of the model.

    Layers that read dequantized values stay free there: the builder runs them in int8.

    Args:
        tensorrt: The TensorRT module.
        network: Parsed network; its layers are changed on TensorRT 8.
        config: Builder configuration; is changed.
        settings: How the engine is built.
    """
    flags = tensorrt.BuilderFlag
    (config.set_flag if settings.tf32 else config.clear_flag)(flags.TF32)
    if _strongly_typed(tensorrt):
        return
    if settings.int8:
        config.set_flag(flags.INT8)
    if not settings.half:
        return
    config.set_flag(flags.FP16)
    config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
    types = (tensorrt.float32, tensorrt.float16)
    kinds = tensorrt.LayerType
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    dequantized = _dequantized(kinds, layers) if settings.int8 else set()
    for layer in layers:
        outputs = [layer.get_output(i).dtype for i in range(layer.num_outputs)]
        if layer.type in (kinds.PLUGIN_V2, kinds.SHAPE) or any(dtype not in types for dtype in outputs):
            continue  # the plugin chooses its own types; shape and integer layers have no precision
        if dequantized & {value.name for value in (*_inputs(layer), *_outputs(layer))}:
            continue
        layer.precision = outputs[0]
        for index, dtype in enumerate(outputs):
            layer.set_output_type(index, dtype)


def _dequantized(kinds: Any, layers: Sequence[trt.ILayer]) -> set[str]:
    """Names of dequantized values, also behind casts."""
    casts = (getattr(kinds, "CAST", None), kinds.IDENTITY)  # 8.5 has no cast layers: there a Cast is an identity
    names: set[str] = set()
    for layer in layers:  # in topological order
        behind = layer.type in casts and any(value.name in names for value in _inputs(layer))
        if behind or layer.type == kinds.DEQUANTIZE:
            names |= {value.name for value in _outputs(layer)}
    return names


def _inputs(layer: trt.ILayer) -> list[trt.ITensor]:
    values = (layer.get_input(i) for i in range(layer.num_inputs))
    return [value for value in values if value is not None]  # None for an input that is left out


def _outputs(layer: trt.ILayer) -> list[trt.ITensor]:
    return [layer.get_output(i) for i in range(layer.num_outputs)]


def parse_tactic_sources(text: str) -> tuple[str, ...]:
    """Parse tactic sources in trtexec's syntax, as in ``-CUDNN,+CUBLAS``.

    Raises:
        UsageError: The text does not follow that syntax.
    """
    items = tuple(item.strip().upper() for item in text.split(","))
    if wrong := [item for item in items if not _TACTIC_SOURCE.fullmatch(item)]:
        raise UsageError(
            f"--tactic-sources: {wrong[0]!r} is not a tactic source with a sign", "for example: -CUDNN,+CUBLAS"
        )
    return items


def set_tactic_sources(tensorrt: ModuleType, config: trt.IBuilderConfig, changes: Sequence[str]) -> None:
    """Change the builder's default tactic sources.

    Raises:
        EngineError: TensorRT does not know a source, or refuses the combination.
    """
    if not changes:
        return
    known, bits = tensorrt.TacticSource, config.get_tactic_sources()
    for change in changes:
        if not hasattr(known, change[1:]):
            names = ", ".join(name for name in dir(known) if name.isupper())
            raise EngineError(
                f"TensorRT {tensorrt.__version__} has no tactic source {change[1:]}", f"choose from {names}"
            )
        bit = 1 << int(getattr(known, change[1:]))
        bits = bits | bit if change[0] == "+" else bits & ~bit
    if not config.set_tactic_sources(bits):
        raise EngineError(f"TensorRT {tensorrt.__version__} rejects the tactic sources {','.join(changes)}")


def _strongly_typed(tensorrt: ModuleType) -> bool:
    return hasattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
