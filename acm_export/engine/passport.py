"""What is known about an engine, in a JSON file beside it, and refusing one that cannot work here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from acm_export.errors import EngineError
from acm_export.files import sha256_of

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
class Passport:
    """An engine.

    Args:
        place: Where it was built.
        model_sha256: Of the ONNX file.
        plugin_sha256: Of the plugin library.
        engine_sha256: Of the engine.
        profiles: For each input with a dynamic dimension: smallest, best and largest shape.
    """

    place: Place
    model_sha256: str
    plugin_sha256: str
    engine_sha256: str
    profiles: dict[str, list[list[int]]]

    def to_json(self) -> str:
        """The document."""
        return json.dumps({"schema": SCHEMA} | asdict(self), indent=2, sort_keys=True) + "\n"


def passport_path(engine: Path) -> Path:
    """Where the file about an engine lies."""
    return engine.with_name(engine.name + ".json")


def read_passport(engine: Path) -> Passport:
    """Read what is known about an engine.

    Raises:
        EngineError: There is no such file, or it is broken or of a newer version.
    """
    path = passport_path(engine)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EngineError(f"there is no {path}, which says what {engine} was built for", _AGAIN) from error
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"{path} cannot be read: {error}", _AGAIN) from error
    try:
        schema = content.pop("schema")
        if schema != SCHEMA:
            raise EngineError(f"{path} has schema {schema!r}, this version reads {SCHEMA}", "update acm-export")
        found = Passport(**(content | {"place": Place(**content["place"])}))
    except (AttributeError, KeyError, TypeError) as error:
        raise EngineError(f"{path} is broken: {error}", _AGAIN) from error
    texts = (*asdict(found.place).values(), found.model_sha256, found.plugin_sha256, found.engine_sha256)
    if not all(isinstance(text, str) for text in texts) or not isinstance(found.profiles, dict):
        raise EngineError(f"{path} is broken: a value is of another type", _AGAIN)
    return found


def check_usable(engine: Path, plugin: Path, here: Place) -> Passport:
    """Refuse an engine before TensorRT does: of another GPU or version, changed, or without its plugin.

    Args:
        engine: It.
        plugin: The plugin library to use it with.
        here: This machine.

    Raises:
        EngineError: It cannot work here; says what it was built for and what is here.
    """
    found = read_passport(engine)
    for what, theirs, ours in (
        ("for TensorRT", found.place.tensorrt, here.tensorrt),
        ("on the GPU", f"{found.place.gpu} ({found.place.arch})", f"{here.gpu} ({here.arch})"),
    ):
        if theirs != ours:
            raise EngineError(f"{engine} was built {what} {theirs}, here is {ours}", _AGAIN)
    if not engine.is_file():
        raise EngineError(f"there is no engine {engine}", _AGAIN)
    if not plugin.is_file():
        raise EngineError(f"there is no plugin library {plugin}, which {engine} needs", "acm-export build-plugin")
    for path, digest in ((engine, found.engine_sha256), (plugin, found.plugin_sha256)):
        if (actual := sha256_of(path)) != digest:
            raise EngineError(
                f"{path} is not what {passport_path(engine)} describes: SHA-256 {actual}, there {digest}", _AGAIN
            )
    return found
