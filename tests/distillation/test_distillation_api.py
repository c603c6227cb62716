"""``acmize`` and ``plan_acmize`` as Python functions."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest
import torch
from distillation_runs import vit

from acm_export.base.errors import UsageError
from acm_export.checkpoints import load_checkpoint
from acm_export.cli.acmize import acmize as verb
from acm_export.distillation.acmize import acmize, plan_acmize
from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("_no_collection")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return vit(tmp_path)


def test_the_function_trains_and_writes_a_checkpoint(folder: Path) -> None:
    result = acmize(
        str(folder / "dense"), str(folder / "data.npz"), str(folder / "acm"), learners=3, steps=(2, 1, 1), batch=8
    )
    assert result.output == folder / "acm"
    assert result.curve.samples == 8  # a fifth of 40
    assert len(dict(acm_layers(load_checkpoint(result.output).model))) == len(result.plan.replacements) == 2


def test_the_plan_needs_no_data(folder: Path) -> None:
    plan = plan_acmize(folder / "dense", sites="ffn,q_proj", learners=3)
    assert [item.spec.num_learners for item in plan.replacements] == [3] * 4
    assert [path.name for path in folder.iterdir() if path.name not in ("dense", "data.npz")] == []


def test_wrong_arguments_are_errors_of_acm_export(folder: Path) -> None:
    with pytest.raises(UsageError, match="the steps are"):
        acmize(folder / "dense", folder / "data.npz", folder / "acm", steps=(1, 2, -3))
    with pytest.raises(UsageError, match="is also an input"):
        acmize(folder / "dense", folder / "data.npz", folder / "dense")
    with pytest.raises(UsageError, match="there is no folder"):
        plan_acmize(folder / "missing")


def test_the_verb_and_the_function_have_the_same_options_and_defaults() -> None:
    parsed = verb.make_context("acmize", ["model", "--data", "data", "-o", "out"]).params
    parameters = inspect.signature(acmize).parameters
    common = {"as_json", "debug", "quiet", "verbose", "dry_run"}
    assert parsed.keys() - common == parameters.keys() - {"progress", "loss"}
    for name, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty and name not in ("progress", "loss", "output"):
            assert parsed[name] == parameter.default, name
