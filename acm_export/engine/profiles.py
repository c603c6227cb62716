"""Shapes that an engine serves: trtexec's syntax, and defaults from the shapes of the export."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

DEFAULT_MAX_BATCH = 8
"""Largest batch without --max-shapes: enough for a latency curve, and fits into the memory of a Jetson."""

_SCALAR = "scalar"
_LARGEST = 2**31 - 1
_DIMENSIONS = re.compile(r"[1-9][0-9]*(x[1-9][0-9]*)*", re.ASCII)


@dataclass(frozen=True)
class Profile:
    """Shapes of one input: smallest, the one to optimize for, and largest."""

    minimum: Shape
    optimum: Shape
    maximum: Shape


def parse_shapes(text: str, option: str) -> Shapes:
    """Parse shapes in trtexec's syntax, as in ``name:1x3x224x224,other:1x128``.

    A name may contain colons. The shape ``scalar`` has no dimensions.

    Args:
        text: Value of the option.
        option: Name of the option, for errors.

    Raises:
        UsageError: The text does not follow that syntax, or names an input twice.
    """
    shapes: Shapes = {}
    for item in text.split(","):
        name, colon, dimensions = item.strip().rpartition(":")
        fits = dimensions == _SCALAR or _DIMENSIONS.fullmatch(dimensions)
        if fits and dimensions != _SCALAR and max(map(int, dimensions.split("x"))) > _LARGEST:
            raise UsageError(f"{option}: {item!r} has a dimension above {_LARGEST}, the largest that TensorRT supports")
        if not colon or not name or not fits:
            raise UsageError(
                f"{option}: {item!r} is not a shape", "write NAME:1x3x224x224, or several separated by commas"
            )
        if name in shapes:
            raise UsageError(f"{option} names {name} twice: {text!r}")
        shapes[name] = () if dimensions == _SCALAR else tuple(map(int, dimensions.split("x")))
    return shapes


def format_shapes(shapes: Mapping[str, Shape]) -> str:
    """Shapes in the syntax of :func:`parse_shapes`."""
    return ",".join(f"{name}:{format_shape(shape)}" for name, shape in shapes.items())


def format_shape(shape: Sequence[int | str]) -> str:
    """A shape as in ``1x3x224x224``."""
    return "x".join(map(str, shape)) or _SCALAR


def profiles(
    inputs: Mapping[str, Sequence[int | str]],
    examples: Mapping[str, Sequence[int]],
    minimum: Shapes,
    optimum: Shapes,
    maximum: Shapes,
) -> dict[str, Profile]:
    """The profile of every input that has a dynamic dimension.

    Defaults: the optimum is the shape of the export, clipped to the given minimum and maximum. If the first dimension
    is dynamic, it is 1 in the minimum and :data:`DEFAULT_MAX_BATCH` in the maximum. Other dynamic dimensions are those
    of the optimum.

    Args:
        inputs: Input shapes of the graph, with names for dynamic dimensions.
        examples: Input shapes that the model was exported with, for one sample.
        minimum: Value of --min-shapes.
        optimum: Value of --opt-shapes.
        maximum: Value of --max-shapes.

    Raises:
        UsageError: A shape does not fit the graph or the other shapes, or names an unknown input.
    """
    for option, shapes in (("--min-shapes", minimum), ("--opt-shapes", optimum), ("--max-shapes", maximum)):
        for name, shape in shapes.items():
            _check(option, name, shape, inputs)
    found = {}
    for name, graph in inputs.items():
        if all(isinstance(dimension, int) for dimension in graph):
            continue
        low, high = minimum.get(name), maximum.get(name)
        best = optimum.get(name) or _default(name, graph, examples, low, high)
        low = low or _with_batch(graph, best, 1)
        high = high or _with_batch(graph, best, max(best[0], DEFAULT_MAX_BATCH))
        if not all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
            raise UsageError(
                f"shapes of {name} must not shrink from min to opt to max in any dimension: "
                f"min {format_shape(low)}, opt {format_shape(best)}, "
                f"max {format_shape(high)}",
                "change --min-shapes, --opt-shapes or --max-shapes",
            )
        found[name] = Profile(low, best, high)
    return found


def _check(option: str, name: str, shape: Shape, inputs: Mapping[str, Sequence[int | str]]) -> None:
    if name not in inputs:
        raise UsageError(f"{option}: the model has no input {name}; its inputs are {', '.join(inputs)}")
    graph = inputs[name]
    if len(shape) != len(graph) or any(isinstance(d, int) and d != s for d, s in zip(graph, shape, strict=True)):
        raise UsageError(f"{option}: {name} has shape {format_shape(graph)} in the model, not {format_shape(shape)}")


def _default(
    name: str,
    graph: Sequence[int | str],
    examples: Mapping[str, Sequence[int]],
    low: Shape | None,
    high: Shape | None,
) -> Shape:
    example = examples.get(name)
    if example is None or len(example) != len(graph):
        if given := low or high:
            return given
        raise UsageError(
            f"the file does not say which shapes of {name} ({format_shape(graph)}) to optimize for",
            f"set them with --opt-shapes {name}:{format_shape([d if isinstance(d, int) else 1 for d in graph])}",
        )
    chosen = [d if isinstance(d, int) else e for d, e in zip(graph, example, strict=True)]
    chosen = [max(c, bound) for c, bound in zip(chosen, low or chosen, strict=True)]
    return tuple(min(c, bound) for c, bound in zip(chosen, high or chosen, strict=True))


def _with_batch(graph: Sequence[int | str], shape: Shape, batch: int) -> Shape:
    return (batch, *shape[1:]) if isinstance(graph[0], str) else shape
