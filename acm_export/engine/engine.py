"""The whole of ``build-engine``: plan what would be built, then build it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acm_export.doctor import gpu
from acm_export.doctor.versions import numbers
from acm_export.engine.build import build
from acm_export.engine.library import load_plugin
from acm_export.engine.passport import Passport, Place, passport_path
from acm_export.engine.prepare import Prepared, prepare, target_for
from acm_export.engine.profiles import Shapes, profiles
from acm_export.engine.settings import Settings
from acm_export.errors import EngineError, MissingDependencyError
from acm_export.files import check_writable, move_into_place, sha256_of, staging_folder
from acm_export.inspection import summarize
from acm_export.plugins.tensorrt.build import build_plugin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """What would be built.

    Args:
        prepared: The model for the TensorRT.
        settings: How.
        output: The engine to write.
    """

    prepared: Prepared
    settings: Settings
    output: Path


def find_tensorrt() -> Any:
    """Import TensorRT with its builder and parser.

    Raises:
        MissingDependencyError: It is not installed, or cannot be imported, or has no builder.
    """
    hint = (
        "pip install 'acm-export[gpu]' (JetPack: apt install python3-libnvinfer); or: acm-export doctor --for tensorrt"
    )
    try:
        module = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"TensorRT cannot be imported: {error}", hint) from error
    if not hasattr(module, "Builder") or not hasattr(module, "OnnxParser"):
        raise MissingDependencyError(f"TensorRT {module.__version__} has no builder or no ONNX parser", hint)
    return module


def version_of(tensorrt: Any) -> tuple[int, int]:
    """Major and minor of a TensorRT module."""
    major, minor, *_ = (*numbers(tensorrt.__version__), 0, 0)
    return major, minor


def plan(
    model: Path,
    output: Path,
    version: tuple[int, int],
    shapes: tuple[Shapes, Shapes, Shapes],
    *,
    tf32: bool = False,
    timing_cache: Path | None = None,
) -> Plan:
    """Read the model and decide all that can be decided without TensorRT.

    Args:
        model: A file for any target.
        output: The engine to write.
        version: Major and minor of the TensorRT.
        shapes: Smallest, best and largest, as given.
        tf32: Whether float32 products may be rounded to TF32.
        timing_cache: File to read and write.
    """
    prepared = prepare(model, target_for(version))
    summary = summarize(model)
    chosen = profiles(summary.inputs, prepared.manifest.example_inputs, *shapes)
    settings = Settings(chosen, tf32, prepared.manifest.dtype == "fp16", timing_cache)
    return Plan(prepared, settings, output)


def build_engine(
    planned: Plan, tensorrt: Any, plugin: Path | None, tell: Callable[[str], None] = lambda _: None
) -> Passport:
    """Build an engine and write it and its passport, each whole or not at all.

    Args:
        planned: What to build.
        tensorrt: The module.
        plugin: The plugin library; else it is compiled, or taken from the cache, and written beside the engine.
        tell: Is told what is done.

    Raises:
        EngineError: There is no GPU, or the registry, the parser or the builder refuses.
        PluginError: The plugin library cannot be compiled.
        OutputError: The output cannot be written.
    """
    output = planned.output
    check_writable(output)
    if planned.settings.timing_cache is not None:
        check_writable(planned.settings.timing_cache, "--timing-cache")
    place = find_place(tensorrt)
    if plugin is None:
        plugin = build_plugin(output.absolute().parent / "libacm_gated_learners.so", tell=tell).library
    load_plugin(tensorrt, plugin)
    tell(f"building with TensorRT {place.tensorrt} for {place.gpu} ({place.arch})")
    engine = build(tensorrt, planned.prepared, planned.settings)
    with staging_folder(output) as staging:
        written, beside = staging / output.name, passport_path(staging / output.name)
        written.write_bytes(engine)
        shapes = {
            name: [list(p.minimum), list(p.optimum), list(p.maximum)] for name, p in planned.settings.profiles.items()
        }
        found = Passport(place, sha256_of(planned.prepared.source), sha256_of(plugin), sha256_of(written), shapes)
        beside.write_text(found.to_json(), encoding="utf-8")
        move_into_place(written, output)
        move_into_place(beside, passport_path(output))
    return found


def find_place(tensorrt: Any) -> Place:
    """The GPU that TensorRT builds for, the first, and TensorRT's version.

    Raises:
        EngineError: There is no GPU.
    """
    cuda = gpu.look()
    if not cuda.gpus:
        raise EngineError("there is no GPU to build an engine for", "acm-export doctor --for tensorrt says why")
    first = cuda.gpus[0]
    return Place(tensorrt.__version__, first.name, "sm_" + "".join(map(str, first.capability)))
