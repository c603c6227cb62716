"""The shapes that an engine serves: trtexec's syntax, and defaults from the shapes that the model was exported with."""

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
"""Of a profile without --max-shapes: enough for a latency curve, small enough for the memory of a Jetson."""

_SCALAR = "scalar"
_LARGEST = 2**31 - 1
_DIMENSIONS = re.compile(r"[1-9][0-9]*(x[1-9][0-9]*)*", re.ASCII)


@dataclass(frozen=True)
class Profile:
    """Shapes of one input: the smallest, the one to be fastest at, and the largest."""

    minimum: Shape
    optimum: Shape
    maximum: Shape


def parse_shapes(text: str, option: str) -> Shapes:
    """Read ``name:1x3x224x224,other:1x128``; a name may hold colons, a shape ``scalar`` has no dimensions.

    Args:
        text: What was given.
        option: That it was given to, for errors.

    Raises:
        UsageError: It is not of that form, or names an input twice.
    """
    shapes: Shapes = {}
    for item in text.split(","):
        name, colon, dimensions = item.strip().rpartition(":")
        fits = dimensions == _SCALAR or _DIMENSIONS.fullmatch(dimensions)
        if fits and dimensions != _SCALAR and max(map(int, dimensions.split("x"))) > _LARGEST:
            raise UsageError(f"{option}: {item!r} has a dimension above {_LARGEST}, the largest of TensorRT")
        if not colon or not name or not fits:
            raise UsageError(f"{option}: {item!r} is no shape", "write NAME:1x3x224x224, several separated by commas")
        if name in shapes:
            raise UsageError(f"{option} names {name} twice: {text!r}")
        shapes[name] = () if dimensions == _SCALAR else tuple(map(int, dimensions.split("x")))
    return shapes


def format_shapes(shapes: Mapping[str, Shape]) -> str:
    """As :func:`parse_shapes` reads them."""
    return ",".join(f"{name}:{format_shape(shape)}" for name, shape in shapes.items())


def format_shape(shape: Sequence[int | str]) -> str:
    """As in ``1x3x224x224``."""
    return "x".join(map(str, shape)) or _SCALAR


def profiles(
    inputs: Mapping[str, Sequence[int | str]],
    examples: Mapping[str, Sequence[int]],
    minimum: Shapes,
    optimum: Shapes,
    maximum: Shapes,
) -> dict[str, Profile]:
    """The profile of every input that has a dynamic dimension.

    What is not given: the optimum is the example's shape, fitted into what is given; the minimum has 1 in the first
    dimension where that is dynamic, the maximum :data:`DEFAULT_MAX_BATCH`; other dynamic dimensions are the optimum's.

    Args:
        inputs: Shapes of the graph, with names for dynamic dimensions.
        examples: Shapes of one sample of the inputs that the model was exported with.
        minimum: Given with --min-shapes, as are the other two with theirs.
        optimum: --opt-shapes.
        maximum: --max-shapes.

    Raises:
        UsageError: A shape does not fit the graph or the others, or names no input.
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
                f"shapes of {name} are not in order: min {format_shape(low)}, opt {format_shape(best)}, "
                f"max {format_shape(high)}",
                "min may be no larger than opt, and opt no larger than max, in every dimension",
            )
        found[name] = Profile(low, best, high)
    return found


def _check(option: str, name: str, shape: Shape, inputs: Mapping[str, Sequence[int | str]]) -> None:
    if name not in inputs:
        raise UsageError(f"{option} names {name}, the model's inputs are {', '.join(inputs)}")
    graph = inputs[name]
    if len(shape) != len(graph) or any(isinstance(d, int) and d != s for d, s in zip(graph, shape, strict=True)):
        raise UsageError(
            f"{option}: {name} has the shape {format_shape(graph)} in the model, not {format_shape(shape)}"
        )


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
            f"the model does not say which shapes {name} ({format_shape(graph)}) is used with",
            f"name them with --opt-shapes {name}:{format_shape([d if isinstance(d, int) else 1 for d in graph])}",
        )
    chosen = [d if isinstance(d, int) else e for d, e in zip(graph, example, strict=True)]
    chosen = [max(c, bound) for c, bound in zip(chosen, low or chosen, strict=True)]
    return tuple(min(c, bound) for c, bound in zip(chosen, high or chosen, strict=True))


def _with_batch(graph: Sequence[int | str], shape: Shape, batch: int) -> Shape:
    return (batch, *shape[1:]) if isinstance(graph[0], str) else shape
