"""What is known about an engine, in a JSON file beside it, and refusing one that cannot work here."""

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
    WHOLE,
    WHOLE_OR_NULL,
    BrokenFieldError,
    Kind,
    checked,
)
from acm_export.onnx_file.manifest import Manifest, parse_manifest
from acm_export.onnx_file.model_file import data_files, read_model

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1
_AGAIN = "build it on this machine: acm-export build-engine"


@dataclass(frozen=True)
class Place:
    """Where engines are built or used.

    Args:
        tensorrt: Version.
        gpu: Name.
        arch: As in ``sm_87``.
    """

    tensorrt: str
    gpu: str
    arch: str


@dataclass(frozen=True)
class File:
    """A file that an engine was made of: its name, and the SHA-256 of its content.

    The weights of a large model lie in a file that is named after its own content, so the digest of the model stands
    for them too.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class Checked:
    """What the comparison with the portable file found (agreement.py), summed over its settings.

    Args:
        settings: Settings of the dials that were run.
        error: Largest error over samples that were routed alike, relative to the largest value; None without such.
        samples: That were compared.
        alike: Of them, routed alike.
        routed_differently: Tokens, over all layers; None for an engine that does not give its counts.
        tokens: Over all layers.
    """

    settings: int
    error: float | None
    samples: int
    alike: int
    routed_differently: int | None
    tokens: int


@dataclass(frozen=True)
class Passport:
    """An engine.

    Args:
        place: Where it was built.
        model: The ONNX file.
        plugin: The plugin library; None where the model has no ACM layer.
        engine: The engine itself.
        inputs: Shapes of its inputs, with names for dynamic dimensions.
        profiles: For each input with a dynamic dimension: smallest, best and largest shape.
        tf32: Whether float32 products may be rounded to TF32.
        manifest: Of the model as it was built.
        checked: What the comparison with the portable file found; None where none was made.
    """

    place: Place
    model: File
    plugin: File | None
    engine: File
    inputs: dict[str, list[int | str]]
    profiles: dict[str, list[list[int]]]
    tf32: bool
    manifest: Manifest
    checked: Checked | None = None

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return {"schema": SCHEMA} | asdict(self) | {"manifest": self.manifest.to_json()}


def to_text(passport: Passport) -> str:
    """The document as text."""
    return json.dumps(passport.to_json(), indent=2, sort_keys=True, allow_nan=False) + "\n"


def passport_path(engine: Path) -> Path:
    """Where the file about an engine lies."""
    return engine.with_name(engine.name + ".json")


def files_of(path: Path) -> tuple[Path, ...]:
    """A model or engine and what belongs to it: the file about an engine, and the data beside an ONNX file."""
    beside = [passport_path(path)] if passport_path(path).is_file() else []
    if path.suffix == ".onnx" and path.is_file():
        beside += [path.parent / name for name in data_files(read_model(path))]
    return path, *beside


def read_passport(engine: Path) -> Passport:
    """Read what is known about an engine.

    Raises:
        EngineError: There is no such file, or it is broken or of a newer version.
    """
    path = passport_path(engine)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content.pop("schema", None) if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise EngineError(f"{path} has schema {schema!r}, this version reads {SCHEMA}", _AGAIN)
        return _parse(content, path)
    except FileNotFoundError as error:
        raise EngineError(f"there is no {path}, which says what {engine} was built for", _AGAIN) from error
    except (OSError, ValueError, RecursionError, BrokenFieldError, ModelFileError) as error:
        raise EngineError(f"{path} cannot be used: {error}", _AGAIN) from error


def check_usable(engine: Path, plugin: Path, here: Place) -> Passport:
    """Refuse an engine before TensorRT does: of another GPU or version, changed, or without its plugin.

    Args:
        engine: It.
        plugin: The plugin library to use it with; does not matter where the model has no ACM layer.
        here: This machine.

    Raises:
        UsageError: There is no such engine.
        EngineError: It cannot work here; says what it was built for and what is here.
    """
    check_input(engine)
    found = read_passport(engine)
    for what, theirs, ours in (
        ("for TensorRT", found.place.tensorrt, here.tensorrt),
        ("on the GPU", f"{found.place.gpu} ({found.place.arch})", f"{here.gpu} ({here.arch})"),
    ):
        if theirs != ours:
            raise EngineError(f"{engine} was built {what} {theirs}, here is {ours}", _AGAIN)
    described = [(engine, found.engine)]
    if found.plugin is not None:
        if not plugin.is_file():
            raise EngineError(
                f"there is no plugin library {plugin}, which {engine} needs",
                f"bring {found.plugin.name} along, or name it with --plugin; else {_AGAIN}",
            )
        described.append((plugin, found.plugin))
    for path, file in described:
        if (actual := sha256_of(path)) != file.sha256:
            raise EngineError(
                f"{path} is not what {passport_path(engine)} describes: SHA-256 {actual}, there {file.sha256}", _AGAIN
            )
    return found


def _is_dimension(value: Any) -> bool:
    return isinstance(value, str) or WHOLE.holds(value)


def _is_shapes(value: Any) -> bool:
    shapes = isinstance(value, list) and len(value) == 3 and all(isinstance(shape, list) for shape in value)
    return shapes and all(WHOLE.holds(size) for shape in value for size in shape)


_PASSPORT = {
    "place": OBJECT, "model": OBJECT, "plugin": OBJECT_OR_NULL, "engine": OBJECT, "inputs": OBJECT, "profiles": OBJECT,
    "tf32": BOOL, "manifest": OBJECT, "checked": OBJECT_OR_NULL,
}  # fmt: skip
_PLACE = dict.fromkeys(("tensorrt", "gpu", "arch"), TEXT)
_FILE = {"name": TEXT, "sha256": TEXT}
_CHECKED = {
    "settings": WHOLE, "error": NUMBER_OR_NULL, "samples": WHOLE, "alike": WHOLE,
    "routed_differently": WHOLE_OR_NULL, "tokens": WHOLE,
}  # fmt: skip
_DIMENSIONS = Kind("a list of sizes and names", lambda v: LIST.holds(v) and all(map(_is_dimension, v)))
_SHAPES = Kind("three shapes", _is_shapes)


def _parse(content: dict[str, Any], path: Path) -> Passport:
    fields = checked(content, _PASSPORT, "")
    inputs, shapes, compared, plugin = (fields[name] for name in ("inputs", "profiles", "checked", "plugin"))
    return Passport(
        Place(**checked(fields["place"], _PLACE, "place.")),
        File(**checked(fields["model"], _FILE, "model.")),
        None if plugin is None else File(**checked(plugin, _FILE, "plugin.")),
        File(**checked(fields["engine"], _FILE, "engine.")),
        checked(inputs, dict.fromkeys(inputs, _DIMENSIONS), "inputs."),
        checked(shapes, dict.fromkeys(shapes, _SHAPES), "profiles."),
        fields["tf32"],
        parse_manifest(fields["manifest"], path),
        None if compared is None else Checked(**checked(compared, _CHECKED, "checked.")),
    )
