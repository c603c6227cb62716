"""Doubles of TensorRT's enums, with the names and numbers of a real version."""

from __future__ import annotations

from enum import Enum
from typing import Any

from tensorrt_installed import members, read_stored


class PybindEnum(Enum):
    """Base of doubles of pybind11's enums: ``int()`` takes them, but they are not numbers."""

    def __int__(self) -> int:
        return int(self.value)


ENUMS = (
    *("BuilderFlag", "DataType", "LayerType", "NetworkDefinitionCreationFlag"),
    *("Severity", "TacticSource", "TensorIOMode", "TensorLocation"),
)


def enums(version: str) -> dict[str, Any]:
    """The enums of a stored version, and its short names of data types."""
    described = read_stored()[version]
    found: dict[str, Any] = {kind: PybindEnum(kind, members(described, kind)) for kind in ENUMS}
    types = {name: int(text.rpartition(" = ")[2]) for name, text in described.items() if "value DataType" in text}
    return found | {name: found["DataType"](number) for name, number in types.items() if "." not in name}
