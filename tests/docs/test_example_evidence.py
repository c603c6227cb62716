"""Helpers of examples 05 to 07, whose full runs take too long for a test."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from acm_export.checkpoints import load_checkpoint
from acm_export.distillation.plan import make_plan
from acm_export.distillation.settings import AcmizeSettings
from acm_export.modules import acm_layers
from acm_export.onnx_file.manifest import LayerEntry
from acm_export.surgery import model_flops

if TYPE_CHECKING:
    from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples"
LAYERS = (
    LayerEntry("ffn", 8, 4, 8, 0, "gelu", 256, 10, 5),
    LayerEntry("wide", 8, 4, 16, 0, "gelu", 512, 10, 5),
    LayerEntry("q", 8, 4, 2, 1, "identity", 64, 10, 5),
)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def executed(thresholds: np.ndarray[Any, Any]) -> float:
    """Return β of tokens with finite margins."""
    parts = np.split(thresholds, np.cumsum([layer.num_learners for layer in LAYERS])[:-1])
    ran = sum(
        layer.learner_flops * max(int((part < 0).sum()), layer.min_learners)
        for layer, part in zip(LAYERS, parts, strict=True)
    )
    return ran / sum(layer.learner_flops * layer.num_learners for layer in LAYERS)


@pytest.mark.parametrize("budget", [0.02, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.99, 1.0])
def test_same_counts_are_mixed_to_the_budget(example: Any, budget: float) -> None:
    settings = example("evidence").between(LAYERS, budget)
    assert sum(s.weight for s in settings) == pytest.approx(1)
    assert all(np.isinf(s.thresholds).all() and s.weight >= 0 for s in settings)
    assert sum(s.weight * executed(s.thresholds) for s in settings) == pytest.approx(max(budget, 64 / 3328))


def test_same_counts_differ_by_at_most_one_learner(example: Any) -> None:
    for budget in np.linspace(0.05, 1, 20):
        for setting in example("evidence").between(LAYERS, budget):
            counts = [(part < 0).sum() for part in np.split(setting.thresholds, 3)]
            assert max(counts) - min(counts) <= 1


def test_paired_differences_compare_the_same_samples(example: Any) -> None:
    generator = np.random.default_rng(0)
    theirs = generator.standard_normal(400)
    ours = theirs + 0.1
    found = example("evidence").paired(ours, theirs)
    assert (found.low, found.mean, found.high) == pytest.approx((0.1, 0.1, 0.1))
    noisy = example("evidence").paired(theirs + generator.standard_normal(400), theirs)
    assert noisy.high - noisy.low == pytest.approx(2 * 1.96 / 20, rel=0.15)


@pytest.mark.parametrize(
    ("right", "heard", "errors"),
    [("one two", "one two", 0), ("one two", "two", 1), ("one", "one on", 1), ("up", "down", 1), ("go", "", 1)],
)
def test_word_errors(example: Any, right: str, heard: str, errors: int) -> None:
    assert example("speech").word_errors(right, heard) == (errors, len(right.split()))


def test_a_spelled_text_is_decoded_to_itself(example: Any) -> None:
    speech = example("speech")
    labels = speech.spelled("three off")
    frames = np.stack([labels, np.zeros_like(labels)], 1).reshape(-1).repeat(3)  # with blanks, each three frames long
    assert speech.written(np.eye(len(speech.LETTERS))[frames]) == "three off"
    assert speech.written(np.eye(len(speech.LETTERS))[labels.repeat(2)]) == "thre of"  # double letters need a blank


def test_frames_match_the_model(example: Any) -> None:
    speech = example("speech")
    model = speech.fresh_model()
    for length in (4000, 8123, 12000):
        assert model(torch.randn(1, length)).logits.shape[1] == speech.frames(length)


def test_test_voices_are_not_in_the_training_data(example: Any) -> None:
    speech = example("speech")
    assert not {name.lower() for name in speech.PEOPLE} & {name.lower() for name in speech.UNSEEN_PEOPLE}


def test_every_image_is_held_out_once(example: Any) -> None:
    pairs = list(example("digits").folds(5))
    held_out = np.concatenate([test.pixels for _, test in pairs])
    assert len(held_out) == 1797
    assert sorted(map(bytes, held_out)) == sorted(map(bytes, np.concatenate([pairs[0][0].pixels, pairs[0][1].pixels])))
    assert all(len(train) + len(test) == 1797 for train, test in pairs)


@pytest.fixture
def teacher(example: Any, tmp_path: Path) -> Any:
    digits: ModuleType = example("digits")
    digits.dense_vit(digits.HIDDEN, digits.FFN).save_pretrained(tmp_path / "dense")
    return load_checkpoint(tmp_path / "dense")


@pytest.mark.parametrize("budget", [1.0, 0.6, 0.25])
def test_the_narrow_dense_model_has_equal_flops(example: Any, teacher: Any, budget: float) -> None:
    digits = example("digits")
    plan = make_plan(teacher.model, teacher.interface, AcmizeSettings(sites="ffn,o_proj"))
    hidden, ffn = digits.widths_for(plan, budget)
    inputs = {"pixel_values": torch.zeros(1, 1, 8, 8)}
    found, wider = (
        model_flops(digits.dense_vit(hidden, width), teacher.family, inputs).total for width in (ffn, ffn + 1)
    )
    assert found <= plan.flops[1].at(budget) < wider
    assert 2 * ffn >= hidden


def test_the_papers_models_share_the_phases_before_the_budget(example: Any, teacher: Any) -> None:
    digits = example("digits")
    images = next(digits.folds(5))[0]
    settings = AcmizeSettings(recipe="paper", budget=1.0, batch=8, steps=(2, 2, 0))
    same = [model.state_dict() for model in digits.paper_models(teacher, images, settings, (0.9, 0.3))]
    assert all(torch.equal(value, same[1][name]) for name, value in same[0].items())
    tuned = replace(settings, steps=(2, 2, 2), learning_rates=(1e-3, 1e-3, 1e-2))
    one, other = digits.paper_models(teacher, images, tuned, (0.9, 0.3))
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(left, right) for left, right in pairs)
    assert len(list(acm_layers(one))) == digits.LAYERS


def test_curves_are_small_files(example: Any, tmp_path: Path) -> None:
    rows = [
        {"a": {"measured": b, "accuracy": 0.9 + b / 20}, "c": {"measured": b, "accuracy": 0.8}} for b in (0.25, 1.0)
    ]
    example("figures").curve(rows, "accuracy", "accuracy", 0.95, tmp_path / "curve.png")
    assert 0 < (tmp_path / "curve.png").stat().st_size < 200_000


def test_the_guide_has_the_tables_of_the_results(example: Any) -> None:
    tables = example("tables")
    guide = (EXAMPLES.parent / "docs" / "acmize.md").read_text(encoding="utf-8").splitlines()
    shown = [name for name in tables.TABLES if (tables.RESULTS / f"{name}.json").is_file()]
    assert shown
    for name in shown:
        assert [line for line in tables.lines(name) if line not in guide] == []
