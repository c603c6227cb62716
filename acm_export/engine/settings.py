"""How the builder is told about precision, by names that differ from one TensorRT to the next."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from acm_export.engine.profiles import Profile

_TACTIC_SOURCE = re.compile(r"[+-][A-Z_]+")


@dataclass(frozen=True)
class BuilderSettings:
    """What an engine is built with, apart from the model.

    Args:
        profiles: Of every input with a dynamic dimension.
        tf32: Whether float32 products outside the plugin may be rounded to TF32.
        half: Whether the file is fp16.
        timing_cache: File that is read, where it is there, and written.
        tactic_sources: Libraries to take tactics from or not: sign and TensorRT's name, as in ``-CUDNN``.
    """

    profiles: dict[str, Profile]
    tf32: bool = False
    half: bool = False
    timing_cache: Path | None = None
    tactic_sources: tuple[str, ...] = ()


def network_flags(tensorrt: Any) -> int:
    """Flags for ``create_network``: strongly typed where there is such a flag, by its name, since its bit moved."""
    flags = tensorrt.NetworkDefinitionCreationFlag
    name = "STRONGLY_TYPED" if _strongly_typed(tensorrt) else "EXPLICIT_BATCH"
    return 1 << int(getattr(flags, name)) if hasattr(flags, name) else 0


def set_precision(tensorrt: Any, network: Any, config: Any, settings: BuilderSettings) -> None:
    """Set the flags of the builder, and on TensorRT 8 the precision of every layer to what the file says.

    Args:
        tensorrt: The module.
        network: As parsed.
        config: Of the builder; is changed.
        settings: Of the build.
    """
    flags = tensorrt.BuilderFlag
    (config.set_flag if settings.tf32 else config.clear_flag)(flags.TF32)
    if _strongly_typed(tensorrt) or not settings.half:
        return
    config.set_flag(flags.FP16)
    config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
    types = (tensorrt.float32, tensorrt.float16)
    kinds = tensorrt.LayerType
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        outputs = [layer.get_output(i).dtype for i in range(layer.num_outputs)]
        if layer.type in (kinds.PLUGIN_V2, kinds.SHAPE) or any(dtype not in types for dtype in outputs):
            continue  # the plugin says itself which types it takes; the others have no precision
        layer.precision = outputs[0]
        for index, dtype in enumerate(outputs):
            layer.set_output_type(index, dtype)


def parse_tactic_sources(text: str) -> tuple[str, ...]:
    """Read ``-CUDNN,+CUBLAS``, as trtexec takes it.

    Raises:
        UsageError: It is not of that form.
    """
    items = tuple(item.strip().upper() for item in text.split(","))
    if wrong := [item for item in items if not _TACTIC_SOURCE.fullmatch(item)]:
        raise UsageError(f"--tactic-sources: {wrong[0]!r} is none", "write -CUDNN,+CUBLAS")
    return items


def set_tactic_sources(tensorrt: Any, config: Any, changes: Sequence[str]) -> None:
    """Change the builder's default libraries.

    Raises:
        EngineError: TensorRT does not know one.
    """
    if not changes:
        return
    known, bits = tensorrt.TacticSource, config.get_tactic_sources()
    for change in changes:
        if not hasattr(known, change[1:]):
            names = ", ".join(name for name in dir(known) if name.isupper())
            raise EngineError(f"TensorRT {tensorrt.__version__} has no tactic source {change[1:]}", f"it has {names}")
        bit = 1 << int(getattr(known, change[1:]))
        bits = bits | bit if change[0] == "+" else bits & ~bit
    if not config.set_tactic_sources(bits):
        raise EngineError(f"TensorRT {tensorrt.__version__} refuses the tactic sources {','.join(changes)}")


def _strongly_typed(tensorrt: Any) -> bool:
    return int(tensorrt.__version__.split(".")[0]) >= 10
