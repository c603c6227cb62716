"""From a packed file to numbers: the core's launches, replayed by the interpreter on the bytes of packed tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from kernel_int8 import exact_int8_inputs, exact_y
from kernel_processes import interpreted
from op_model import logits_of
from plugin_cases import QuantizedCase, QuantizedGluCase
from plugin_packed import packed
from plugin_replay import replay

from acm_export.op.quantized_signature import QuantizedSignature
from acm_export.op.routing import learner_counts

if TYPE_CHECKING:
    from plugin_core import Core, Driver

pytest_plugins = ["plugin_fixtures"]

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.mark.parametrize(
    "case",
    [
        QuantizedCase(leading=(3, 4), model_dim=64, hidden_dim=48, num_learners=3, activation="relu"),
        QuantizedCase(leading=(40,), model_dim=50, hidden_dim=37, num_learners=3, min_learners=1, activation="relu"),
        QuantizedCase(leading=(90,), model_dim=80, hidden_dim=32, activation="identity", dtype="bfloat16"),
        QuantizedCase(leading=(7,), model_dim=33, hidden_dim=5, num_learners=1, activation="identity", dtype="float32"),
        QuantizedGluCase(leading=(3, 4), model_dim=64, hidden_dim=48, num_learners=3, activation="relu"),
        QuantizedGluCase(leading=(90,), model_dim=33, hidden_dim=21, num_learners=2, activation="identity"),
    ],
    ids=str,
)
def test_the_launches_compute_the_operator_from_packed_weights(core: Core, driver: Driver, case: QuantizedCase) -> None:
    signature = QuantizedSignature(case.num_learners, case.min_learners, case.activation, glu=case.glu)
    sizes, rng = (case.leading, case.model_dim, case.hidden_dim), np.random.default_rng(0)
    feeds = exact_int8_inputs(rng, *sizes, signature, DTYPES[case.dtype])
    tokens = np.arange(case.problem.tokens)
    levels = case.min_learners + tokens * 7 % (case.num_learners - case.min_learners + 1)
    feeds["gate_logits"] = logits_of(levels, signature).reshape(*case.leading, -1)
    layer = core.layer(case)
    assert layer.enqueue(case.tensors()), core.error
    space = {"y": feeds["x"].nbytes, "counts": 4 * len(tokens), "workspace": layer.workspace(case.tensors())}

    memory = interpreted(replay, driver.launches(), packed(feeds), space, case.dtype)

    counts = learner_counts(feeds["gate_logits"], feeds["thresholds"], case.min_learners)
    assert counts.reshape(-1).tolist() == levels.tolist()
    np.testing.assert_array_equal(np.frombuffer(memory["counts"], np.int32), levels)
    y = np.frombuffer(memory["y"], DTYPES[case.dtype]).reshape(feeds["x"].shape)
    np.testing.assert_array_equal(y.astype(np.float64), exact_y(feeds, signature).astype(np.float64))
