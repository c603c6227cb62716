"""A Vision Transformer on scikit-learn's digits: one ACM model compared with one model per budget, in cross-validation.

Run: ``python examples/05_acmize_digits.py``; half an hour on two cores. Needs the extras [demo,train]. Each of the
1,797 images is held out once, in five folds that all methods share, so differences are paired. (a) is one file made
with the recipe any-budget and calibrated on training images; (b) is the paper's recipe, one model per budget with its
gates as trained; (c) is the file of (a) with the same learner count for every token; (d) are narrower dense models with
equal FLOPs. ``--export-embedded DIR`` instead makes the embedded ACM model of the package from its dense
one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from digits import (
    FFN,
    HIDDEN,
    Images,
    accuracy_with_counts,
    dense_vit,
    embedded,
    folds,
    paper_models,
    right,
    train_dense,
    widths_for,
)
from evidence import BUDGETS, OneFile, Stages, paired, parser, print_table, write_result

from acm_export.checkpoints import load_checkpoint
from acm_export.distillation.run import run_distillation
from acm_export.distillation.settings import AcmizeSettings

if TYPE_CHECKING:
    import argparse

ONE = AcmizeSettings(sites="ffn,o_proj", steps=(300, 150, 1800), batch=32, learning_rates=(2e-3, 2e-3, 1e-3))
"""Settings of (a)."""
EACH = replace(ONE, recipe="paper", budget=1.0, steps=(600, 150, 600))
"""Settings of (b): learners start at random, so phase 1 is longer; phase 3 of all five budgets is longer than (a)'s."""
TEACHER_STEPS, DENSE_STEPS = 500, 500
HALF = 0.5


def run_fold(
    train: Images, test: Images, folder: Path, one: AcmizeSettings, each: AcmizeSettings, steps: tuple[int, int]
) -> dict[str, np.ndarray[Any, Any]]:
    """Train all methods and measure them on the held-out images.

    Returns:
        Correctness of each image ``[budgets, images]`` and β ``[budgets]``, by name.
    """
    dense = train_dense(dense_vit(HIDDEN, FFN), train, steps[0])
    dense.save_pretrained(folder / "dense")
    teacher = load_checkpoint(folder / "dense")
    result = run_distillation(teacher, train, test, one, folder / "acm", Stages())
    budgets = (0.25, 0.4, HALF, 0.6, 0.75)
    file = OneFile(folder / "acm", train, budgets, folder, batch=64, samples=400, probe_samples=64)
    batches = test.batches(90)
    found: dict[str, list[Any]] = {}

    def keep(name: str, budget: float, correct: Any) -> None:
        found.setdefault(name, []).append(np.asarray(correct, np.float64))
        found.setdefault(f"{name}/budget", []).append(budget)

    keep("dense", 1.0, right(dense, test))
    keep("a_half", *file.run(file.at(HALF), batches, _correct))
    for budget, model in zip(
        BUDGETS, paper_models(load_checkpoint(folder / "dense"), train, each, BUDGETS), strict=True
    ):
        keep("a", *file.run(file.at(budget), batches, _correct))
        keep("c", *file.run(file.same_count(budget), batches, _correct))
        executed, correct = accuracy_with_counts(model, test)
        keep("b", executed, correct)
        keep("a_at_b", *file.run(file.at(executed), batches, _correct))
        rival = dense_vit(*widths_for(result.plan, budget))
        keep("d", budget, right(train_dense(rival, train, steps[1]), test))
    return {name: np.array(values) for name, values in found.items()}


def _correct(batch: dict[str, np.ndarray[Any, Any]], outputs: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return np.asarray(outputs["logits"].argmax(-1) == batch["labels"], np.float64)


def summary(parts: list[dict[str, np.ndarray[Any, Any]]]) -> dict[str, Any]:
    """Compute accuracies over all held-out images, paired differences in points, and whether each goal is met."""
    all_of = {name: np.concatenate([part[name] for part in parts], 1) for name in ("a", "b", "c", "d", "a_at_b")}
    budgets = {name: np.mean([part[f"{name}/budget"] for part in parts], 0) for name in all_of}
    rows = []
    for index, budget in enumerate(BUDGETS):
        value = {name: values[index] for name, values in all_of.items()}
        row: dict[str, Any] = {"budget": budget}
        row |= {
            name: {"measured": float(budgets[name][index]), "accuracy": float(value[name].mean())} for name in value
        }
        pairs = {
            "a_minus_b": ("a", "b"),
            "a_minus_b_at_its_budget": ("a_at_b", "b"),
            "a_minus_c": ("a", "c"),
            "a_minus_d": ("a", "d"),
        }
        row |= {name: asdict(paired(100 * value[x], 100 * value[y])) for name, (x, y) in pairs.items()}
        rows.append(row)
    dense = np.concatenate([part["dense"][0] for part in parts])
    half = np.concatenate([part["a_half"][0] for part in parts])
    error = math.sqrt(float(dense.mean()) * (1 - float(dense.mean())) / len(dense))
    aims = {
        "a_minus_b_above_minus_1_point": {str(r["budget"]): r["a_minus_b"]["low"] > -1.0 for r in rows},
        "a_never_below_c": {str(r["budget"]): r["a_minus_c"]["high"] >= 0 for r in rows},
        "a_clearly_above_c": {str(r["budget"]): r["a_minus_c"]["low"] > 0 for r in rows if r["budget"] <= 0.6},
        "dense_within_one_standard_error_at_half": bool(half.mean() >= dense.mean() - error),
    }
    at_half = {"accuracy": float(half.mean()), "measured": float(np.mean([p["a_half/budget"] for p in parts]))}
    return {
        "images": len(dense),
        "dense": {"accuracy": float(dense.mean()), "standard_error": error},
        "a_at_half": at_half | {"minus_dense": asdict(paired(100 * half, 100 * dense))},
        "rows": rows,
        "aims": aims,
    }


def report(found: dict[str, Any]) -> None:
    """Print the summary."""
    print_table(
        f"accuracy on {found['images']} held-out images; dense {found['dense']['accuracy']:.1%}",
        ("β", "(a)", "(b)", "β of (b)", "(c)", "(d)", "(a)-(b), 95%", "(a)-(c), 95%"),
        [
            (
                f"{r['budget']:.2f}",
                f"{r['a']['accuracy']:.1%}",
                f"{r['b']['accuracy']:.1%}",
                f"{r['b']['measured']:.2f}",
                f"{r['c']['accuracy']:.1%}",
                f"{r['d']['accuracy']:.1%}",
                *("{mean:+.2f} [{low:+.2f}, {high:+.2f}]".format(**r[k]) for k in ("a_minus_b", "a_minus_c")),
            )
            for r in found["rows"]
        ],
    )
    print(f"(a) at β 0.5: {found['a_at_half']['accuracy']:.1%}")
    for name, met in found["aims"].items():
        print(f"{name}: {met}")


def cross_validation(options: argparse.Namespace, work: Path) -> None:
    """Run all folds, except those whose results the folder already contains."""
    one, each, steps = ONE, EACH, (TEACHER_STEPS, DENSE_STEPS)
    if options.quick:
        one, each, steps = replace(ONE, steps=(2, 2, 2)), replace(EACH, steps=(2, 2, 2)), (3, 3)
    parts = []
    for index, (train, test) in enumerate(folds(5)):
        if index >= options.folds:
            break
        kept = (options.folder or work) / f"fold{index}.npz"
        if not kept.is_file():
            print(f"fold {index + 1} of {options.folds}", flush=True)
            with TemporaryDirectory(prefix="acm-export-example-") as name:
                np.savez(kept, **run_fold(train, test, Path(name), one, each, steps))  # type: ignore[arg-type]
        with np.load(kept) as content:
            parts.append({name: content[name] for name in content.files})
    found = summary(parts)
    report(found)
    settings = {
        "folds": options.folds,
        "a": asdict(one),
        "b": asdict(each),
        "teacher_steps": steps[0],
        "dense_steps": steps[1],
    }
    program = f"examples/05_acmize_digits.py --folds {options.folds}"
    write_result("acmize_digits", {**settings, **found}, options, program=program)


def main() -> None:
    """Cross-validate, or make the embedded model."""
    arguments = parser(__doc__ or "")
    arguments.add_argument(
        "--folds", type=int, default=5, choices=range(1, 6), help="number of folds to run (%(default)s)"
    )
    arguments.add_argument("--folder", type=Path, help="folder for each fold's result; existing results are reused")
    arguments.add_argument("--export-embedded", type=Path, metavar="DIR", help="only make the embedded ACM model")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    if options.export_embedded:
        embedded(options.export_embedded, quick=options.quick)
        return
    with TemporaryDirectory(prefix="acm-export-example-") as name:
        cross_validation(options, Path(name))


if __name__ == "__main__":
    main()
