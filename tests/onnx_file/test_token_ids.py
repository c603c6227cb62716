"""Token ids are checked against the embedding that they index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, parser

from acm_export.base.errors import UsageError
from acm_export.onnx_file.token_ids import check_token_ids, embedding_sizes
from acm_export.runtimes.onnx_runtime import CpuSession

HEADER = '<ir_version: 10, opset_import: ["": 20]>'
MODEL = f"""{HEADER} g (int64[b, n] input_ids, int64[b, n] kinds, int64[b, n] mask) => (float[b, n, 2] y) <
    float[4, 2] words = {{1, 2, 3, 4, 5, 6, 7, 8}}, float[2, 2] types = {{1, 2, 3, 4}}, int64[1] axis = {{2}}
> {{
    ids = Identity (input_ids)
    w = Gather (words, ids)
    k = Cast <to = 6> (kinds)
    t = Gather (types, k)
    f = Cast <to = 1> (mask)
    m = Unsqueeze (f, axis)
    sum = Add (w, t)
    y = Mul (sum, m)
}}"""


def model() -> ModelProto:
    return parser.parse_model(MODEL)


def feeds(ids: Any = ((0, 3),), kinds: Any = ((1, 0),)) -> dict[str, np.ndarray[Any, Any]]:
    return {"input_ids": np.array(ids), "kinds": np.array(kinds), "mask": np.ones((1, 2), np.int64)}


def test_each_input_that_indexes_an_embedding_has_its_size() -> None:
    assert embedding_sizes(model()) == {"input_ids": 4, "kinds": 2}


def test_ids_in_range_run() -> None:
    check_token_ids(embedding_sizes(model()), feeds())
    ran = CpuSession(model(), Path()).run(feeds())
    assert ran["y"].shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("fed", "message", "hint"),
    [
        (feeds(ids=[[0, 4]]), "input_ids has ids from 0 to 4, but its embedding has 4 rows", "0..3"),
        (feeds(kinds=[[9, 0]]), "kinds has ids from 0 to 9, but its embedding has 2 rows", "0..1"),
        (feeds(ids=[[-9, 1]]), "input_ids has ids from -9 to 1, but its embedding has 4 rows", "0..3"),
    ],
)
def test_ids_out_of_range_name_the_input_their_range_and_the_embedding(
    fed: dict[str, np.ndarray[Any, Any]], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_token_ids(embedding_sizes(model()), fed)
    with pytest.raises(UsageError, match=message) as refused:
        CpuSession(model(), Path()).run(fed)
    assert hint in str(refused.value.hint)


def test_other_failures_show_the_inputs() -> None:
    fed = feeds() | {"mask": np.ones((1, 3), np.int64)}
    with pytest.raises(UsageError, match="the model does not run on the data") as refused:
        CpuSession(model(), Path()).run(fed)
    assert "input_ids int64 [1, 2] from 0 to 3" in str(refused.value.hint)
