"""Build a planned engine: load the plugin, build, compare with the portable file, write engine and passport."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import EngineError
from acm_export.base.files import move_into_place, move_together_into_place, sha256_of, staging_folder
from acm_export.engine import host
from acm_export.engine.build import build
from acm_export.engine.library import load_plugin
from acm_export.engine.passport import File, Passport, passport_path, to_text
from acm_export.engine.runtime import LoadedEngine
from acm_export.machine.versions import numbers
from acm_export.plugins.tensorrt.build import LIBRARY, build_plugin
from acm_export.plugins.tensorrt.headers import tensorrt_headers
from acm_export.plugins.tensorrt.prebuilt import content_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from acm_export.base.progress import Progress
    from acm_export.engine.check import EngineCheck
    from acm_export.engine.passport import Comparison
    from acm_export.engine.plan import EnginePlan


@dataclass(frozen=True)
class PluginSource:
    """Where the plugin library comes from.

    Args:
        library: A plugin library; None to write one next to the engine: the prebuilt one of the installed package if
            neither folder of headers is named, else one that is compiled or in the cache.
        tensorrt_root: Folder of TensorRT's headers; None to search the usual places.
        cuda_root: Folder of CUDA's headers; None to search the usual places.
    """

    library: Path | None = None
    tensorrt_root: Path | None = None
    cuda_root: Path | None = None


def build_planned(
    planned: EnginePlan,
    tensorrt: ModuleType,
    plugin: PluginSource,
    make_check: Callable[[], EngineCheck] | None,
    progress: Progress,
) -> Passport:
    """Build an engine and write it and its passport, each whole or not at all.

    Args:
        planned: What to build.
        tensorrt: The TensorRT module.
        plugin: Where the plugin library comes from.
        make_check: Makes the comparison before the engine is built, so that unusable data fail early; None to skip it.
        progress: Receives the steps.

    Raises:
        EngineError: There is no GPU, another plugin library is next to the engine, the registry, the parser or the
            builder fails, or the comparison does.
        PluginError: The plugin library cannot be put together or compiled.
        OutputError: The output cannot be written.
    """
    output, prepared, settings = planned.output, planned.prepared, planned.settings
    platform = host.find_platform(tensorrt)
    check = None if make_check is None else make_check()
    library = _load_plugin(planned, tensorrt, plugin, progress)
    where = "" if platform.gpu is None else f" for {platform.gpu} ({platform.arch})"
    progress.stage(f"building with {planned.release.name} {platform.tensorrt}{where}", None)
    engine = build(tensorrt, prepared, settings)
    comparison = None
    if check is not None:
        progress.stage("comparing the engine with the portable file in ONNX Runtime", None)
        comparison = _compare(check, LoadedEngine(tensorrt, engine, str(output)))
    with staging_folder(output) as staging:
        written, beside = staging / output.name, passport_path(staging / output.name)
        written.write_bytes(engine)
        shapes = {name: [list(p.minimum), list(p.optimum), list(p.maximum)] for name, p in settings.profiles.items()}
        passport = Passport(
            platform=platform,
            model=_file(prepared.source),
            plugin=None if library is None else _file(library),
            engine=_file(written),
            inputs=prepared.inputs,
            profiles=shapes,
            tf32=settings.tf32,
            manifest=prepared.manifest,
            comparison=comparison,
        )
        beside.write_text(to_text(passport), encoding="utf-8")
        move_together_into_place([(beside, passport_path(output)), (written, output)])
    return passport


def _load_plugin(planned: EnginePlan, tensorrt: ModuleType, source: PluginSource, progress: Progress) -> Path | None:
    """Load the plugin library, and write it first if none is named; None for a model or a TensorRT without a plugin."""
    if not planned.uses_plugin:
        return None
    library = source.library or planned.output.absolute().parent / LIBRARY
    if source.library is None:
        with staging_folder(library) as staging:
            written = staging / LIBRARY
            kind = _write_plugin(written, tensorrt.__version__, source, progress)
            _check_not_another(library, written, f"the {kind} plugin for {planned.release}")
            move_into_place(written, library)
        progress.stage(f"{kind} plugin for {planned.release}: {library}", None)
    load_plugin(tensorrt, library)
    return library


def _write_plugin(output: Path, version: str, source: PluginSource, progress: Progress) -> str:
    """Write the prebuilt library if there is one and no headers are named, else compile it; return which."""
    content = None if source.tensorrt_root or source.cuda_root else content_for(numbers(version)[:2])
    if content is not None:
        output.write_bytes(content)
        return "prebuilt"
    headers = tensorrt_headers(source.tensorrt_root)
    if headers.version[0] != numbers(version)[0]:
        raise EngineError(
            f"the TensorRT headers in {headers.folder} are of version {headers.version_text}, but TensorRT "
            f"{version} is installed; the plugin needs headers of the same major version",
            "name matching headers with --tensorrt-root, or a compiled library with --plugin",
        )
    build_plugin(output, tensorrt_root=source.tensorrt_root, cuda_root=source.cuda_root, progress=progress)
    return "compiled"


def _check_not_another(library: Path, written: Path, what: str) -> None:
    """Refuse to replace a library that the user compiled, or that engines in the folder were built with."""
    if library.is_file() and (found := sha256_of(library)) != (expected := sha256_of(written)):
        raise EngineError(
            f"{library} is not {what}: its SHA-256 is {found[:12]}, expected {expected[:12]}; it is not replaced, "
            "because engines in this folder may need it",
            f"use it with --plugin {library}, or move it away",
        )


def _compare(check: EngineCheck, engine: LoadedEngine) -> Comparison:
    try:
        return check.run(engine)
    finally:
        engine.close()


def _file(path: Path) -> File:
    return File(path.name, sha256_of(path))
