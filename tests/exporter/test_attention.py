"""Attention exports in the form that ONNX Runtime fuses, and the model is unchanged afterwards."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
import torch

from acm_export.checkpoints import load_checkpoint
from acm_export.demo.digits import DENSE
from acm_export.exporter import export
from acm_export.exporter.attention import plain_attention

if TYPE_CHECKING:
    from pathlib import Path

optimizer = pytest.importorskip("onnxruntime.transformers.optimizer", reason="ONNX Runtime's offline optimizer")


def test_onnx_runtime_fuses_every_attention_and_ffn_of_the_dense_model(tmp_path: Path) -> None:
    export(load_checkpoint(DENSE), output=tmp_path / "m.onnx", verify=False)
    fused = optimizer.optimize_model(
        str(tmp_path / "m.onnx"), model_type="vit", num_heads=4, hidden_size=48, opt_level=0
    )
    count = Counter(node.op_type for node in fused.model.graph.node)
    assert count["Attention"] == 3
    assert count["BiasGelu"] == 3
    assert count["SkipLayerNormalization"] == 6
    assert count["Softmax"] == 0


def test_plain_attention_computes_the_same_and_is_undone() -> None:
    model = load_checkpoint(DENSE).model
    images = torch.randn(2, 3, 32, 32)
    before = model.config._attn_implementation
    with torch.no_grad():
        expected = model(pixel_values=images).logits
        with plain_attention(model):
            assert model.config._attn_implementation != before
            plain = model(pixel_values=images).logits
    assert model.config._attn_implementation == before
    torch.testing.assert_close(plain, expected, atol=1e-4, rtol=0)
