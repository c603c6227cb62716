"""The losses of the three phases, and the parameters that their gradients reach."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_families import dense_model, install_sites, interface, sites_of
from tiny_models import randomize
from torch.nn import functional as F  # noqa: N812

from acm_export.distillation.gated import GatedPass, gated
from acm_export.distillation.layerwise import GatesPhase, LearnersPhase
from acm_export.distillation.record import PaddingListener, SiteRecorder
from acm_export.distillation.tasks import Classification, Imitation
from acm_export.distillation.threshold_table import ThresholdTable
from acm_export.distillation.whole_phase import WholePhase
from acm_export.modules import acm_layers
from acm_export.surgery import spec_for

INPUTS = {"pixel_values": torch.linspace(-1, 1, 256).sin().reshape(4, 1, 8, 8), "labels": torch.tensor([0, 1, 2, 3])}
IMAGES = {"pixel_values": INPUTS["pixel_values"]}


@pytest.fixture
def pair() -> tuple[Any, Any, Any]:
    """A teacher, a student of it, and the sites."""
    torch.manual_seed(0)
    teacher = dense_model("vit").requires_grad_(requires_grad=False)
    sites = sites_of(teacher, "ffn,q_proj")
    student = copy.deepcopy(teacher)
    install_sites(student, {site: spec_for(site, 3) for site in sites})
    randomize(student)
    student.requires_grad_()
    return teacher, student, sites


def _prefixes(layer: Any, x: torch.Tensor) -> list[torch.Tensor]:
    spec = layer.spec
    outputs = []
    for count in range(spec.min_learners, spec.num_learners + 1):
        y = layer.b2[count].expand(x.shape[0], -1)
        for n in range(count):
            part = slice(n * spec.hidden_dim, (n + 1) * spec.hidden_dim)
            y = y + F.gelu(x @ layer.w1[:, part] + layer.b1[part]) @ layer.w2[part]
        outputs.append(y)
    return outputs


def test_phase_1_is_the_mean_over_prefixes_of_the_squared_error(pair: Any) -> None:
    teacher, student, sites = pair
    layers = dict(acm_layers(student))
    variances = {site.place: 0.5 + i for i, site in enumerate(sites)}
    with SiteRecorder(teacher, interface(teacher), sites) as recorder:
        phase = LearnersPhase({site.place: layers[site.place] for site in sites}, variances, recorder)
        loss = phase(INPUTS)
        _, seen = recorder.run(IMAGES)
    for site in sites:
        errors = [
            (y - seen[site.place].output).square().sum(-1).mean()
            for y in _prefixes(layers[site.place], seen[site.place].x)
        ]
        assert len(errors) == (4 if site.residual else 3)  # no learner at all is a choice under a residual
        expected = torch.stack(errors).mean() / variances[site.place]
        torch.testing.assert_close(loss.by_layer[site.place], expected)
    torch.testing.assert_close(loss.value, torch.stack(list(loss.by_layer.values())).mean())
    assert loss.tokens == 4 * 5


def test_phase_1_trains_learners_and_no_gate(pair: Any) -> None:
    teacher, student, sites = pair
    layers = dict(acm_layers(student))
    with SiteRecorder(teacher, interface(teacher), sites) as recorder:
        phase = LearnersPhase(layers, {site.place: 1.0 for site in sites}, recorder)
        phase(INPUTS).value.backward()
    trained = {id(p) for part, _ in phase.parameter_groups() for p in part}
    for layer in layers.values():
        for name, parameter in layer.named_parameters():
            assert (id(parameter) in trained) == (not name.startswith("gate."))
            if name.startswith("gate."):
                assert parameter.grad is None
            else:
                assert float(parameter.grad.abs().sum()) > 0
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("weighted", [False, True])
def test_phase_2_trains_gates_and_no_learner(pair: Any, weighted: bool) -> None:
    teacher, student, sites = pair
    layers = dict(acm_layers(student))
    ones = {site.place: 1.0 for site in sites}
    with SiteRecorder(teacher, interface(teacher), sites) as recorder:
        phase = GatesPhase(layers, recorder, ones if weighted else None, ones)
        phase(INPUTS).value.backward()
    for layer in layers.values():
        for name, parameter in layer.named_parameters():
            assert (parameter.grad is not None) == name.startswith("gate."), name


def test_phase_2_of_the_paper_is_the_cross_entropy_with_its_labels(pair: Any) -> None:
    teacher, student, sites = pair
    layers = dict(acm_layers(student))
    with SiteRecorder(teacher, interface(teacher), sites) as recorder:
        phase = GatesPhase(layers, recorder, None, {site.place: 1.0 for site in sites})
        loss = phase(INPUTS)
        _, seen = recorder.run(IMAGES)
    for site in sites:
        x, o = seen[site.place].x, seen[site.place].output
        distances = torch.stack([(y - o).norm(dim=-1) for y in _prefixes(layers[site.place], x)], 1)
        labels = []
        for row in distances.tolist():
            enough = [n for n in range(len(row) - 1) if row[n] / row[n + 1] < 1.2]
            labels.append(enough[0] if enough else len(row) - 1)
        expected = F.cross_entropy(layers[site.place].gate(x), torch.tensor(labels))
        torch.testing.assert_close(loss.by_layer[site.place], expected)


def test_phase_2_lowers_its_loss(pair: Any) -> None:
    teacher, student, sites = pair
    layers = dict(acm_layers(student))
    ones = {site.place: 1.0 for site in sites}
    torch.manual_seed(0)
    with SiteRecorder(teacher, interface(teacher), sites) as recorder:
        phase = GatesPhase(layers, recorder, ones, ones)
        optimizer = torch.optim.Adam(phase.parameter_groups()[0][0], lr=1e-2)
        losses = []
        for _ in range(150):
            loss = phase(INPUTS).value
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


@pytest.mark.parametrize("budget", [None, 0.4])
def test_phase_3_reaches_every_gate_and_learner_through_the_task_alone(pair: Any, budget: float | None) -> None:
    teacher, student, sites = pair
    with PaddingListener(student, interface(teacher)) as padding:
        thresholds = None if budget else torch.zeros(4)
        with gated(student, GatedPass(padding, thresholds)) as run:
            F.cross_entropy(student(**IMAGES).logits, INPUTS["labels"]).backward()
    assert set(run.choices) == {site.place for site in sites}
    for _, layer in acm_layers(student):
        for name, parameter in layer.named_parameters():
            assert float(parameter.grad.abs().sum()) > 0, name


def test_a_gated_pass_without_noise_is_what_the_operator_computes(pair: Any) -> None:
    _, student, _ = pair
    with torch.no_grad(), PaddingListener(student, interface(student)) as padding:
        expected = student(**IMAGES).logits
        for thresholds in (None, torch.zeros(4)):
            with gated(student, GatedPass(padding, thresholds, noise=False)):
                torch.testing.assert_close(student(**IMAGES).logits, expected, rtol=1e-4, atol=1e-5)
        for _, layer in acm_layers(student):
            layer.thresholds.fill_(1.5)
        raised = student(**IMAGES).logits
        with gated(student, GatedPass(padding, torch.full((4,), 1.5), noise=False)):
            torch.testing.assert_close(student(**IMAGES).logits, raised, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(raised, expected)


def test_each_sample_of_a_batch_has_its_own_threshold(pair: Any) -> None:
    _, student, _ = pair
    with torch.no_grad(), PaddingListener(student, interface(student)) as padding:
        thresholds = torch.tensor([-1e9, -1e9, 1e9, 1e9])
        with gated(student, GatedPass(padding, thresholds, noise=False)) as run:
            student(**IMAGES)
    for choice in run.choices.values():
        assert bool((choice[:2].argmax(-1) == choice.shape[-1] - 1).all())
        assert bool((choice[2:].argmax(-1) == 0).all())


def test_padding_runs_the_fewest_learners_and_does_not_count_in_the_budget() -> None:
    torch.manual_seed(0)
    teacher = dense_model("bert")
    student = copy.deepcopy(teacher)
    sites = sites_of(teacher, "ffn,q_proj")
    install_sites(student, {site: spec_for(site, 3) for site in sites})
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    inputs = {"input_ids": torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0]]), "attention_mask": mask}
    with (
        PaddingListener(student, interface(student)) as padding,
        gated(student, GatedPass(padding, torch.full((2,), -1e9))) as run,
    ):
        student(**inputs)
    for choice in run.choices.values():
        assert bool((choice.argmax(-1)[mask == 0] == 0).all())
        assert bool((choice.argmax(-1)[mask == 1] == choice.shape[-1] - 1).all())
    assert [len(value) for value in run.margins.values()] == [4] * len(sites)


def test_phase_3_of_the_paper_adds_its_three_terms(pair: Any) -> None:
    teacher, student, sites = pair
    costs = {site.place: 1.0 + i for i, site in enumerate(sites)}
    phase = WholePhase(student, teacher, interface(teacher), Classification(5), costs, 0.4, ThresholdTable())
    torch.manual_seed(7)
    loss = phase(INPUTS)
    torch.manual_seed(7)
    with PaddingListener(student, interface(teacher)) as padding, gated(student, GatedPass(padding, None)) as run:
        task = F.cross_entropy(student(**IMAGES).logits, INPUTS["labels"])
    executed, everything = torch.zeros(4), 0.0
    entropies = []
    for name, choice in run.choices.items():
        spec = student.get_submodule(name).spec
        executed += costs[name] * (spec.min_learners + choice.argmax(-1)).float().mean(1)
        everything += costs[name] * spec.num_learners
        shares = run.probabilities[name].mean(1)
        entropies.append((shares * shares.log()).sum(-1) / torch.tensor(float(choice.shape[-1])).log())
    budgets = executed / everything
    spread = torch.stack([(a - b).abs() for i, a in enumerate(budgets) for j, b in enumerate(budgets) if i != j]).mean()
    expected = task + 0.1 * (budgets.mean() - 0.4).abs() + 0.05 * torch.stack(entropies).mean() - 0.05 * spread
    torch.testing.assert_close(loss.value, expected)
    torch.testing.assert_close(loss.budget, budgets.mean())


class RecordingTable(ThresholdTable):
    """Keeps the shares that it was called with; its thresholds rise as the shares fall."""

    shares: torch.Tensor

    def at(self, shares: torch.Tensor) -> torch.Tensor:
        self.shares = shares
        return 0.5 - shares


def test_phase_3_for_every_budget_makes_the_choices_of_the_operator_at_evenly_spread_budgets(pair: Any) -> None:
    teacher, student, sites = pair
    costs = {site.place: 1.0 for site in sites}
    table, task = RecordingTable(), Classification(5)
    phase = WholePhase(student, teacher, interface(teacher), task, costs, None, table)
    loss = phase(INPUTS)
    quarters = ((table.shares - 0.1) / 0.9 * 4).floor().int()
    assert sorted(quarters.tolist()) == [0, 1, 2, 3]
    outputs, executed, most, least = [], 0.0, 0, 0
    for index, share in enumerate(table.shares):  # a sample at a time, through the operator itself
        for _, layer in acm_layers(student):
            layer.thresholds.fill_(float(0.5 - share))
        ran: dict[str, torch.Tensor] = {}
        handles = [
            layer.register_forward_pre_hook(
                lambda part, args, name=name, ran=ran: ran.update({name: part.run(args[0], part.gate(args[0]))[1]})
            )
            for name, layer in acm_layers(student)
        ]
        outputs.append(student(pixel_values=IMAGES["pixel_values"][index : index + 1]).logits)
        for handle in handles:
            handle.remove()
        specs = [student.get_submodule(name).spec for name in ran]
        executed += sum(float(counts.float().mean()) for counts in ran.values())
        most, least = sum(spec.num_learners for spec in specs), sum(spec.min_learners for spec in specs)
    budget, floor = executed / 4 / most, least / most
    output = SimpleNamespace(logits=torch.cat(outputs))
    expected = task.loss(output, INPUTS, teacher(**IMAGES), None)
    expected = expected + (budget - floor - (1 - floor) * table.shares.mean()) ** 2
    torch.testing.assert_close(loss.budget, torch.tensor(budget))
    torch.testing.assert_close(loss.value, expected, rtol=1e-4, atol=1e-5)


def test_gates_learn_faster_than_the_rest_only_for_one_budget(pair: Any) -> None:
    teacher, student, _ = pair
    factors = {}
    for budget in (None, 0.4):
        phase = WholePhase(student, teacher, interface(teacher), Classification(5), {}, budget, ThresholdTable())
        (_, rest), (gates, factor) = phase.parameter_groups()
        assert {id(p) for p in gates} == {id(p) for _, layer in acm_layers(student) for p in layer.gate.parameters()}
        factors[budget] = factor / rest
    assert factors[None] == 1
    assert factors[0.4] > 1


def test_a_layer_that_is_not_finite_is_named(pair: Any) -> None:
    teacher, student, sites = pair
    with torch.no_grad():
        student.get_submodule(sites[1].place).w2[0, 0] = float("nan")
    costs = {site.place: 1.0 for site in sites}
    loss = WholePhase(student, teacher, interface(teacher), Classification(5), costs, None, ThresholdTable())(INPUTS)
    assert not bool(loss.finite_checks().isfinite().all())
    assert loss.broken_layer() == sites[1].place


def test_imitation_needs_no_labels(pair: Any) -> None:
    teacher, student, sites = pair
    costs = {site.place: 1.0 for site in sites}
    loss = WholePhase(student, teacher, interface(teacher), Imitation(("logits",)), costs, None, ThresholdTable())(
        IMAGES
    )
    assert float(loss.value.detach()) > 0
