"""The arithmetic of a verification, with given values."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acm_export.base.errors import UsageError
from acm_export.onnx_file.manifest import LayerEntry
from acm_export.op.routing import learner_counts, margins
from acm_export.report.verification import verification_table
from acm_export.verification.compare import _error, _routing, executed_budget
from acm_export.verification.report import (
    MARGIN_TOLERANCE,
    OUTPUT_TOLERANCE,
    Disagreement,
    LayerRouting,
    SettingResult,
    VerificationReport,
    check_atol,
)
from acm_export.verification.settings import choose_settings

INF, NAN = float("inf"), float("nan")
ENTRY = LayerEntry("l", 6, 3, 5, 0, "gelu", 120, 48, 4)


def scripted(max_abs: float = 0.0, scale: float = 1.0, layers: tuple[LayerRouting, ...] = ()) -> SettingResult:
    return SettingResult("τ = 0", 0.5, max_abs, max_abs / 2, scale, layers)


def report_of(*settings: SettingResult, dtype: str = "fp32", atol: float | None = None) -> VerificationReport:
    return VerificationReport(settings, dtype, atol, "scripted")


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_an_error_is_relative_to_the_largest_value_of_the_reference(dtype: str) -> None:
    tolerance = OUTPUT_TOLERANCE[dtype]
    assert report_of(scripted(tolerance * 5, 5), dtype=dtype).passed
    failing = report_of(scripted(0.0), scripted(tolerance * 5.1, 5), dtype=dtype)
    assert not failing.passed
    assert f"{tolerance * 5.1:.3g}" in str(failing.failure)
    assert f"{tolerance * 5:.3g}" in str(failing.failure)


def test_an_absolute_tolerance_replaces_the_relative_one() -> None:
    assert report_of(scripted(0.5, 1000), atol=0.5).passed
    assert not report_of(scripted(0.5, 1e9), atol=0.4).passed
    assert not report_of(scripted(1e-9, 1), atol=0.0).passed
    assert not report_of(scripted(1e-9, 1), atol=NAN).passed


@pytest.mark.parametrize("error", [NAN, INF])
def test_a_nan_error_fails_and_is_null_in_json(error: float) -> None:
    report = report_of(scripted(error), atol=1e9)
    assert not report.passed
    assert report.to_json()["settings"][0]["max_abs_error"] is None


def test_a_reference_of_zeros_allows_no_error() -> None:
    assert report_of(scripted(0.0, 0.0)).passed
    assert not report_of(scripted(1e-12, 0.0)).passed
    assert scripted(2.0, 0.0).relative == 2.0


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_routing_may_differ_only_close_to_the_threshold(dtype: str) -> None:
    allowed = MARGIN_TOLERANCE[dtype] * 2.0
    near = LayerRouting("vit.mlp", 100, 3, allowed * 0.99, 2.0, 0.5)
    far = LayerRouting("vit.mlp", 100, 3, allowed * 1.01, 2.0, 0.5)
    assert report_of(scripted(layers=(near,)), dtype=dtype).passed
    failure = str(report_of(scripted(layers=(near, far)), dtype=dtype).failure)
    for part in ("vit.mlp", "3 of 100", f"{far.farthest:.3g}", f"{allowed:.3g}"):
        assert part in failure
    for farthest in (INF, NAN):
        assert not report_of(scripted(layers=(LayerRouting("l", 9, 1, farthest, 2.0, 0.5),)), dtype=dtype).passed


def test_without_disagreements_the_spread_does_not_matter() -> None:
    assert report_of(scripted(layers=(LayerRouting("l", 9, 0, 0.0, 0.0, 0.5),))).passed
    assert not report_of(scripted(layers=(LayerRouting("l", 9, 1, 0.1, 0.0, 0.5),))).passed


def test_json_contains_everything_in_the_table() -> None:
    examples = (Disagreement(0.25, 0.5, 1, 2), Disagreement(NAN, INF, 3, 0))
    routing = LayerRouting("l", 9, 2, 1e-5, 2.0, 0.5, examples)
    content = report_of(scripted(1e-6, 2.0, (routing,))).to_json()
    assert (content["passed"], content["failure"], content["dtype"]) == (True, None, "fp32")
    (setting,) = content["settings"]
    assert (setting["max_abs_error"], setting["mean_abs_error"], setting["relative_error"]) == (1e-6, 5e-7, 5e-7)
    assert setting["tolerance"] == pytest.approx(2e-4)
    assert setting["layers"] == [
        {
            "name": "l",
            "tokens": 9,
            "disagreements": 2,
            "farthest": 1e-5,
            "spread": 2.0,
            "mean_share": 0.5,
            "examples": [
                {"margin": 0.25, "threshold": 0.5, "file_count": 1, "model_count": 2},
                {"margin": None, "threshold": None, "file_count": 3, "model_count": 0},
            ],
        }
    ]


@pytest.mark.parametrize(
    ("margins", "count", "said"),
    [
        ([0.25], 1, "1, margin within 0.5 of τ, at 0.25"),
        ([0.25, -1.5, NAN], 3, "3, margin within 0.5 of τ, at -1.5 to 0.25"),
        ([0.25, -1.5], 9, "9, margin within 0.5 of τ, the 2 farthest at -1.5 to 0.25"),
        ([NAN], 1, "1, margin within 0.5 of τ"),
    ],
)
def test_the_table_says_at_which_margins_tokens_were_routed_differently(
    margins: list[float], count: int, said: str
) -> None:
    examples = tuple(Disagreement(m, 0.0, 0, 1) for m in margins)
    table = verification_table(report_of(scripted(layers=(LayerRouting("l", 9, count, 0.5, 2.0, 0.5, examples),))))
    assert list(table.columns[-1].cells)[-1] == said.replace("0.5 of", "5.0e-01 of")


@pytest.mark.parametrize("atol", [NAN, -1.0, -INF])
def test_an_invalid_tolerance_is_refused(atol: float) -> None:
    with pytest.raises(UsageError, match="atol is") as refused:
        check_atol(atol)
    assert refused.value.exit_code == 2
    for accepted in (None, 0.0, 1e-3, INF):
        check_atol(accepted)


def test_equal_infinities_and_nans_agree_and_others_do_not() -> None:
    output = np.array([1, INF, NAN, INF, NAN, 0, -INF], np.float32)
    reference = np.array([1.5, INF, NAN, -INF, 0, NAN, 0], np.float32)
    error = _error(output, reference)
    assert error[:3].tolist() == [0.5, 0, 0]
    assert not np.isfinite(error[3:]).any()


def test_the_budget_weights_layers_by_their_learner_flops() -> None:
    big = LayerEntry("big", 6, 2, 5, 0, "gelu", 360, 0, 1)
    counts = {"l": np.array([3, 0]), "big": np.array([[2, 1]])}
    assert executed_budget((ENTRY, big), counts) == (3 * 120 + 3 * 360) / (6 * 120 + 4 * 360)
    assert executed_budget((), {}) == 1.0


@pytest.mark.parametrize(
    ("ran", "logits", "disagreements", "farthest"),
    [
        ([1, 3], [[0, 1, 0, 0], [0, 0, 0, 1]], 0, 0.0),
        ([0, 3], [[0, 0.25, 0, 0], [0, 0, 0, 1]], 1, 0.25),  # the first learner: 0.25 above its threshold
        ([2, 3], [[0, 1, 0, 0], [0, 0, 0, 1]], 1, 1.0),  # the second: 1 below
        ([3, 0], [[0, 0, 0, NAN], [0, 0, 0, 1]], 2, INF),  # NaN should have run nothing
        ([0], [[0, 0, INF, 0]], 1, INF),
    ],
)
def test_a_disagreement_has_the_margin_of_the_first_learner_that_differs(
    ran: list[int], logits: list[list[float]], disagreements: int, farthest: float
) -> None:
    routing = _routing(ENTRY, np.array(ran, np.int32), np.array(logits, np.float32), np.zeros(3, np.float32))
    assert (routing.tokens, routing.disagreements, routing.farthest) == (len(ran), disagreements, farthest)
    assert np.isfinite(routing.spread)


def test_the_disagreements_farthest_from_their_thresholds_are_listed() -> None:
    logits = np.zeros((30, 4), np.float32)
    logits[:, 1] = -np.arange(1, 31)
    logits[:, 2:] = -100
    thresholds = np.array([-0.5, 7, 7], np.float32)
    routing = _routing(ENTRY, np.full(30, 2, np.int32), logits, thresholds)
    assert routing.disagreements == 30
    first = routing.examples[0]
    assert (first.margin, first.threshold, first.file_count, first.model_count) == (-30, -0.5, 2, 0)
    assert [e.margin for e in routing.examples] == [-float(m) for m in range(30, 10, -1)]
    assert routing.farthest == abs(first.margin - first.threshold)


def test_disagreements_count_from_the_learners_that_always_run() -> None:
    entry = LayerEntry("l", 6, 3, 5, 1, "gelu", 120, 48, 4)
    logits = np.array([[0, 0.5, 0]], np.float32)
    routing = _routing(entry, np.array([1], np.int32), logits, np.array([NAN, 0, 0], np.float32))
    assert (routing.disagreements, routing.farthest) == (1, 0.5)


def shares(entries: tuple[LayerEntry, ...], logits: dict[str, Any]) -> list[float]:
    return [
        executed_budget(
            entries, {e.name: learner_counts(logits[e.name], s.thresholds[e.name], e.min_learners) for e in entries}
        )
        for s in choose_settings(entries, {name: margins(z) for name, z in logits.items()})
    ]


@given(st.integers(0, 2**32), st.floats(-4, 4), st.sampled_from([0, 1, 2]))
def test_three_settings_give_clearly_different_budgets(seed: int, shift: float, minimum: int) -> None:
    entry = LayerEntry("l", 6, 3, 5, minimum, "gelu", 120, 48, 4)
    logits = np.random.default_rng(seed).standard_normal((200, 4 - minimum)).astype(np.float32)
    logits += np.arange(4 - minimum, dtype=np.float32) * np.float32(shift)
    found = shares((entry,), {"l": logits})
    assert len(found) == 3
    spread = sorted(found)
    assert min(b - a for a, b in itertools.pairwise(spread)) > 0.1 * (3 - minimum) / 3


@pytest.mark.parametrize("kind", ["ties", "one token", "nan", "infinite", "none"])
def test_constant_margins_give_settings_with_no_learners_and_all_learners(kind: str) -> None:
    logits = {
        "ties": np.zeros((5, 4)),
        "one token": np.array([[0.0, 0, 0, 1]]),
        "nan": np.full((5, 4), NAN),
        "infinite": np.array([[INF, 0, 0, 0], [0, 0, 0, INF]]),
        "none": np.zeros((0, 4)),
    }[kind].astype(np.float32)
    settings = choose_settings((ENTRY,), {"l": margins(logits)})
    assert settings[0].thresholds["l"].tolist() == [0, 0, 0]
    assert len(settings) == 3
    sample = np.array([[0, 0.5, 0.2, 0.1]], np.float32)
    counts = {int(learner_counts(sample, s.thresholds["l"], 0)[0]) for s in settings[1:]}
    assert counts == {0, 3}


def test_layers_that_always_run_all_learners_need_one_setting() -> None:
    entry = LayerEntry("l", 6, 3, 5, 3, "gelu", 120, 48, 4)
    assert len(choose_settings((entry,), {"l": np.empty((5, 0), np.float32)})) == 1
    assert len(choose_settings((), {})) == 1
