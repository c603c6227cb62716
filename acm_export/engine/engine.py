"""The whole of ``build-engine``: plan what would be built, build it, compare it with the portable file, write it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import EngineError
from acm_export.base.files import check_writable, move_together_into_place, sha256_of, staging_folder
from acm_export.engine.build import build
from acm_export.engine.library import load_plugin
from acm_export.engine.machine import find_place, version_of
from acm_export.engine.passport import File, Passport, passport_path, to_text
from acm_export.engine.prepare import Ends, Prepared, prepare, target_for
from acm_export.engine.profiles import Shapes, profiles
from acm_export.engine.runtime import LoadedEngine
from acm_export.engine.settings import BuilderSettings
from acm_export.plugins.tensorrt.build import LIBRARY, build_plugin
from acm_export.plugins.tensorrt.headers import tensorrt_headers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from acm_export.engine.check import EngineCheck
    from acm_export.engine.passport import Checked


@dataclass(frozen=True)
class EnginePlan:
    """What would be built.

    Args:
        prepared: The model for the TensorRT.
        settings: How.
        output: The engine to write.
    """

    prepared: Prepared
    settings: BuilderSettings
    output: Path


@dataclass(frozen=True)
class PluginSource:
    """Where the plugin library comes from.

    Args:
        library: It; else it is compiled, or taken from the cache, and written beside the engine.
        tensorrt_root: Where TensorRT's headers are; else they are looked for.
        cuda_root: Where CUDA's headers are; else they are looked for.
    """

    library: Path | None = None
    tensorrt_root: Path | None = None
    cuda_root: Path | None = None


def plan(
    model: Path,
    output: Path,
    version: tuple[int, int],
    shapes: tuple[Shapes, Shapes, Shapes],
    *,
    tf32: bool = False,
    timing_cache: Path | None = None,
    tactic_sources: tuple[str, ...] = (),
    ends: Ends = Ends(),  # noqa: B008  it is frozen
) -> EnginePlan:
    """Read the model and decide all that can be decided without TensorRT.

    Args:
        model: A file for any target.
        output: The engine to write.
        version: Major and minor of the TensorRT.
        shapes: Smallest, best and largest, as given.
        tf32: Whether float32 products may be rounded to TF32.
        timing_cache: File to read and write.
        tactic_sources: From :func:`acm_export.engine.settings.parse_tactic_sources`.
        ends: What the engine takes and gives beside the inputs and outputs of the file.
    """
    prepared = prepare(model, target_for(version), ends)
    chosen = profiles(prepared.inputs, prepared.manifest.example_inputs, *shapes)
    settings = BuilderSettings(chosen, tf32, prepared.manifest.dtype == "fp16", timing_cache, tactic_sources)
    return EnginePlan(prepared, settings, output)


def build_engine(
    planned: EnginePlan,
    tensorrt: Any,
    plugin: PluginSource,
    make_check: Callable[[], EngineCheck] | None,
    log: Callable[[str], None] = lambda _: None,
) -> Passport:
    """Build an engine and write it and its passport, each whole or not at all.

    Args:
        planned: What to build.
        tensorrt: The module.
        plugin: Where the plugin library comes from.
        make_check: Makes, before the engine is built, what compares it with the portable file before it is written;
            None leaves that out.
        log: Receives a line for each step.

    Raises:
        EngineError: There is no GPU, the registry, the parser or the builder refuses, or the comparison fails.
        PluginError: The plugin library cannot be compiled.
        OutputError: The output cannot be written.
    """
    output, prepared, settings = planned.output, planned.prepared, planned.settings
    check_writable(output)
    check_writable(passport_path(output))
    if settings.timing_cache is not None:
        check_writable(settings.timing_cache, "--timing-cache")
    place = find_place(tensorrt)
    check = None if make_check is None else make_check()
    library = _with_plugin(planned, tensorrt, plugin, log)
    log(f"building with TensorRT {place.tensorrt} for {place.gpu} ({place.arch})")
    engine = build(tensorrt, prepared, settings)
    found = None if check is None else _checked(check, LoadedEngine(tensorrt, engine, str(output)), log)
    with staging_folder(output) as staging:
        written, beside = staging / output.name, passport_path(staging / output.name)
        written.write_bytes(engine)
        shapes = {name: [list(p.minimum), list(p.optimum), list(p.maximum)] for name, p in settings.profiles.items()}
        passport = Passport(
            place, _file(prepared.source), None if library is None else _file(library), _file(written),
            prepared.inputs, shapes, settings.tf32, prepared.manifest, found,
        )  # fmt: skip
        beside.write_text(to_text(passport), encoding="utf-8")
        move_together_into_place([(beside, passport_path(output)), (written, output)])
    return passport


def _with_plugin(planned: EnginePlan, tensorrt: Any, source: PluginSource, log: Callable[[str], None]) -> Path | None:
    """The plugin library, in TensorRT's registry; None where the model has no ACM layer."""
    if not planned.prepared.manifest.layers:
        return None
    library = source.library
    if library is None:
        headers = tensorrt_headers(source.tensorrt_root)
        if headers.version[0] != version_of(tensorrt)[0]:
            raise EngineError(
                f"the TensorRT headers in {headers.folder} are of {headers.version_text}, here is "
                f"{tensorrt.__version__}: the plugin is compiled with those of the same TensorRT",
                "name them with --tensorrt-root, or a library that is compiled with --plugin",
            )
        library = planned.output.absolute().parent / LIBRARY
        build_plugin(library, tensorrt_root=source.tensorrt_root, cuda_root=source.cuda_root, log=log)
    load_plugin(tensorrt, library)
    return library


def _checked(check: EngineCheck, engine: LoadedEngine, log: Callable[[str], None]) -> Checked:
    log("comparing the engine with the portable file in ONNX Runtime")
    try:
        return check.run(engine)
    finally:
        engine.close()


def _file(path: Path) -> File:
    return File(path.name, sha256_of(path))
