"""Print the tables of docs/acmize.md from the results of examples 05 to 07: ``python examples/tables.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "cpu-2core"


def digits(found: dict[str, Any]) -> Iterator[str]:
    """Yield accuracies and paired differences in points."""
    yield "| β | (a) one file | (b) each budget, at its β | (c) same count | (d) dense | (a) - (b) | (a) at β of (b) - (b) | (a) - (c) |"  # noqa: E501
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in found["rows"]:
        accuracy = {name: f"{100 * row[name]['accuracy']:.1f}" for name in "abcd"}
        differences = [_difference(row[f"a_minus_{name}"]) for name in ("b", "b_at_its_budget", "c")]
        cells = [
            f"{row['budget']:.2f}",
            accuracy["a"],
            f"{accuracy['b']} at {row['b']['measured']:.2f}",
            accuracy["c"],
            accuracy["d"],
            *differences,
        ]
        yield f"| {' | '.join(cells)} |"


def sentences(found: dict[str, Any]) -> Iterator[str]:
    """Yield cosine, agreement and their paired differences."""
    yield "| β | (a) cosine | (c) cosine | difference | (a) neighbour | (c) neighbour | difference in points |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in found["rows"]:
        a, c, difference = row["a"], row["c"], row["a_minus_c"]
        points = {name: 100 * value for name, value in difference["neighbour"].items()}
        yield (
            f"| {row['budget']:.2f} | {a['cosine']:.4f} | {c['cosine']:.4f} | {_difference(difference['cosine'], 4)} "
            f"| {a['neighbour']:.1%} | {c['neighbour']:.1%} | {_difference(points)} |"
        )


def speech(found: dict[str, Any]) -> Iterator[str]:
    """Yield word error rates and their paired differences in points."""
    yield "| β | (a) word error rate | (c) word error rate | (a) - (c) in points |"
    yield "| --- | --- | --- | --- |"
    for row in found["rows"]:
        a, c = (100 * row[name]["word_error_rate"] for name in "ac")
        yield f"| {row['budget']:.2f} | {a:.1f}% | {c:.1f}% | {_difference(row['a_minus_c'])} |"


TABLES = {"acmize_digits": digits, "acmize_sentences": sentences, "acmize_speech": speech}


def lines(name: str) -> list[str]:
    """Return the table of a result in Markdown."""
    return list(TABLES[name](json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))))


def _difference(values: dict[str, float], digits: int = 2) -> str:
    mean, low, high = (f"{values[name]:+.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    for table in TABLES:
        print("\n".join(lines(table)), end="\n\n")
