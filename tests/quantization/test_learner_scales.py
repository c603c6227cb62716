"""int8 learners against the float reference of the operator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from acm_export.op import ACTIVATIONS, QuantizedSignature, Signature
from acm_export.op.quantized_reference import quantized_gated_learners
from acm_export.op.reference import gated_learners
from acm_export.op.routing import learner_counts
from acm_export.quantization.float_learners import FloatLearners
from acm_export.quantization.learner_scales import LayerResult, dynamic_learners, static_learners
from acm_export.quantization.observed import Observed
from acm_export.quantization.options import Options

D, H = 24, 10
STATIC, DYNAMIC = Options(), Options("dynamic")


class Case:
    """A random layer, its tokens, and their gate logits."""

    def __init__(self, signature: Signature, seed: int = 0, *, tokens: int = 200, outlier: float = 20.0) -> None:
        rng = np.random.default_rng(seed)
        n = signature.num_learners
        self.signature = signature
        self.x = rng.standard_normal((tokens, D)).astype(np.float32)
        self.x[:, 3] *= outlier
        self.weights = FloatLearners(
            (rng.standard_normal((D, n * H)) * D**-0.5).astype(np.float32),
            rng.standard_normal(n * H).astype(np.float32) * np.float32(0.3),
            (rng.standard_normal((n * H, D)) * H**-0.5).astype(np.float32),
            rng.standard_normal((n + 1, D)).astype(np.float32),
        )
        if signature.glu:
            v1 = (rng.standard_normal((D, n * H)) * D**-0.5).astype(np.float32)
            v1[3] /= outlier
            self.weights = replace(self.weights, v1=v1, c1=rng.standard_normal(n * H).astype(np.float32))
        self.weights.w1[3] /= outlier
        self.logits = rng.standard_normal((tokens, signature.num_choices)).astype(np.float32)
        self.thresholds = np.zeros(n, np.float32)

    @property
    def seen(self) -> Observed:
        counts = learner_counts(self.logits, self.thresholds, self.signature.min_learners)
        return Observed(np.abs(self.x).max(0), self.x, counts)

    def exact(self) -> np.ndarray:
        weights = vars(self.weights)
        y, _ = gated_learners(self.x, self.logits, self.thresholds, **weights, signature=self.signature)
        return np.asarray(y)

    def int8(self, result: LayerResult, dynamic: int) -> np.ndarray:
        signature = QuantizedSignature(**vars(self.signature), dynamic=dynamic)
        weights = result.learners.inputs
        y, _ = quantized_gated_learners(self.x, self.logits, self.thresholds, **weights, signature=signature)
        return y


def relative(y: np.ndarray, exact: np.ndarray) -> float:
    return float(np.square(y - exact).sum() / np.square(exact - exact.mean(0)).sum())


SIGNATURES = [
    Signature(4, 0, "gelu"),
    Signature(3, 1, "relu"),
    Signature(1, 0, "silu"),
    Signature(1, 1, "gelu_tanh"),
    Signature(3, 3, "identity"),
    Signature(4, 0, "silu", glu=True),
    Signature(3, 1, "gelu", glu=True),
    Signature(2, 2, "identity", glu=True),
]


@pytest.mark.parametrize("signature", SIGNATURES, ids=str)
@pytest.mark.parametrize("options", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_int8_learners_compute_nearly_the_same(signature: Signature, options: Options) -> None:
    case = Case(signature)
    make = dynamic_learners if options.dynamic else static_learners

    result = make(case.weights, signature, case.seen, options)

    assert relative(case.int8(result, int(options.dynamic)), case.exact()) < 2e-3


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("glu", [False, True])
def test_the_reported_error_is_that_of_the_operator(activation: str, glu: bool) -> None:
    case = Case(Signature(3, 0, activation, glu=glu))
    bias = case.weights.b2[case.seen.counts]
    exact = case.exact() - bias
    for options, make in ((STATIC, static_learners), (DYNAMIC, dynamic_learners)):
        result = make(case.weights, case.signature, case.seen, options)

        y = case.int8(result, int(options.dynamic)) - bias

        assert result.error == pytest.approx(np.square(y - exact).sum() / np.square(exact).sum(), rel=0.05)


def test_zero_points_are_folded_into_the_biases() -> None:
    """Without learners only the bias is left; with them, a bias without the folded zero points would be far off."""
    case = Case(Signature(4, 0, "gelu"))

    result = static_learners(case.weights, case.signature, case.seen, STATIC)

    assert (result.learners.h_zero != 0).all()
    assert (result.learners.b2[0] == case.weights.b2[0]).all()
    for count in range(1, 5):
        case.logits[:] = 0
        case.logits[:, count] = 1
        assert relative(case.int8(result, 0), case.exact()) < 5e-3


def test_migration_helps_with_outlier_channels() -> None:
    case = Case(Signature(2, 0, "gelu"), outlier=100.0)

    errors = [static_learners(case.weights, case.signature, case.seen, Options(migration=a)).error for a in (0, 0.8)]

    assert errors[1] < errors[0] / 10


def test_migration_evens_out_the_hidden_products_of_a_glu() -> None:
    case = Case(Signature(2, 0, "silu", glu=True), outlier=1.0)
    case.weights.v1[:, 4::H] *= 100
    case.weights.w2[4::H] /= 100

    errors = [static_learners(case.weights, case.signature, case.seen, Options(migration=a)).error for a in (0, 0.8)]

    assert errors[1] < errors[0] / 10


def test_7_bits_fit_and_cost_accuracy() -> None:
    case = Case(Signature(2, 0, "gelu"))

    seven = static_learners(case.weights, case.signature, case.seen, Options(weight_bits=7))
    eight = static_learners(case.weights, case.signature, case.seen, STATIC)

    assert np.abs(seven.learners.w1).max() == np.abs(seven.learners.w2).max() == 63
    assert np.abs(eight.learners.w1).max() == np.abs(eight.learners.w2).max() == 127
    assert eight.error < seven.error < 20 * eight.error


def test_a_learner_that_no_sampled_token_runs_gets_a_scale_from_all_tokens() -> None:
    case = Case(Signature(3, 0, "gelu"))
    seen = replace(case.seen, counts=np.minimum(case.seen.counts, 1))

    result = static_learners(case.weights, case.signature, seen, STATIC)

    case.logits[:] = [0, 0, 0, 1]
    assert relative(case.int8(result, 0), case.exact()) < 2e-3


def test_a_dead_learner_is_named_and_adds_nothing() -> None:
    case = Case(Signature(2, 0, "relu"))
    case.weights.w1[:, H:], case.weights.b1[H:] = 0, -1

    result = static_learners(case.weights, case.signature, case.seen, STATIC)

    assert result.unused == (2,)
    assert relative(case.int8(result, 0), case.exact()) < 2e-3


def test_tokens_that_run_nothing_leave_no_error() -> None:
    case = Case(Signature(2, 0, "gelu"))
    case.logits[:] = [1, 0, 0]

    result = static_learners(case.weights, case.signature, case.seen, STATIC)

    assert result.error == 0
    assert np.isfinite(case.int8(result, 0)).all()


def test_dynamic_learners_need_no_data() -> None:
    case = Case(Signature(3, 1, "gelu"), outlier=1.0)

    result = dynamic_learners(case.weights, case.signature, None, DYNAMIC)

    assert result.error is None
    assert (result.learners.x_mult == 1).all()
    assert (result.learners.h_mult == 1).all()
    assert not result.learners.h_zero.any()
    assert relative(case.int8(result, 1), case.exact()) < 2e-3
