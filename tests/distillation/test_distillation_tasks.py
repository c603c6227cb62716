"""Loss, quality and checks of each task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_families import dense_model, interface
from torch.nn import functional as F  # noqa: N812
from user_data import module

from acm_export.base.errors import UsageError
from acm_export.distillation.tasks import CTC, Classification, Imitation, UserLoss, task_for


def output(**tensors: torch.Tensor) -> Any:
    return _Output(tensors)


class _Output(dict[str, torch.Tensor]):
    """An output like those of transformers: fields by name and by key."""

    def __getattr__(self, name: str) -> torch.Tensor:
        return self[name]


def test_classification_loss_and_quality() -> None:
    task, labels = Classification(3), torch.tensor([0, 2])
    ours, theirs = output(logits=torch.randn(2, 3)), output(logits=torch.randn(2, 3))
    batch = {"labels": labels}
    cross = F.cross_entropy(ours.logits, labels)
    torch.testing.assert_close(task.loss(ours, batch, None, None), cross)
    p, q = theirs.logits.softmax(-1), ours.logits.softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(task.loss(ours, batch, theirs, None), (cross + divergence) / 2)
    sure = output(logits=torch.tensor([[9.0, 0, 0], [9.0, 0, 0]]))
    assert task.quality(sure, batch, None, None) == (1.0, 2.0)


def test_ctc_loss_matches_transformers() -> None:
    model = dense_model("wav2vec2 ctc, XLS-R")
    model.config.ctc_loss_reduction, model.config.ctc_zero_infinity = "mean", True
    inputs = {
        "input_values": torch.randn(2, 400),
        "attention_mask": (torch.arange(400) < torch.tensor([[400], [250]])).long(),
    }
    labels = torch.tensor([[1, 2, 3], [4, -100, -100]])
    with torch.no_grad():
        expected = model(**inputs, labels=labels)
        lengths = model._get_feat_extract_output_lengths(inputs["attention_mask"].sum(1))
        valid = torch.arange(expected.logits.shape[1]) < lengths.unsqueeze(1)
    found = CTC(model.config.pad_token_id, 6).loss(expected, {"labels": labels}, None, valid)
    torch.testing.assert_close(found, expected.loss)


def test_word_errors_of_the_greedy_transcript() -> None:
    frames = torch.tensor([[2, 2, 0, 3, 1, 4, 4, 9], [2, 0, 2, 0, 0, 0, 9, 9]])  # AB|C and AA, with blanks
    logits = F.one_hot(frames.clamp(max=5), 6).float()
    valid = torch.arange(8) < torch.tensor([[7], [6]])
    batch = {"labels": torch.tensor([[2, 3, 1, 4], [2, 3, -100, -100]])}
    assert CTC(0, 6, space=1).quality(output(logits=logits), batch, None, valid) == (2.0, 3.0)
    assert CTC(0, 6).quality(output(logits=logits), batch, None, valid) == (5.0, 6.0)


def test_features_are_compared_by_cosine_without_padding() -> None:
    task = Imitation(("last_hidden_state",))
    a, b = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    valid = torch.tensor([[True, True, False, False], [True] * 4])
    moved = a.clone()
    moved[0, 2:] = 100.0
    ours, same = output(last_hidden_state=moved), output(last_hidden_state=a)
    assert float(task.loss(ours, {}, same, valid)) == pytest.approx(0, abs=1e-5)
    assert task.quality(ours, {}, same, valid)[0] == pytest.approx(2)
    theirs = output(last_hidden_state=b)
    pooled = [
        F.cosine_similarity(a[0, :2].mean(0), b[0, :2].mean(0), 0),
        F.cosine_similarity(a[1].mean(0), b[1].mean(0), 0),
    ]
    assert task.quality(same, {}, theirs, valid)[0] == pytest.approx(float(sum(pooled)), abs=1e-5)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (Classification(3), torch.tensor([0, 3]), "label 3 is out of range: the model has 3"),
        (Classification(3), torch.tensor([0, -100]), "label -100"),
        (Classification(3), torch.tensor([0.5]), "the number of one class"),
        (CTC(0, 6), torch.tensor([[1, 6]]), "label 6"),
        (CTC(0, 6), torch.tensor([[1, -1]]), "label -1"),
        (CTC(0, 6), torch.tensor([1, 2]), "one sequence per sample"),
    ],
)
def test_labels_out_of_range_are_named(task: Any, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task.check({"labels": labels})


def test_architectures_have_their_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, loss=lambda *_: torch.tensor(2.0), wrong=lambda *_: 2.0)
    names = {"vit": "classification", "bert": "distil", "bert sequences": "classification", "wav2vec2 ctc": "ctc"}
    for name, task in names.items():
        model = dense_model(name)
        how = interface(model)
        assert task_for(model, how, None, {}).name == task
        assert task_for(model, how, "distil", {}).name == "distil"
    vit = dense_model("vit")
    with pytest.raises(UsageError, match="'ctc' is not a task of ViTForImageClassification"):
        task_for(vit, interface(vit), "ctc", {})
    mine = task_for(vit, interface(vit), "mine_for_tests:loss", {})
    assert mine.quality(None, {"x": torch.zeros(3)}, None, None) == (-6.0, 3.0)
    with pytest.raises(UsageError, match="returned float"):
        UserLoss("mine_for_tests:wrong").loss(None, {}, None, None)
