"""Padding masks of transformers models reach the exported file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from tiny_models import randomize
from torch import nn
from transformers import BertConfig, BertModel

from acm_export.exporter import export
from acm_export.modules import ACMLayer, ACMSpec
from acm_export.runtimes.onnx_runtime import CpuSession

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_masked_tokens_do_not_reach_the_others(tmp_path: Path, implementation: str) -> None:
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
        attn_implementation=implementation,
    )
    torch.manual_seed(0)
    model = BertModel(config, add_pooling_layer=False).eval()
    for layer in model.encoder.layer:
        layer.intermediate, layer.output.dense = ACMLayer(ACMSpec(16, 4, 8, min_learners=1)), nn.Identity()
    randomize(model)
    ids = torch.randint(20, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]])
    path = tmp_path / "m.onnx"
    export(model, {"input_ids": ids, "attention_mask": mask}, path)  # verifies
    session = CpuSession(onnx.load(path), tmp_path)
    other = torch.where(mask.bool(), ids, (ids + 7) % 20)
    valid = mask.bool().numpy()
    first, second = (
        next(iter(session.run({"input_ids": i.numpy(), "attention_mask": mask.numpy()}).values()))[valid]
        for i in (ids, other)
    )
    assert np.abs(first - second).max() <= 1e-5 * np.abs(first).max()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()[valid]
    assert np.abs(first - expected).max() <= 1e-5 * np.abs(expected).max()
