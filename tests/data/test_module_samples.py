"""Samples for any module: which inputs they have, and their shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from acm_export.base.errors import UsageError
from acm_export.data.module_samples import module_samples
from acm_export.data.open_data import open_data

if TYPE_CHECKING:
    from pathlib import Path

PARAMETERS, REQUIRED = ["x", "scale"], ["x"]
X = np.arange(24.0).reshape(4, 3, 2)


class Pairs:
    """A map-style dataset of PyTorch: tensor and class."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor(X[index]), index % 2


def read(data: Any, tmp_path: Path) -> list[dict[str, np.ndarray]]:
    content, inputs = module_samples(data, PARAMETERS, REQUIRED)
    dataset = open_data(content, inputs, model_folder=tmp_path)
    return [dataset[index] for index in range(len(dataset))]


@pytest.mark.parametrize(
    "data",
    [
        {"x": X, "labels": np.arange(4) % 2},
        {"x": torch.tensor(X), "labels": torch.arange(4) % 2},
        [{"x": row, "labels": index % 2} for index, row in enumerate(X)],
        Pairs(),
        [(row, index % 2) for index, row in enumerate(X)],
        ((row, index % 2) for index, row in enumerate(X)),
    ],
    ids=["arrays", "tensors", "mappings", "a dataset", "tuples", "a generator"],
)
def test_every_form_gives_the_same_samples(data: Any, tmp_path: Path) -> None:
    found = read(data, tmp_path)
    for index, sample in enumerate(found):
        np.testing.assert_array_equal(sample["x"], X[index].astype(np.float32))
        assert sample["x"].dtype == np.float32
        assert int(sample["labels"]) == index % 2
    assert len(found) == 4


def test_a_file_of_arrays_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, other=X)
    assert [list(sample) for sample in read(tmp_path / "data.npz", tmp_path)] == [["x"]] * 4


def test_dimensions_in_which_samples_differ_are_dynamic() -> None:
    samples = [{"x": np.zeros((length, 2)), "scale": np.ones(3, np.int32)} for length in (3, 5, 3)]
    _, inputs = module_samples(samples, PARAMETERS, REQUIRED)
    assert [(value.name, value.shape, value.dtype) for value in inputs] == [
        ("x", ("batch", "x_1", 2), np.float32),
        ("scale", ("batch", 3), np.int64),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"y": X}, "the samples have y; forward needs x"),
        ({"scale": X}, "the samples have scale; forward needs x"),
        ([], "the data has no samples"),
        ({"x": X[:0]}, "the data has no samples"),
        ([(X[0], 1, 2)], "has 3 values; forward takes x"),
        (3, "the data is int; expected samples"),
        ("missing.npz", "there is no file missing.npz"),
    ],
)
def test_other_data_are_errors(data: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        module_samples(data, PARAMETERS, REQUIRED)
