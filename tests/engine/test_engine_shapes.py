"""Profiles and the trtexec command."""

from __future__ import annotations

from pathlib import Path

import pytest

from acm_export.base.errors import UsageError
from acm_export.engine.plan import trtexec_command
from acm_export.engine.profiles import Profile, Shapes, format_shapes, parse_shapes, profiles
from acm_export.engine.settings import BuilderSettings

INPUTS = {"x": ["batch", 3, 8], "budget": []}
EXAMPLES = {"x": [1, 3, 8]}


def test_shapes_are_written_as_they_are_read() -> None:
    text = "x:1x3x8,a:b:2,budget:scalar"
    assert format_shapes(parse_shapes(text, "--min-shapes")) == text


@pytest.mark.parametrize("text", ["", "x", "x:", "x:0x3", "x:1x", "x:-1", "x:1,x:2", ":1", "x:٣", "x:2147483648"])
def test_text_that_is_not_a_shape_is_rejected(text: str) -> None:
    with pytest.raises(UsageError, match="--min-shapes"):
        parse_shapes(text, "--min-shapes")


def test_given_shapes_replace_the_defaults() -> None:
    assert profiles(INPUTS, EXAMPLES, {}, {}, {}) == {"x": Profile((1, 3, 8), (1, 3, 8), (8, 3, 8))}
    assert profiles(INPUTS, EXAMPLES, {"x": (2, 3, 8)}, {}, {})["x"] == Profile((2, 3, 8), (2, 3, 8), (8, 3, 8))
    assert profiles(INPUTS, EXAMPLES, {}, {"x": (32, 3, 8)}, {})["x"].maximum == (32, 3, 8)


@pytest.mark.parametrize(
    ("low", "high", "reason"),
    [
        ({}, {"x": (1, 4, 8)}, "not 1x4x8"),
        ({}, {"y": (1,)}, "inputs are x, budget"),
        ({"x": (9, 3, 8)}, {"x": (4, 3, 8)}, "must not shrink"),
    ],
)
def test_shapes_that_do_not_fit_are_rejected(low: Shapes, high: Shapes, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        profiles(INPUTS, EXAMPLES, low, {}, high)


@pytest.mark.parametrize(
    ("version", "there", "absent"),
    [
        (
            (8, 5),
            [
                "--plugins=./p.so",
                "--fp16",
                *(f"--{o}=a/b:fp32,c:fp32" for o in ("layerPrecisions", "layerOutputTypes")),
            ],
            ["--stronglyTyped"],
        ),
        ((8, 6), ["--staticPlugins=./p.so", "--fp16", "--precisionConstraints=obey", "--skipInference"], ["--int8"]),
        (
            (10, 3),
            ["--staticPlugins=./p.so", "--stronglyTyped", "--skipInference"],
            ["--fp16", "--precisionConstraints=obey"],
        ),
        ((11, 1), ["--staticPlugins=./p.so", "--skipInference"], ["--stronglyTyped", "--fp16"]),
    ],
)
def test_flags_of_each_version(version: tuple[int, int], there: list[str], absent: list[str]) -> None:
    shapes = {"x": Profile((1, 3), (2, 3), (4, 3))}
    settings = BuilderSettings(shapes, half=True)
    float32 = ("a/b", "c") if version < (9, 0) else ()
    command = trtexec_command(version, Path("m.onnx"), Path("m.plan"), Path("p.so"), settings, float32).split()
    assert {*there, "--noTF32", "--minShapes=x:1x3", "--optShapes=x:2x3", "--maxShapes=x:4x3"} <= set(command)
    assert not set(absent) & set(command)


def test_the_command_for_a_dense_model_has_no_plugin() -> None:
    command = trtexec_command((10, 3), Path("m.onnx"), Path("m.plan"), None, BuilderSettings({}))
    assert "lugins" not in command
