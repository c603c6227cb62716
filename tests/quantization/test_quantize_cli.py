"""``acm-export quantize``: its table and its JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from click.testing import CliRunner

from acm_export.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["quantize", *arguments, "-q"])
    return result.exit_code, result.stdout


def test_the_table_shows_parts_quality_and_sizes(int8_sources: Path, tmp_path: Path) -> None:
    output = tmp_path / "c8.onnx"

    code, shown = invoke(
        str(int8_sources / "c.onnx"), "--data", str(int8_sources / "data.npz"), "-o", str(output), "--keep", "*v_proj"
    )

    assert code == 0
    for text in (
        "static activations, 8-bit weights",
        "ACM layers",
        "linear layers",
        "12 held-out samples",
        "all learners: cosine 0.99",
        "tokens rerouted",
        "v_proj.weight.T and 1 more (kept by --keep)",
        "classifier.weight (it is a head)",
        "knots were measured again",
        f"wrote {output}: ",
    ):
        assert text in " ".join(shown.split()), text
    assert output.is_file()


def test_dynamic_without_data(int8_sources: Path, tmp_path: Path) -> None:
    code, shown = invoke(
        str(int8_sources / "m.onnx"), "--activations", "dynamic", "--weight-bits", "7", "-o", str(tmp_path / "m8.onnx")
    )

    assert code == 0
    assert "dynamic activations, 7-bit weights" in shown
    assert "cosine" not in shown


def test_json(int8_sources: Path, tmp_path: Path) -> None:
    code, shown = invoke(
        str(int8_sources / "m.onnx"),
        *("--data", str(int8_sources / "data.npz"), "--only", "learners", "-o", str(tmp_path / "m8.onnx"), "--json"),
    )

    content = json.loads(shown)
    assert code == 0
    assert {part["kind"] for part in content["quantized"]} == {"learners"}
    assert content["bytes_after"] == (tmp_path / "m8.onnx").stat().st_size
    assert content["warnings"] == []
