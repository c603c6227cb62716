"""Models whose bodies differ by overload, for an ONNX Runtime that looks bodies up by name alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

FIRST = (1, 27)
"""The first ONNX Runtime that knows overloads. Tried: 1.23.2 and 1.26.0 run every node with one of the bodies."""


def serialize(model: onnx.ModelProto, runtime: str) -> bytes:
    """Serialise a model; where the runtime would mix its bodies up, each gets a name of its own.

    Args:
        model: Is left as it is. Its bodies call no other bodies.
        runtime: Version of the ONNX Runtime, as it says itself.
    """
    overloaded = [] if knows_overloads(runtime) or not has_overloads(model) else list(_overloaded(model))
    kept = [(_get_name(item), item.overload) for item in overloaded]
    try:
        for item in overloaded:
            _set_name(item, f"{_get_name(item)}_{item.overload}", "")
        content: bytes = model.SerializeToString()
    finally:
        for item, (name, overload) in zip(overloaded, kept, strict=True):
            _set_name(item, name, overload)
    return content


def knows_overloads(runtime: str) -> bool:
    """Whether an ONNX Runtime of this version tells bodies of one name apart."""
    return tuple(map(int, re.findall(r"\d+", runtime)[:2])) >= FIRST


def has_overloads(model: onnx.ModelProto) -> bool:
    """Whether the model has two bodies of one name, which only overloads tell apart."""
    return len({(f.domain, f.name) for f in model.functions}) < len(model.functions)


def _overloaded(model: onnx.ModelProto) -> Iterator[onnx.FunctionProto | onnx.NodeProto]:
    yield from (function for function in model.functions if function.overload)
    yield from (node for node in model.graph.node if node.overload)


def _get_name(item: onnx.FunctionProto | onnx.NodeProto) -> str:
    name: str = getattr(item, _name_field(item))
    return name


def _set_name(item: onnx.FunctionProto | onnx.NodeProto, name: str, overload: str) -> None:
    setattr(item, _name_field(item), name)
    item.overload = overload


def _name_field(item: onnx.FunctionProto | onnx.NodeProto) -> str:
    return "op_type" if hasattr(item, "op_type") else "name"
