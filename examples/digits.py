"""Helpers of example 05: images in folds, dense models, and the paper's models, one per budget."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from evidence import Stages
from transformers import ViTConfig, ViTForImageClassification

try:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration
    from sklearn.model_selection import StratifiedKFold
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed; run: pip install '.[demo,train]'")

from acm_export.checkpoints import load_checkpoint
from acm_export.data.open_data import open_data
from acm_export.demo.digits import DENSE, load_all_images, load_test_images
from acm_export.distillation.batches import Collate
from acm_export.distillation.layerwise import GatesPhase, LearnersPhase
from acm_export.distillation.plan import make_plan
from acm_export.distillation.record import SiteRecorder
from acm_export.distillation.run import run_distillation
from acm_export.distillation.settings import AcmizeSettings
from acm_export.distillation.state import State
from acm_export.distillation.statistics import gather_statistics
from acm_export.distillation.tasks import task_for
from acm_export.distillation.threshold_table import ThresholdTable
from acm_export.distillation.train import Throughput, Trainer
from acm_export.distillation.whole_phase import WholePhase
from acm_export.modules import acm_layers
from acm_export.surgery import install_acm_layers, model_flops

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from acm_export.checkpoints import Checkpoint
    from acm_export.distillation.plan import AcmizePlan

HIDDEN, LAYERS, HEADS, FFN = 32, 3, 4, 32
_RATE, _STATISTICS_BATCHES = 3e-3, 16
_EMBEDDED = AcmizeSettings(sites="ffn,qkvo", steps=(400, 200, 1200), batch=64, learning_rates=(2e-3, 2e-3, 5e-4))


class Images:
    """Images and classes, as samples and as batches.

    Args:
        name: Name of the data in messages.
        pixels: float32 ``[images, channels, height, width]``.
        labels: int64 ``[images]``.
    """

    def __init__(self, name: str, pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
        self.name, self.pixels, self.labels = name, pixels, labels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}

    def batches(self, size: int) -> list[dict[str, np.ndarray[Any, Any]]]:
        """Return all images in batches of ``size``."""
        starts = range(0, len(self), size)
        return [{"pixel_values": self.pixels[s : s + size], "labels": self.labels[s : s + size]} for s in starts]


def folds(count: int) -> Iterator[tuple[Images, Images]]:
    """Yield training and held-out images ``[1, 8, 8]`` of each stratified fold; settings come from another split."""
    pixels, labels = load_all_images()
    small = np.ascontiguousarray(pixels[:, :1, ::4, ::4])
    for train, test in StratifiedKFold(count, shuffle=True, random_state=1).split(small, labels):
        yield Images("digits", small[train], labels[train]), Images("digits, held out", small[test], labels[test])


def dense_vit(hidden: int, ffn: int) -> ViTForImageClassification:
    """Make a small ViT of width ``hidden`` with fresh weights; ``ffn`` is the width of its FFNs."""
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=hidden,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=ffn,
            image_size=8,
            patch_size=2,
            num_channels=1,
            num_labels=10,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.1,
        )
    )


def train_dense(model: ViTForImageClassification, data: Images, steps: int, batch: int = 32) -> Any:
    """Train with AdamW and one learning-rate cycle, ``batch`` images per step."""
    optimizer = torch.optim.AdamW(model.parameters(), _RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    order = np.random.default_rng(0)
    model.train()
    for _ in range(steps):
        chosen = order.choice(len(data), batch, replace=False)
        logits = model(pixel_values=torch.from_numpy(data.pixels[chosen])).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.labels[chosen]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def widths_for(plan: AcmizePlan, budget: float) -> tuple[int, int]:
    """Choose the widths of a dense model with at most the FLOPs of the ACM model at a budget, gates included.

    Returns:
        Token width and FFN width: the widest tokens, in steps of one channel per head, whose FFNs are at least half as
        wide.
    """
    target = plan.flops[1].at(budget)
    for hidden in range(HIDDEN, 0, -HEADS):
        least, one_more = _flops(hidden, 1), _flops(hidden, 2)
        ffn = 1 + int((target - least) // (one_more - least))
        if 2 * ffn >= hidden:
            return hidden, ffn
    raise ValueError(f"no dense model has as few FLOPs as {target}")


def _flops(hidden: int, ffn: int) -> int:
    with torch.device("meta"):
        model: Any = dense_vit(hidden, ffn)
        return model_flops(model, {"pixel_values": torch.zeros(1, 1, 8, 8)}).total


@torch.no_grad()
def right(model: Any, data: Images) -> np.ndarray[Any, Any]:
    """Return whether each image is classified correctly, bool ``[images]``."""
    logits = model(pixel_values=torch.from_numpy(data.pixels)).logits
    return np.asarray(logits.argmax(-1).numpy() == data.labels)


@torch.no_grad()
def accuracy_with_counts(model: Any, data: Images) -> tuple[float, np.ndarray[Any, Any]]:
    """Return the β that a model's gates choose as trained, and :func:`right`."""
    shares: list[float] = []

    def count(layer: Any, args: tuple[torch.Tensor]) -> None:
        counts = layer.run(args[0], layer.gate(args[0]))[1]
        shares.append(float(counts.double().mean()) / layer.spec.num_learners)

    hooks = [layer.register_forward_pre_hook(count) for _, layer in acm_layers(model)]
    correct = right(model, data)
    for hook in hooks:
        hook.remove()
    return float(np.mean(shares)), correct


def paper_models(
    teacher: Checkpoint, data: Images, settings: AcmizeSettings, budgets: Sequence[float]
) -> Iterator[Any]:
    """Train with the paper's recipe, one model per budget; phases 1 and 2 do not depend on the budget and run once."""
    plan = make_plan(teacher.model, teacher.interface, settings)
    task = task_for(teacher.model, teacher.interface, None, {})
    inputs = teacher.interface.data_inputs()
    dataset, collate = open_data(data, inputs, model_folder=teacher.path), Collate(inputs, task)
    dense: Any = teacher.model.eval().requires_grad_(requires_grad=False)
    torch.manual_seed(settings.seed)
    student = copy.deepcopy(dense).requires_grad_(requires_grad=True)
    install_acm_layers(student, teacher.interface, plan.layers)
    sites = tuple(item.site for item in plan.replacements)
    layers = {item.site.place: student.get_submodule(item.site.place) for item in plan.replacements}
    first = ({"pixel_values": torch.from_numpy(b["pixel_values"])} for b in data.batches(32)[:_STATISTICS_BATCHES])
    found = gather_statistics(dense, teacher.interface, sites, first)
    variances = {place: value.output_variance for place, value in found.items()}
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
    with TemporaryDirectory(prefix="acm-export-example-") as name:
        trainer = Trainer(
            accelerator, settings, dataset, collate, student, Path(name) / "paper", Stages(), Throughput()
        )
        state = State("", variances, {})
        with SiteRecorder(dense, teacher.interface, sites) as recorder:
            trainer.run(LearnersPhase(layers, variances, recorder), state)
            trainer.run(GatesPhase(layers, recorder, None, plan.costs), state)
        for budget in budgets:
            own = copy.deepcopy(student)
            whole = WholePhase(own, dense, teacher.interface, task, plan.costs, budget, ThresholdTable())
            trainer = replace(trainer, student=own, settings=replace(settings, budget=budget))
            trainer.run(whole, replace(state, phase=3, step=0, optimizer={}, scaler={}, history=[]))
            yield own.eval()


def embedded(folder: Path, *, quick: bool) -> None:
    """Make the package's ACM model from its dense one; its 360 test images are held out."""
    pixels, labels = load_all_images()
    test_pixels, test_labels = load_test_images()
    seen = {image.tobytes() for image in test_pixels}
    train = np.array([image.tobytes() not in seen for image in pixels])
    settings = replace(_EMBEDDED, steps=(2, 2, 2)) if quick else _EMBEDDED
    result = run_distillation(
        load_checkpoint(DENSE),
        Images("digits, training images", pixels[train], labels[train]),
        Images("digits, test images", test_pixels, test_labels),
        settings,
        folder,
        Stages(),
    )
    print(f"{folder}: dense accuracy {result.curve.dense:.1%}")
    for point in result.curve.thresholds:
        print(f"β {point.budget:.3f}: accuracy {point.quality:.1%}")
