"""What acmize makes of a ViT on scikit-learn's digits: accuracy against budget, every image tested once.

All 1,797 images, five folds. In each fold a dense ViT is trained on four fifths and becomes (a) one model for every
budget, (b) one model for each budget by the paper's losses, both from the same learners of its own neurons; both are
tested on the last fifth beside (c) the model of (a) with the same learner count for every token, gates ignored, and (d)
dense models trained from scratch that have as many FLOPs. Differences are paired by image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from common import parser, print_table, write_result
from torch.nn import functional as F  # noqa: N812

from acm_export.checkpoints import Checkpoint, load_checkpoint
from acm_export.demo.digits import load_all_images
from acm_export.distillation.acmize import acmize
from acm_export.distillation.evaluate import Evaluation, same_count
from acm_export.distillation.plan import Plan, make_plan
from acm_export.distillation.settings import PAPER, TEACHER, Settings
from acm_export.distillation.tasks import Classification
from acm_export.surgery import FAMILIES, model_flops

FOLDS = 5
BUDGETS = (1.0, 0.75, 0.6, 0.4, 0.25)
SETTINGS = Settings(sites="ffn,qkvo", steps=(500, 300, 2000), learning_rates=(1e-3, 1e-3, 3e-4))
DENSE_STEPS, DENSE_RATE = 2000, 1e-3
BATCH = 32


@dataclass(frozen=True)
class Images:
    """Some of the digits, as samples."""

    name: str
    pixels: Any
    classes: Any

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[index], "labels": self.classes[index]}

    def batches(self) -> Any:
        """All of them, 128 at a time."""
        for start in range(0, len(self), 128):
            part = slice(start, start + 128)
            yield {
                "pixel_values": torch.from_numpy(self.pixels[part]),
                "labels": torch.from_numpy(self.classes[part]),
            }


class Remembering(Classification):
    """Keeps for each image whether it was right."""

    def __init__(self) -> None:
        super().__init__(10)
        self.right: list[bool] = []

    def quality(self, output: Any, batch: Any, teacher: Any, valid: Any) -> tuple[float, float]:
        """As of classification."""
        self.right += (output.logits.argmax(-1) == batch["labels"]).tolist()
        return super().quality(output, batch, teacher, valid)


class Quiet:
    """Progress of a phase, one line each."""

    def stage(self, title: str, batches: int | None) -> None:  # noqa: ARG002
        """Say so."""
        print(f"  {title}", flush=True)

    def batch(self, note: str = "") -> None:
        """Nothing."""


def dense_vit(hidden: int, intermediate: int, train: Images, steps: int) -> Any:
    """A ViT trained from scratch, images moved by up to two pixels of 32."""
    config = transformers.ViTConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=3, num_attention_heads=4, image_size=32,
        patch_size=8, num_labels=10, layer_norm_eps=1e-6, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=DENSE_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, DENSE_RATE, max(steps, 2), pct_start=0.1)
    pixels, classes = torch.from_numpy(train.pixels), torch.from_numpy(train.classes)
    for _ in range(steps):
        chosen = torch.randint(len(pixels), (BATCH,))
        shift = torch.randint(-2, 3, (2,)).tolist()
        moved = torch.roll(pixels[chosen], shift, (2, 3))
        loss = F.cross_entropy(model(pixel_values=moved).logits, classes[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def sizes_for(flops: float) -> tuple[int, int]:
    """Hidden and intermediate size of the dense ViT whose FLOPs are nearest to these."""
    inputs = {"pixel_values": torch.zeros(1, 3, 32, 32, device="meta")}
    found = []
    for hidden in range(8, 65, 4):
        config = transformers.ViTConfig(
            hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=3, num_attention_heads=4,
            image_size=32, patch_size=8, num_labels=10,
        )  # fmt: skip
        with torch.device("meta"):
            model = transformers.ViTForImageClassification(config)
        found.append((abs(model_flops(model, FAMILIES["vit"], inputs).total - flops), hidden))
    hidden = min(found)[1]
    return hidden, 2 * hidden


def right_of(model: Any, test: Images) -> list[bool]:
    """Whether a dense model is right, by image."""
    with torch.no_grad():
        return [
            bool(value)
            for batch in test.batches()
            for value in model(pixel_values=batch["pixel_values"]).logits.argmax(-1) == batch["labels"]
        ]


def nearly_same_counts(plan: Plan, budget: float) -> dict[str, list[float]]:
    """Thresholds with which all tokens of a layer run one count, and counts of layers differ by one at most.

    Layers run the smaller of two counts until enough of them, spread evenly over the model, run the larger one to come
    as near to the budget as can be.
    """
    specs, costs = plan.specs, plan.costs
    everything = sum(costs[name] * spec.num_learners for name, spec in specs.items())
    smaller = int(budget * SETTINGS.num_learners)
    counts = {name: max(min(smaller, spec.num_learners), spec.min_learners) for name, spec in specs.items()}
    names = sorted(specs, key=lambda name: list(specs).index(name) * 7 % len(specs))
    for name in names:
        now = sum(costs[n] * count for n, count in counts.items()) / everything
        step = costs[name] / everything
        if counts[name] == smaller < specs[name].num_learners and abs(now + step - budget) < abs(now - budget):
            counts[name] += 1
    return {name: same_count(count, specs[name].num_learners) for name, count in counts.items()}


def fold_rows(index: int, train: Images, test: Images, folder: Path, settings: Settings, dense_steps: int) -> Any:
    """For each kind of model and budget, measured β and the images that are right."""
    print(f"fold {index + 1}: dense", flush=True)
    teacher_model = dense_vit(48, 96, train, dense_steps)
    teacher_model.save_pretrained(folder / "dense")
    rows: list[dict[str, Any]] = [{"kind": "dense", "budget": 1.0, "right": right_of(teacher_model, test)}]
    one = distilled(train, test, folder / "dense", folder / "one", settings)
    plan = make_plan(load_checkpoint(folder / "dense").model, FAMILIES["vit"], settings)
    for budget in BUDGETS:
        threshold = float("-inf") if budget == 1 else one.evaluation.threshold_for(budget, train.batches)
        rows.append(one.row("one model", budget, [threshold], test))
        rows.append(one.row("same count", budget, nearly_same_counts(plan, budget), test))
        if budget < 1:
            paper = replace(settings, recipe=PAPER, budget=budget, init=TEACHER)
            own = distilled(train, test, folder / "dense", folder / f"paper-{budget}", paper)
            rows.append(own.row("paper", budget, [0.0], test))
        hidden, intermediate = sizes_for(plan.flops[1].at(budget))
        narrow = right_of(dense_vit(hidden, intermediate, train, dense_steps), test)
        rows.append({"kind": "narrow dense", "requested": budget, "hidden": hidden, "right": narrow})
    return rows


@dataclass(frozen=True)
class Distilled:
    """A model that acmize made, and what measures it."""

    evaluation: Evaluation
    task: Remembering

    def row(self, kind: str, budget: float, thresholds: Any, test: Images) -> dict[str, Any]:
        """β on the test images, and which of them are right."""
        self.task.right.clear()
        measured, _ = self.evaluation.at(thresholds, test.batches)
        return {"kind": kind, "requested": budget, "budget": measured, "right": list(self.task.right)}


def distilled(train: Images, test: Images, dense: Path, output: Path, settings: Settings) -> Distilled:
    """Run acmize and read back what it wrote."""
    teacher = load_checkpoint(dense)
    print(f" {output.name}", flush=True)
    result = acmize(teacher, train, test, settings, output, Quiet())
    student: Checkpoint = load_checkpoint(output)
    task = Remembering()
    return Distilled(Evaluation(student.model, teacher.model, student.family, task, result.plan.costs), task)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over all folds: accuracy with its standard error, and the paired difference of (a) from the others."""
    ours = {row["requested"]: row["right"] for row in rows if row["kind"] == "one model"}
    found = []
    for row in rows:
        right = np.array(row["right"], float)
        entry = {key: value for key, value in row.items() if key != "right"}
        entry |= {"accuracy": right.mean(), "standard_error": float(right.std() / np.sqrt(len(right)))}
        if row["kind"] != "one model" and row.get("requested") in ours:
            difference = np.array(ours[row["requested"]], float) - right
            error = float(difference.std() / np.sqrt(len(difference)))
            entry["one_model_minus_this"] = difference.mean()
            entry["interval95"] = [difference.mean() - 1.96 * error, difference.mean() + 1.96 * error]
        found.append(entry)
    return found


def joined(folds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of the folds that belong together, their images one after the other."""
    rows = []
    for parts in zip(*folds, strict=True):
        whole = {**parts[0], "right": [value for part in parts for value in part["right"]]}
        if "budget" in whole:
            whole["budget"] = float(np.average([p["budget"] for p in parts], weights=[len(p["right"]) for p in parts]))
        rows.append(whole)
    return rows


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__ or "")
    options.add_argument("--folds", type=int, default=FOLDS, help="how many of the five folds are run")
    arguments = options.parse_args()
    quick: bool = arguments.quick
    settings = replace(SETTINGS, steps=(20, 20, 20)) if quick else SETTINGS
    images, labels = load_all_images()
    fold = np.random.default_rng(0).permutation(len(images)) % FOLDS
    folds = []
    for index in range(1 if quick else arguments.folds):
        train = Images("digits, four fifths", images[fold != index], labels[fold != index])
        test = Images("digits, one fifth", images[fold == index], labels[fold == index])
        with TemporaryDirectory(prefix="acm-export-benchmark-") as name:
            folds.append(fold_rows(index, train, test, Path(name), settings, 20 if quick else DENSE_STEPS))
    table = summary(joined(folds))
    print_table(
        f"digits, {sum(len(part[0]['right']) for part in folds)} test images",
        ("model", "β asked", "β", "accuracy %", "± standard error", "(a) - this, 95%"),
        [
            (row["kind"], f"{row.get('requested', 1):.2f}", f"{row['budget']:.3f}" if "budget" in row else "",
             f"{100 * row['accuracy']:.2f}", f"{100 * row['standard_error']:.2f}",
             " to ".join(f"{100 * v:+.2f}" for v in row.get("interval95", ())))
            for row in sorted(table, key=lambda row: (-row.get("requested", 1), row["kind"]))
        ],
    )  # fmt: skip
    payload = {"folds": len(folds), "sites": settings.sites, "steps": list(settings.steps), "rows": table}
    write_result("acmize_digits", payload, arguments)


if __name__ == "__main__":
    main()
