"""What is observed of the float file: padding left out, tokens spread over the data, several budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
import transformers
from exported_files import session
from onnx import TensorProto, numpy_helper
from tiny_families import install_sites, interface, sites_of
from tiny_models import randomize

import acm_export as acm
from acm_export.data.batches import Batch
from acm_export.data.token_masks import TokenMasks
from acm_export.exporter import export
from acm_export.modules import ACMSpec
from acm_export.quantization.dial import DialSetting, dial_settings
from acm_export.quantization.session import ObservingSession
from acm_export.quantization.statistics import SAMPLED_TOKENS, Statistics
from acm_export.surgery.examples import example_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.data.batches import Arrays

LAYER = "encoder.layer.0.intermediate"
WIDTH, LENGTH, VOCABULARY = 64, 12, 80


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of width 64 with one ACM layer. Read-only."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=64,
    )
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    install_sites(model, {site: ACMSpec(WIDTH, 4, 32) for site in sites_of(model)})
    randomize(model)
    path = tmp_path_factory.mktemp("bert") / "m.onnx"
    how = interface(model)
    inputs = example_inputs(how)
    export(model, inputs, path, verify=False, dynamic_shapes=how.dynamic_axes(), output_fields=how.outputs)
    return path


def samples(padding: int, count: int = 30) -> Arrays:
    """Sentences of 4 to 12 tokens; ``padding`` is the id of the tokens after them."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, LENGTH + 1, count)
    mask = np.arange(LENGTH) < lengths[:, None]
    ids = np.where(mask, rng.integers(1, VOCABULARY, (count, LENGTH)), padding)
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": np.zeros_like(ids)}


def test_padding_sets_no_scale(bert: Path, tmp_path: Path) -> None:
    weights = []
    for padding in (0, 77):
        path = tmp_path / f"{padding}.onnx"
        acm.quantize(bert, path, data=samples(padding))
        tensors = onnx.load(path).graph.initializer
        weights.append({t.name: numpy_helper.to_array(t) for t in tensors})

    assert weights[0].keys() == weights[1].keys()
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_embeddings_are_stored_in_int8_if_asked_for(bert: Path, tmp_path: Path) -> None:
    data = samples(0)
    results = [acm.quantize(bert, tmp_path / f"{e}.onnx", data=data, embeddings=e) for e in (False, True)]

    tables = ("embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight")
    quantization = results[1].manifest.quantization
    assert quantization is not None
    assert quantization.embeddings == tables
    assert results[0].manifest.quantization is not None
    assert results[0].manifest.quantization.embeddings == ()
    types = {t.name: t.data_type for t in onnx.load(tmp_path / "True.onnx").graph.initializer}
    assert {types[name] for name in tables} == {TensorProto.INT8}
    assert results[1].comparisons[0].cosine > 0.999
    with pytest.raises(acm.UsageError, match=f"the model takes 0 to {VOCABULARY - 1}"):
        acm.calibrate(
            tmp_path / "True.onnx", data | {"input_ids": data["input_ids"] + VOCABULARY}, [], tmp_path / "c.onnx"
        )


def test_every_token_counts_for_the_largest_values_and_a_spread_of_them_is_kept(bert: Path) -> None:
    model = onnx.load(bert)
    node = next(n for n in model.graph.node if n.name == LAYER)
    x = node.input[0]
    observing = ObservingSession(bert, (x,))
    settings = dial_settings(observing.manifest, {LAYER: np.zeros(4, np.float32)})
    data = samples(0, 400)
    statistics = Statistics({x: [LAYER]}, {x: [LAYER]}, settings)
    batches = [Batch({n: a[start : start + 40] for n, a in data.items()}) for start in range(0, 400, 40)]
    statistics.collect(observing, batches, len(batches), lambda: None)
    seen = statistics.of(x, LAYER)

    model.graph.output.append(onnx.helper.make_tensor_value_info(x, TensorProto.FLOAT, None))
    values = session(model.SerializeToString()).run([x], data)[0][data["attention_mask"].astype(bool)]
    assert seen.largest == pytest.approx(np.abs(values).max(0), rel=1e-5)
    assert SAMPLED_TOKENS <= len(seen.sample) <= SAMPLED_TOKENS + 2 * len(batches)
    assert seen.counts is not None
    assert len(seen.counts) == len(seen.sample)
    assert np.mean(seen.counts == 4) > 0.5  # every second run has all learners
    assert len(set(seen.counts)) > 2
    assert abs(seen.sample.mean(0) - values.mean(0)).max() < 0.2


def test_batches_are_split_where_the_tensors_would_not_fit(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = next(n for n in onnx.load(bert).graph.node if n.name == LAYER)
    x = node.input[0]
    observing = ObservingSession(bert, (x,))
    settings = dial_settings(observing.manifest, {LAYER: np.zeros(4, np.float32)})
    statistics = Statistics({x: [LAYER]}, {x: [LAYER]}, settings)
    one = Batch(samples(0, 1))
    assert statistics.batch_size(observing, one, 32) == 32
    monkeypatch.setattr("acm_export.quantization.statistics._BATCH_BYTES", 5 * 4 * LENGTH * WIDTH)
    assert statistics.batch_size(observing, one, 32) == 5
    monkeypatch.setattr("acm_export.quantization.statistics._BATCH_BYTES", 10)
    assert statistics.batch_size(observing, one, 32) == 1


class Positions:
    """A session whose tensor ``x`` has the position of each token as its only value, from 1."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def run(self, feeds: Arrays, *_: object) -> tuple[Arrays, TokenMasks]:
        """Return ``x`` ``[batch, tokens, 1]``."""
        batch = len(feeds["input"])
        return {"x": np.tile(np.arange(1, self.tokens + 1, dtype=np.float32), (batch, 1))[..., None]}, TokenMasks({})


@pytest.mark.parametrize("tokens", [16, 17, 32, 197])
@pytest.mark.parametrize("batch", [1, 32])
def test_the_sample_has_tokens_of_every_position(tokens: int, batch: int) -> None:
    """A regular step through the tokens of a batch would meet a few positions only, such as the class token."""
    statistics = Statistics({"x": ["layer"]}, {}, [DialSetting("dense", np.empty(0, np.float32))])
    batches = [Batch({"input": np.zeros(batch)})] * (256 // batch)

    statistics.collect(Positions(tokens), batches, len(batches), lambda: None)

    positions, times = np.unique(statistics.of("x").sample, return_counts=True)
    assert len(positions) == min(tokens, len(positions)) > 0.95 * tokens
    assert times.max() < 6 * max(1024 / tokens, 2)
