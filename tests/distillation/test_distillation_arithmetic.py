"""The arithmetic of distillation, compared with plain loops or definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import randomize

from acm_export.distillation.batches import StepOrder
from acm_export.distillation.choices import chosen_output, learners_run, logits_at, prefix_outputs, straight_through
from acm_export.distillation.ctc import edit_distance
from acm_export.distillation.layerwise import learner_gains, priced_labels, relative_labels, squared_errors
from acm_export.distillation.losses import negative_entropy, negative_spread, sample_budgets
from acm_export.distillation.threshold_table import KNOTS, ThresholdTable, thresholds_by_share
from acm_export.modules import ACMLayer, ACMSpec
from acm_export.modules.gated_learners import learner_counts

logits = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=6)


def layer(min_learners: int = 0, activation: str = "gelu") -> ACMLayer:
    made = ACMLayer(ACMSpec(6, 3, 5, min_learners, activation, (4,), "relu"))
    randomize(made)
    return made


@pytest.mark.parametrize("least", [0, 1, 3])
@pytest.mark.parametrize("activation", ["gelu", "relu", "identity"])
def test_prefix_outputs_match_a_loop_over_learners(least: int, activation: str) -> None:
    acm, x = layer(least, activation), torch.randn(7, 6)
    act = {"gelu": torch.nn.functional.gelu, "relu": torch.relu, "identity": lambda v: v}[activation]
    with torch.no_grad():
        found = prefix_outputs(acm, x)
        assert found.shape == (7, 3 - least + 1, 6)
        for choice, count in enumerate(range(least, 4)):
            expected = acm.b2[count].expand(7, 6).clone()
            for n in range(count):
                part = slice(5 * n, 5 * (n + 1))
                expected += act(x @ acm.w1[:, part] + acm.b1[part]) @ acm.w2[part]
            torch.testing.assert_close(found[:, choice], expected)


@pytest.mark.parametrize("least", [0, 1])
def test_prefix_outputs_match_the_operator(least: int) -> None:
    acm, x = layer(least), torch.randn(5, 6)
    with torch.no_grad():
        found = prefix_outputs(acm, x)
        for choice in range(found.shape[1]):
            z = torch.full((5, found.shape[1]), -9.0)
            z[:, choice] = 9.0
            torch.testing.assert_close(found[:, choice], acm.run(x, z)[0])


def test_a_chosen_output_has_the_gradients_of_the_choice_and_the_prefixes() -> None:
    acm, x = layer(1), torch.randn(5, 6)
    choice = torch.randn(5, 3).softmax(-1).requires_grad_()
    quick = chosen_output(acm, x, choice)
    slow = (choice.unsqueeze(-1) * prefix_outputs(acm, x)).sum(1)
    torch.testing.assert_close(quick, slow)
    weights = torch.randn_like(quick)
    for ours, theirs in zip(
        torch.autograd.grad((quick * weights).sum(), (choice, acm.w1, acm.w2, acm.b2)),
        torch.autograd.grad((slow * weights).sum(), (choice, acm.w1, acm.w2, acm.b2)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_learners_run_up_to_the_choice() -> None:
    assert learners_run(torch.eye(3), 1).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_squared_errors() -> None:
    prefixes, target = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[1.0, 0.0]])
    assert squared_errors(prefixes, target).tolist() == [[4.0, 20.0]]


def _relative_label(errors: list[float], factor: float) -> int:
    for n in range(len(errors) - 1):
        if errors[n] < factor * errors[n + 1]:
            return n
    return len(errors) - 1


@given(st.lists(st.lists(st.floats(0.01, 100), min_size=4, max_size=4), min_size=1, max_size=5))
def test_relative_labels_match_their_definition(rows: list[list[float]]) -> None:
    errors = torch.tensor(rows, dtype=torch.float64)
    assert relative_labels(errors).tolist() == [_relative_label(row, 1.2) for row in rows]


def test_the_first_and_the_last_choice_can_be_labels() -> None:
    assert relative_labels(torch.tensor([[1.0, 1.0, 0.1], [9.0, 3.0, 1.0], [9.0, 3.0, 3.0]])).tolist() == [0, 2, 1]


@given(st.lists(st.floats(0, 50), min_size=2, max_size=6), st.floats(0.01, 60))
def test_priced_labels_minimise_error_plus_price(row: list[float], price: float) -> None:
    errors = torch.tensor([row], dtype=torch.float64)
    label = int(priced_labels(learner_gains(errors), torch.tensor([price], dtype=torch.float64)))
    costs = [error + price * n for n, error in enumerate(row)]
    assert costs[label] == pytest.approx(min(costs), abs=1e-9)


@given(st.lists(st.floats(0, 50), min_size=2, max_size=6))
def test_learner_gains_never_increase(row: list[float]) -> None:
    worth = learner_gains(torch.tensor([row], dtype=torch.float64))[0]
    assert bool((worth.diff() <= 1e-9).all())
    assert float(worth.sum()) == pytest.approx(row[0] - row[-1], abs=1e-9)


@given(logits, st.floats(-10, 10, width=32))
def test_logits_at_a_threshold_choose_what_the_operator_runs(values: list[float], threshold: float) -> None:
    z = torch.tensor([values])
    count = learner_counts(z, torch.full((len(values) - 1,), threshold), 0)
    shifted = logits_at(z, torch.tensor([threshold]))
    chosen = int(shifted.argmax(-1))
    # where a margin equals τ to rounding, both are right
    assert chosen == int(count) or float(shifted.max() - shifted[0, int(count)]) < 1e-4


def test_straight_through_is_one_hot_and_has_the_gradient_of_the_probabilities() -> None:
    z = torch.randn(50, 4, requires_grad=True)
    torch.manual_seed(1)
    choice, probabilities = straight_through(z)
    assert torch.allclose(choice.sum(-1), torch.ones(50))
    assert torch.allclose(choice.max(-1).values, torch.ones(50))
    assert torch.allclose(probabilities, z.softmax(-1))
    torch.manual_seed(1)
    tiny, eps = torch.finfo(z.dtype).tiny, torch.finfo(z.dtype).eps
    noise = -(-torch.rand_like(z).clamp(tiny, 1 - eps).log()).log()
    weights = torch.randn(50, 4)
    (ours,) = torch.autograd.grad((choice * weights).sum(), z)
    (theirs,) = torch.autograd.grad(((z + noise).softmax(-1) * weights).sum(), z)
    torch.testing.assert_close(ours, theirs)


def test_drawn_choices_are_as_frequent_as_their_probabilities() -> None:
    torch.manual_seed(0)
    z = torch.tensor([0.0, 1.0, -1.0]).expand(20000, 3)
    choice, probabilities = straight_through(z)
    assert torch.allclose(choice.mean(0), probabilities[0], atol=0.015)
    assert straight_through(z[:5], noise=False)[0].argmax(-1).tolist() == [1] * 5


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_the_threshold_table_finds_the_threshold_that_a_share_exceeds(share: float) -> None:
    margins = {"a": torch.randn(1000, 3), "b": 5 + torch.randn(2000, 2)}
    costs = {"a": 2.0, "b": 0.5}
    table = ThresholdTable()
    table.update(thresholds_by_share(margins, costs))
    threshold = float(table.at(torch.tensor(share)))
    exceeding = sum(costs[name] * float((value > threshold).sum()) for name, value in margins.items())
    everything = sum(costs[name] * value.numel() for name, value in margins.items())
    assert exceeding / everything == pytest.approx(share, abs=0.02)


def test_the_threshold_table_decreases_and_moves_slowly() -> None:
    table = ThresholdTable()
    assert table.at(torch.tensor([0.3])).tolist() == [0.0]
    table.update(torch.linspace(10, 0, KNOTS))
    assert table.at(torch.tensor([0.0, 0.25, 1.0])).tolist() == [10.0, 7.5, 0.0]
    table.update(torch.zeros(KNOTS))
    assert float(table.at(torch.tensor(0.0))) == pytest.approx(9.0)


def test_sample_budgets_weight_layers_by_cost_and_exclude_padding() -> None:
    a = torch.eye(3)[torch.tensor([[2, 0], [1, 1]])]  # N = 2 of 2: counts 2 0 / 1 1
    b = torch.eye(2)[torch.tensor([[0, 1], [1, 1]])]  # N = 2, one always: counts 1 2 / 2 2
    valid = torch.tensor([[True, False], [True, True]])
    found = sample_budgets({"a": a, "b": b}, {"a": 0, "b": 1}, {"a": 3.0, "b": 1.0}, valid)
    assert found.tolist() == pytest.approx([(3 * 2 + 1 * 1) / 8, (3 * 1 + 1 * 2) / 8])


def test_negative_entropy_and_spread_of_known_choices() -> None:
    even = {"a": torch.full((2, 3, 4), 0.25)}
    assert float(negative_entropy(even, None)) == pytest.approx(-1)
    assert float(negative_entropy({"a": torch.eye(4)[:1].expand(2, 3, 4)}, None)) == pytest.approx(0, abs=1e-6)
    alternating = {"a": torch.eye(2).unsqueeze(0)}  # certain of each token, undecided over the sample
    assert float(negative_entropy(alternating, None)) == pytest.approx(-1)
    budgets = [0.1, 0.5, 0.9]
    expected = -np.mean([abs(a - b) for a, b in itertools.permutations(budgets, 2)])
    assert float(negative_spread(torch.tensor(budgets))) == pytest.approx(expected)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 30))
@settings(deadline=None)
def test_resumed_steps_use_the_same_samples(samples: int, batch: int, first: int) -> None:
    whole = list(StepOrder(samples, batch, 3, 0, 40))
    assert list(StepOrder(samples, batch, 3, first, 40)) == whole[first:]
    per_epoch = samples // min(batch, samples)
    epoch = list(itertools.chain(*whole[:per_epoch]))
    assert len(set(epoch)) == len(epoch) == per_epoch * min(batch, samples)
    assert all(0 <= index < samples for index in epoch)


def test_other_seeds_use_other_samples() -> None:
    assert list(StepOrder(50, 10, 0, 0, 3)) != list(StepOrder(50, 10, 1, 0, 3))


@pytest.mark.parametrize(("left", "right", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0)])
def test_edit_distance(left: str, right: str, distance: int) -> None:
    assert edit_distance(list(left), list(right)) == distance
    assert edit_distance(list(right), list(left)) == distance


def test_gains_of_errors_that_fall_evenly() -> None:
    assert learner_gains(torch.tensor([[9.0, 6.0, 3.0]]))[0].tolist() == [3.0, 3.0]
    assert learner_gains(torch.tensor([[9.0, 9.0, 1.0]]))[0].tolist() == [4.0, 4.0]  # no use in stopping halfway
    assert math.isclose(float(learner_gains(torch.tensor([[1.0, 2.0]]))[0, 0]), -1.0)
