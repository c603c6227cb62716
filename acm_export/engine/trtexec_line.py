"""The trtexec command that builds the same engine. Flags were read off trtexec's sources of 8.5.3, 10.3 and 11.1."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from acm_export.engine.profiles import format_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from acm_export.engine.profiles import Profile


def trtexec_line(
    version: tuple[int, int],
    model: Path,
    engine: Path,
    plugin: Path | None,
    profiles: Mapping[str, Profile],
    *,
    half: bool = False,
    tf32: bool = False,
    timing_cache: Path | None = None,
    tactic_sources: Sequence[str] = (),
) -> str:
    """The command, quoted for a shell.

    Args:
        version: Major and minor of the TensorRT.
        model: A file for ``tensorrt`` or ``tensorrt-8``.
        engine: To write.
        plugin: The plugin library; None where the model has no ACM layer.
        profiles: Of every input with a dynamic dimension.
        half: Whether the file is fp16; TensorRT 8 has to be told, and then chooses layer by layer: trtexec cannot set
            the precision of every layer as the verb does.
        tf32: Whether float32 products may be rounded to TF32.
        timing_cache: Is read and written.
        tactic_sources: Changes of the default, with their signs.
    """
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={engine}"]
    words += [f"--{'plugins' if version < (8, 6) else 'staticPlugins'}={plugin}"] if plugin else []
    if profiles:  # trtexec refuses shapes for a model whose shapes are all fixed
        words += [
            f"--minShapes={format_shapes({name: p.minimum for name, p in profiles.items()})}",
            f"--optShapes={format_shapes({name: p.optimum for name, p in profiles.items()})}",
            f"--maxShapes={format_shapes({name: p.maximum for name, p in profiles.items()})}",
        ]
    if version < (9, 0):
        words += ["--fp16", "--precisionConstraints=obey"] if half else []
    elif version < (11, 0):
        words.append("--stronglyTyped")  # a no-op from 11 on
    words += [] if tf32 else ["--noTF32"]
    words += [f"--timingCacheFile={timing_cache}"] if timing_cache else []
    words += [f"--tacticSources={','.join(tactic_sources)}"] if tactic_sources else []
    words.append("--buildOnly" if version < (8, 6) else "--skipInference")
    return shlex.join(words)
