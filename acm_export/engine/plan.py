"""What ``build-engine`` would build, and the trtexec command that builds the same engine.

The flags of trtexec were read from its sources of 8.5.3, 10.3 and 11.1.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from acm_export.engine.float32_layers import float32_layers
from acm_export.engine.prepare import ExtraIO, prepare
from acm_export.engine.profiles import Profile, format_shapes, profiles
from acm_export.engine.settings import BuilderSettings
from acm_export.plugins.tensorrt.build import LIBRARY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from acm_export.base.json_fields import JsonObject
    from acm_export.engine.prepare import TensorRTModel
    from acm_export.engine.profiles import Shapes
    from acm_export.engine.release import Release
    from acm_export.onnx_file.manifest import Manifest

_FIRST_STATIC_PLUGINS = (8, 6)
_FIRST_STRONGLY_TYPED = (9, 0)


@dataclass(frozen=True)
class EnginePlan:
    """What would be built with one release of TensorRT.

    Args:
        release: TensorRT that builds the engine.
        prepared: The model for that TensorRT.
        settings: How the engine is built.
        output: Engine to write.
        plugin: Plugin library that the trtexec command names; by default the one next to the engine.
        saved: Path of the model that ``--save-onnx`` writes, if it is for the same target.
    """

    release: Release
    prepared: TensorRTModel
    settings: BuilderSettings
    output: Path
    plugin: Path | None = None
    saved: Path | None = None

    @property
    def target(self) -> str:
        """Export target that this release parses."""
        return self.prepared.manifest.target

    @property
    def converted(self) -> bool:
        """Whether trtexec needs a file that does not exist yet: another target, or more inputs and outputs."""
        return self.prepared.changed and self.saved is None and not self.release.is_rtx

    @property
    def uses_plugin(self) -> bool:
        """Whether the engine runs ACM layers in the plugin."""
        return bool(self.prepared.manifest.layers) and not self.release.is_rtx

    @property
    def trtexec(self) -> str | None:
        """The trtexec command that builds the same engine; None for TensorRT-RTX, which has no trtexec."""
        if self.release.is_rtx:
            return None
        version, library = self.release.version, self.plugin or self.output.parent / LIBRARY
        plugin = library if self.uses_plugin else None
        weak = self.settings.half and version < _FIRST_STRONGLY_TYPED
        float32 = tuple(float32_layers(self.prepared.model)) if weak else ()
        return trtexec_command(version, self._parsed_file, self.output, plugin, self.settings, float32)

    @property
    def retarget_command(self) -> str | None:
        """The command that writes the file for trtexec; None if it exists, or if only ``--save-onnx`` can write it."""
        if not self.converted or self.prepared.extra.thresholds:
            return None
        words = ["acm-export", "retarget", str(self.prepared.source), "--target", self.target]
        words += ["--with-counts"] if self.prepared.extra.counts and self.prepared.manifest.layers else []
        return shlex.join([*words, "-o", str(self._parsed_file)])

    @property
    def _parsed_file(self) -> Path:
        """The file that trtexec parses."""
        source = self.prepared.source
        if self.converted:
            return source.with_name(f"{source.stem}-{self.target}{source.suffix}")
        return self.saved or source

    def to_json(self) -> JsonObject:
        """The plan for ``--json``."""
        return {
            "runtime": self.release.runtime,
            "tensorrt": ".".join(map(str, self.release.version)),
            "target": self.target,
            "converted": self.converted,
            "retarget": self.retarget_command,
            "inputs": self.prepared.inputs,
            "outputs": [value.name for value in self.prepared.model.graph.output],
            "budget_input": self.prepared.manifest.budget_input,
            "int8": None if (quantization := self.prepared.manifest.quantization) is None else asdict(quantization),
            "trtexec": self.trtexec,
            "profiles": {name: asdict(profile) for name, profile in self.settings.profiles.items()},
        }


def plan_engine(
    model: Path,
    output: Path,
    release: Release,
    shapes: tuple[Shapes, Shapes, Shapes] = ({}, {}, {}),
    *,
    extra: ExtraIO = ExtraIO(),  # noqa: B008  it is frozen
    tf32: bool = False,
    timing_cache: Path | None = None,
    tactic_sources: tuple[str, ...] = (),
) -> EnginePlan:
    """Decide everything that can be decided without TensorRT.

    Args:
        model: An ONNX file written by acm-export, for any target.
        output: Engine to write.
        release: TensorRT that builds the engine.
        shapes: Smallest, optimal and largest shapes by input name; inputs that are left out get defaults.
        extra: Inputs and outputs to add to those of the model.
        tf32: Whether float32 products outside the plugin may be rounded to TF32.
        timing_cache: Timing cache to read and write.
        tactic_sources: Changes to the default tactic sources.

    Raises:
        UsageError: A shape does not fit the model.
        ModelFileError: The file was not written by acm-export.
        ExportError: This TensorRT cannot express the model.
        EngineError: The plugin does not support this release.
    """
    prepared = prepare(model, release, extra)
    inputs = prepared.inputs | {name: list(shape) for name, shape in prepared.fixed.items()}
    chosen = profiles(inputs, prepared.manifest.example_inputs, *shapes)
    chosen |= {name: Profile(shape, shape, shape) for name, shape in prepared.fixed.items()}
    half, int8 = prepared.manifest.dtype == "fp16", has_explicit_quantization(prepared.manifest)
    settings = BuilderSettings(chosen, tf32, half, timing_cache, tactic_sources, int8)
    return EnginePlan(release, prepared, settings, output)


def has_explicit_quantization(manifest: Manifest) -> bool:
    """Whether the graph has int8 values outside the plugin, between QuantizeLinear and DequantizeLinear."""
    quantization = manifest.quantization
    return quantization is not None and bool(quantization.linears or quantization.embeddings)


def trtexec_command(
    version: tuple[int, int],
    model: Path,
    engine: Path,
    plugin: Path | None,
    settings: BuilderSettings,
    float32: Sequence[str] = (),
) -> str:
    """The trtexec command for an engine, quoted for a shell.

    TensorRT 8 chooses the precision of an fp16 model layer by layer. ``float32`` names those that must not become fp16;
    unlike ``build-engine``, the command leaves it the choice for all others.

    Args:
        version: Major and minor version of TensorRT.
        model: A file for the target ``tensorrt`` or ``tensorrt-8``.
        engine: Engine to write.
        plugin: Plugin library; None for a model without ACM layers.
        settings: How the engine is built.
        float32: Layers of an fp16 model that compute in float32, for TensorRT 8.
    """
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={engine}"]
    if plugin:
        option = "plugins" if version < _FIRST_STATIC_PLUGINS else "staticPlugins"
        words.append(f"--{option}={plugin if plugin.parent.name or plugin.is_absolute() else f'./{plugin}'}")
    if settings.profiles:  # trtexec rejects shapes for a model with fixed shapes
        kinds = {"min": "minimum", "opt": "optimum", "max": "maximum"}
        words += [f"--{short}Shapes={_shapes(settings.profiles, kind)}" for short, kind in kinds.items()]
    if version < _FIRST_STRONGLY_TYPED:
        words += ["--int8"] if settings.int8 else []
        words += ["--fp16"] if settings.half else []
        if float32:
            types = ",".join(f"{name}:fp32" for name in float32)
            words += ["--precisionConstraints=obey", f"--layerPrecisions={types}", f"--layerOutputTypes={types}"]
    elif version < (11, 0):
        words.append("--stronglyTyped")  # TensorRT 11 is always strongly typed
    words += [] if settings.tf32 else ["--noTF32"]
    words += [f"--timingCacheFile={settings.timing_cache}"] if settings.timing_cache else []
    words += [f"--tacticSources={','.join(settings.tactic_sources)}"] if settings.tactic_sources else []
    words.append("--buildOnly" if version < _FIRST_STATIC_PLUGINS else "--skipInference")
    return shlex.join(words)


def _shapes(profiles: dict[str, Profile], kind: str) -> str:
    return format_shapes({name: getattr(profile, kind) for name, profile in profiles.items()})
