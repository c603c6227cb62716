"""The passport of an engine: a JSON file next to it that says what it was built from, for which GPU and TensorRT."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import EngineError, ModelFileError
from acm_export.base.files import check_input, sha256_of
from acm_export.base.json_fields import (
    BOOL,
    LIST,
    NUMBER_OR_NULL,
    OBJECT,
    OBJECT_OR_NULL,
    TEXT,
    TEXT_OR_NULL,
    WHOLE,
    WHOLE_OR_NULL,
    BrokenFieldError,
    Kind,
    checked,
)
from acm_export.engine.host import Platform
from acm_export.engine.release import MODULES, TENSORRT, TENSORRT_RTX
from acm_export.onnx_file.manifest import Manifest, parse_manifest
from acm_export.onnx_file.model_file import data_files, read_model

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.base.json_fields import JsonObject

SCHEMA = 3
_WITHOUT_RUNTIME = 2
"""Schema of engines that could only be for TensorRT."""

_REBUILD = "rebuild it on this machine: acm-export build-engine"


@dataclass(frozen=True)
class File:
    """Name and SHA-256 of a file that belongs to an engine.

    The weights of a large model are in a file named after its own content, so the digest of the model covers them.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class Comparison:
    """Result of comparing an engine with the portable file (agreement.py), summed over all settings.

    Args:
        settings: Number of settings that were run, each with its own budget or thresholds.
        error: Largest error over samples with equal learner counts, relative to the largest value; None where no
            sample had equal counts.
        samples: Number of samples that were compared.
        alike: Number of samples with equal learner counts in every token.
        routed_differently: Number of tokens with a different learner count, over all layers; None for an engine without
            learner counts.
        tokens: Number of tokens, over all layers.
    """

    settings: int
    error: float | None
    samples: int
    alike: int
    routed_differently: int | None
    tokens: int


@dataclass(frozen=True)
class Passport:
    """What an engine was built from and for, and the result of its comparison.

    Args:
        platform: GPU and TensorRT that it was built with.
        model: ONNX file that it was built from.
        plugin: Plugin library; None for a model without ACM layers.
        engine: The engine file.
        inputs: Input shapes, with names for dynamic dimensions.
        profiles: For each input with a dynamic dimension: smallest, optimal and largest shape.
        tf32: Whether float32 products may be rounded to TF32.
        manifest: Manifest of the model that TensorRT parsed.
        comparison: Result of the comparison with the portable file; None if it was skipped.
    """

    platform: Platform
    model: File
    plugin: File | None
    engine: File
    inputs: dict[str, list[int | str]]
    profiles: dict[str, list[list[int]]]
    tf32: bool
    manifest: Manifest
    comparison: Comparison | None = None

    def to_json(self) -> JsonObject:
        """The passport as a JSON document."""
        return {"schema": SCHEMA} | asdict(self) | {"manifest": self.manifest.to_json()}


def to_text(passport: Passport) -> str:
    """The text of the JSON file."""
    return json.dumps(passport.to_json(), indent=2, sort_keys=True, allow_nan=False) + "\n"


def passport_path(engine: Path) -> Path:
    """Path of the passport of an engine."""
    return engine.with_name(engine.name + ".json")


def files_of(path: Path) -> tuple[Path, ...]:
    """A model or engine with the files that belong to it: passport, external data of an ONNX file."""
    beside = [passport_path(path)] if passport_path(path).is_file() else []
    if path.suffix == ".onnx" and path.is_file():
        beside += [path.parent / name for name in data_files(read_model(path))]
    return path, *beside


def read_passport(engine: Path) -> Passport:
    """Read the passport of an engine.

    Raises:
        EngineError: The passport is missing, broken, or has another schema.
    """
    path = passport_path(engine)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content.pop("schema", None) if isinstance(content, dict) else None
        if schema == _WITHOUT_RUNTIME and isinstance(content.get("platform"), dict):
            content["platform"]["runtime"] = TENSORRT
        elif schema != SCHEMA:
            raise EngineError(f"{path} has schema {schema!r}; this version reads schema {SCHEMA}", _REBUILD)
        return _parse(content, path)
    except FileNotFoundError as error:
        raise EngineError(f"{engine} has no passport: {path} does not exist", _REBUILD) from error
    except (OSError, ValueError, RecursionError, BrokenFieldError, ModelFileError) as error:
        raise EngineError(f"{path} is not a valid engine passport: {error}", _REBUILD) from error


def read_runnable(engine: Path) -> Passport:
    """Read the passport of an engine that acm-export runs, before TensorRT is imported.

    Raises:
        UsageError: The engine does not exist.
        EngineError: The passport is missing or broken, or the engine is for TensorRT-RTX.
    """
    check_input(engine)
    found = read_passport(engine)
    if found.platform.runtime == TENSORRT_RTX:
        raise EngineError(
            f"{engine} was built for TensorRT-RTX {found.platform.tensorrt}, whose engines acm-export does not run",
            f"run it with NVIDIA's tool: tensorrt_rtx --loadEngine={engine}",
        )
    return found


def check_usable(engine: Path, plugin: Path, here: Platform) -> Passport:
    """Check that an engine can run here, before TensorRT loads it.

    Args:
        engine: Path of the engine.
        plugin: Path of the plugin library; ignored for a model without ACM layers.
        here: GPU and TensorRT of this machine.

    Returns:
        The engine's passport.

    Raises:
        UsageError: The engine does not exist.
        EngineError: The engine was modified, was built for another GPU or TensorRT, or its plugin library is missing or
            a different one.
    """
    found = read_runnable(engine)
    built = found.platform
    for what, theirs, ours in (
        ("for TensorRT", built.tensorrt, here.tensorrt),
        ("on the GPU", f"{built.gpu} ({built.arch})", f"{here.gpu} ({here.arch})"),
    ):
        if theirs != ours:
            raise EngineError(f"{engine} was built {what} {theirs}; this machine has {ours}", _REBUILD)
    described = [(engine, found.engine)]
    if found.plugin is not None:
        if not plugin.is_file():
            raise EngineError(
                f"{engine} needs the plugin library {plugin}, which does not exist",
                f"copy {found.plugin.name} next to the engine, or name it with --plugin; else {_REBUILD}",
            )
        described.append((plugin, found.plugin))
    for path, file in described:
        if (actual := sha256_of(path)) != file.sha256:
            raise EngineError(
                f"{path} was modified or replaced: its SHA-256 is {actual}, but {passport_path(engine)} lists "
                f"{file.sha256}",
                _REBUILD,
            )
    return found


def _is_dimension(value: object) -> bool:
    return isinstance(value, str) or WHOLE.holds(value)


def _is_shapes(value: Any) -> bool:
    shapes = isinstance(value, list) and len(value) == 3 and all(isinstance(shape, list) for shape in value)
    return shapes and all(WHOLE.holds(size) for shape in value for size in shape)


_PASSPORT = {
    "platform": OBJECT,
    "model": OBJECT,
    "plugin": OBJECT_OR_NULL,
    "engine": OBJECT,
    "inputs": OBJECT,
    "profiles": OBJECT,
    "tf32": BOOL,
    "manifest": OBJECT,
    "comparison": OBJECT_OR_NULL,
}
_RUNTIME = Kind(" or ".join(MODULES), lambda v: isinstance(v, str) and v in MODULES)
_PLATFORM = {"tensorrt": TEXT, "gpu": TEXT_OR_NULL, "arch": TEXT_OR_NULL, "runtime": _RUNTIME}
_FILE = {"name": TEXT, "sha256": TEXT}
_COMPARISON = {
    "settings": WHOLE,
    "error": NUMBER_OR_NULL,
    "samples": WHOLE,
    "alike": WHOLE,
    "routed_differently": WHOLE_OR_NULL,
    "tokens": WHOLE,
}
_DIMENSIONS = Kind("a list of sizes and names", lambda v: LIST.holds(v) and all(map(_is_dimension, v)))
_SHAPES = Kind("three shapes", _is_shapes)


def _parse(content: dict[str, Any], path: Path) -> Passport:
    fields = checked(content, _PASSPORT, "")
    inputs, shapes, comparison, plugin = (fields[name] for name in ("inputs", "profiles", "comparison", "plugin"))
    return Passport(
        Platform(**checked(fields["platform"], _PLATFORM, "platform.")),
        File(**checked(fields["model"], _FILE, "model.")),
        None if plugin is None else File(**checked(plugin, _FILE, "plugin.")),
        File(**checked(fields["engine"], _FILE, "engine.")),
        checked(inputs, dict.fromkeys(inputs, _DIMENSIONS), "inputs."),
        checked(shapes, dict.fromkeys(shapes, _SHAPES), "profiles."),
        fields["tf32"],
        parse_manifest(fields["manifest"], path),
        None if comparison is None else Comparison(**checked(comparison, _COMPARISON, "comparison.")),
    )
