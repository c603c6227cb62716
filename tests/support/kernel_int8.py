"""Inputs of the int8 operator, runs of its kernels in the process that interprets, and checks of every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import ml_dtypes
import numpy as np
from kernel_runs import SMALL_BLOCKS, array, telltale_memory, tensor

from acm_export.op.quantized_reference import hidden_inputs, quantize_tokens
from acm_export.op.reference import activate
from acm_export.op.routing import learner_counts

if TYPE_CHECKING:
    from acm_export.op.quantized_signature import QuantizedSignature
    from acm_export.plugins.kernels.tiles import Entry

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

ACTIVATION_ERROR = 3e-5
"""Largest error of an activation in the kernels, which the tests of activations verify."""

TANH_ERROR = 2.0**-11
"""Relative error of the GPU's tanh instruction."""


def random_int8_inputs(
    rng: np.random.Generator,
    leading: tuple[int, ...],
    model_dim: int,
    hidden: int,
    signature: QuantizedSignature,
    dtype: Any = np.float32,
) -> Feeds:
    """Draw inputs by name; most values of q and of hidden values are inside their range, a few are clamped."""
    n, width = signature.num_learners, signature.num_learners * hidden
    feeds = {
        "x": rng.standard_normal((*leading, model_dim)).astype(np.float32).astype(dtype),
        "gate_logits": rng.standard_normal((*leading, signature.num_choices)).astype(np.float32),
        "thresholds": np.zeros(n, np.float32),
        "x_mult": rng.uniform(30, 60, model_dim).astype(np.float32),
        "w1": rng.integers(-127, 128, (model_dim, width)).astype(np.int8),
        "s1": (rng.uniform(0.5, 1, width) / (45 * 73 * model_dim**0.5)).astype(np.float32),
        "b1": rng.standard_normal(width).astype(np.float32),
        "h_mult": rng.uniform(30, 60, n).astype(np.float32),
        "h_zero": rng.integers(-110, 20, n).astype(np.int8),
        "w2": rng.integers(-127, 128, (width, model_dim)).astype(np.int8),
        "s2": (rng.uniform(0.5, 1, model_dim) / (45 * 73 * width**0.5)).astype(np.float32),
        "b2": rng.standard_normal((n + 1, model_dim)).astype(np.float32),
    }
    if signature.glu:
        feeds |= {
            "v1": rng.integers(-127, 128, (model_dim, width)).astype(np.int8),
            "t1": (rng.uniform(0.5, 1, width) / (45 * 73 * model_dim**0.5)).astype(np.float32),
            "c1": rng.standard_normal(width).astype(np.float32),
        }
    return {name: feeds[name] for name in signature.inputs}


def exact_int8_inputs(
    rng: np.random.Generator,
    leading: tuple[int, ...],
    model_dim: int,
    hidden: int,
    signature: QuantizedSignature,
    dtype: Any = np.float32,
) -> Feeds:
    """Draw inputs whose products lie on a grid: many are exact halves, and with relu or identity nothing is rounded.

    Every scale is a power of two, every x a multiple of 1/8 and every b1 a multiple of the scale. The products of GLU
    learners are rounded to float32 once.
    """
    feeds = random_int8_inputs(rng, leading, model_dim, hidden, signature, dtype)
    n, width = signature.num_learners, signature.num_learners * hidden
    scale = np.float32(2.0 ** -int(np.log2(model_dim**0.5 * 16)))
    glu = {
        "v1": rng.integers(-7, 8, (model_dim, width)).astype(np.int8),
        "t1": np.full(width, scale),
        "c1": scale * rng.integers(-9, 10, width).astype(np.float32),
    }
    changes = {
        "x": (rng.integers(-40, 41, (*leading, model_dim)) / np.float32(8)).astype(dtype),
        "x_mult": (2.0 ** rng.integers(1, 6, model_dim)).astype(np.float32),
        "w1": rng.integers(-7, 8, (model_dim, width)).astype(np.int8),
        "s1": np.full(width, scale),
        "b1": scale * rng.integers(-9, 10, width).astype(np.float32),
        "h_mult": (2.0 ** rng.integers(-2, 3, n)).astype(np.float32),
        "h_zero": rng.choice(np.array([-128, -127, -1, 0, 3, 127], np.int8), n),
        "s2": (2.0 ** -rng.integers(6, 13, model_dim)).astype(np.float32),
    }
    return feeds | changes | (glu if signature.glu else {})


@dataclass(frozen=True)
class Steps:
    """Outputs, and what the kernels left in the workspace.

    Args:
        y: T ``[..., D]``.
        counts: int32 ``[...]``.
        order: int32 ``[tokens]``: the token at each sorted row.
        q: int8 ``[tokens, padded D]``, sorted.
        hidden: int8 ``[rows, N, h]``, sorted, rows rounded up to a multiple of 128.
    """

    y: Array
    counts: Array
    order: Array
    q: Array
    hidden: Array


def int8_operator(
    feeds: Feeds,
    signature: QuantizedSignature,
    *,
    entry: Entry | None = None,
    hidden_limit: int | None = None,
    transposed_weights: bool = False,
    strided: bool = False,
    device: str = "cpu",
) -> Steps:
    """Run the whole int8 operator with kernels that Triton interprets, or compiles on a GPU.

    Args:
        feeds: Inputs by name.
        signature: Attributes.
        entry: Tile sizes; by default the table's.
        hidden_limit: Instead of ``plan.HIDDEN_LIMIT``. With several chunks, q and hidden are those of the last one.
        transposed_weights: Give w1 and w2 as transposed views, which are not copied.
        strided: Give x as a view that is not contiguous.
        device: Where to run it; on ``cuda`` give an entry, because kernels of the pack leave no steps behind.
    """
    from acm_export.plugins.kernels import launch_quantized, plan
    from acm_export.plugins.kernels.launch import Space

    spaces: list[Space] = []

    class Recorded(Space):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            spaces.append(self)

    tensors = {name: tensor(feeds[name]).to(device) for name in signature.inputs}
    if strided:
        tensors["x"] = tensors["x"].repeat_interleave(2, -1)[..., ::2]
    if transposed_weights:
        tensors |= {name: tensors[name].t().contiguous().t() for name in ("w1", "v1", "w2") if name in tensors}
    routing_blocks = SMALL_BLOCKS if device == "cpu" else plan.ROUTING_BLOCKS
    limits = {"HIDDEN_LIMIT": hidden_limit or plan.HIDDEN_LIMIT, "ROUTING_BLOCKS": routing_blocks}
    with (
        patch.multiple(plan, **limits),
        patch.object(launch_quantized, "Space", Recorded),
        telltale_memory(),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        y, counts = launch_quantized.quantized_gated_learners(**tensors, signature=signature, entry=entry)
    tokens, n = counts.numel(), signature.num_learners
    model_dim, width = feeds["x"].shape[-1], feeds["w1"].shape[1] // n
    pitch, padded = -(-model_dim // 16) * 16, -(-width // 16) * 16
    if not spaces:
        nothing = (np.zeros(0, np.int32), np.zeros((0, pitch), np.int8), np.zeros((0, n, width), np.int8))
        return Steps(array(y.cpu()), array(counts.cpu()), *nothing)
    (space,) = spaces
    q = space.q[: space.q.numel() // pitch * pitch].view(-1, pitch)
    hidden = space.hidden[: space.hidden.numel() // (n * padded) * n * padded].view(-1, n, padded)
    y, counts, order, q, hidden = (part.cpu() for part in (y, counts, space.order[:tokens], q, hidden))
    return Steps(array(y), array(counts), array(order), array(q), array(hidden)[:, :, :width])


def assert_exact_steps(steps: Steps, feeds: Feeds, signature: QuantizedSignature, *, on_gpu: bool = False) -> None:
    """Assert that every step is what docs/op.md requires of the step before, for one chunk of finite tokens.

    Counts, q, and y from the kernel's own hidden values must be equal in every bit. A hidden value may be off by 1
    only if it lies within the activation's error of a value that rounds to the other one.

    Args:
        steps: What the kernels computed.
        feeds: Inputs by name.
        signature: Attributes.
        on_gpu: Allow for products and sums that are rounded once, and for the GPU's tanh.
    """
    n = signature.num_learners
    counts = learner_counts(feeds["gate_logits"], feeds["thresholds"], signature.min_learners)
    assert (steps.counts.dtype, steps.y.dtype) == (np.int32, feeds["x"].dtype)
    np.testing.assert_array_equal(steps.counts, counts)
    flat = counts.reshape(-1)
    np.testing.assert_array_equal(steps.order, np.argsort(-flat, kind="stable"))
    if not flat.size:
        return
    model_dim = feeds["x"].shape[-1]
    in_order = flat[steps.order]
    q, factor = quantize_tokens(feeds["x"].reshape(-1, model_dim)[steps.order], feeds["x_mult"], signature)
    run = in_order > 0
    np.testing.assert_array_equal(steps.q[: len(flat), :model_dim][run], q[run])
    assert not steps.q[: len(flat), model_dim:][run].any()
    u = hidden_inputs(q, factor, feeds["w1"], feeds["s1"], feeds["b1"])
    multiplied = hidden_inputs(q, factor, feeds["v1"], feeds["t1"], feeds["c1"]) if signature.glu else np.ones_like(u)
    sums = np.zeros((len(flat), model_dim), np.int64)
    for learner in range(n):
        runs = np.flatnonzero(in_order > learner)
        part = slice(learner * steps.hidden.shape[2], (learner + 1) * steps.hidden.shape[2])
        qh = steps.hidden[runs, learner]
        scales = feeds["h_mult"][learner], feeds["h_zero"][learner]
        assert_rounded(qh, u[runs, part], multiplied[runs, part], signature.activation, *scales, on_gpu=on_gpu)
        sums[runs] += qh.astype(np.int64) @ feeds["w2"][part].astype(np.int64)
    y = np.empty((len(flat), model_dim), feeds["x"].dtype)
    y[steps.order] = (sums.astype(np.float32) * feeds["s2"] + feeds["b2"][in_order]).astype(feeds["x"].dtype)
    y = y.reshape(steps.y.shape)
    if on_gpu:
        found, expected = steps.y.astype(np.float64), y.astype(np.float64)
        step = float(ml_dtypes.finfo(y.dtype).eps)
        np.testing.assert_allclose(found, expected, rtol=step, atol=1e-6 * np.abs(expected).max())
    else:
        np.testing.assert_array_equal(steps.y.view(np.uint8), y.view(np.uint8))


def assert_rounded(
    qh: Array,
    u: Array,
    multiplied: Array,
    activation: str,
    h_mult: np.float32,
    h_zero: np.int8,
    *,
    on_gpu: bool = False,
) -> None:
    """Assert that qh is a rounded value within the errors of the kernel of ``act(u) * multiplied``."""
    active = activate(activation, u)
    error = 0 if activation in ("relu", "identity") else ACTIVATION_ERROR + 1e-5 * np.abs(active)
    error = error + (TANH_ERROR if on_gpu else 1e-6) * np.abs(u)  # u itself is a float32 product and sum
    error = error * np.abs(multiplied) + 1e-6 * np.abs(active) * (multiplied != 1) * (1 + np.abs(multiplied))
    active = active * multiplied
    zero = int(h_zero)
    low, high = (
        np.clip(np.rint((active + sign * error) * h_mult.astype(np.float64)) + zero, -128, 127) for sign in (-1, 1)
    )
    assert ((low <= qh) & (qh <= high)).all()
    assert (high - low).max(initial=0) <= 1, "the tolerance is too wide to find a value that is off by 2"


def rounded_to_int8(values: Array, multipliers: Array, zero: int) -> Array:
    """``scaled_int8`` of the kernels, elementwise."""
    import torch
    from kernel_probes import round_all

    padded = np.zeros((2, 1 << (len(values) - 1).bit_length()), np.float32)
    padded[0, : len(values)], padded[1, : len(values)] = values, multipliers
    out = torch.empty(padded.shape[1], dtype=torch.int8)
    zeros = torch.tensor([zero], dtype=torch.int8)
    with np.errstate(over="ignore", invalid="ignore"):
        round_all[(1,)](*(torch.from_numpy(row) for row in padded), zeros, out, SIZE=padded.shape[1])
    return out.numpy()[: len(values)]


def exact_y(feeds: Feeds, signature: QuantizedSignature) -> Array:
    """y of inputs from :func:`exact_int8_inputs` for relu and identity, whose float steps round as in a kernel."""
    counts = learner_counts(feeds["gate_logits"], feeds["thresholds"], signature.min_learners)
    q, factor = quantize_tokens(feeds["x"], feeds["x_mult"], signature)
    u = hidden_inputs(q, factor, feeds["w1"], feeds["s1"], feeds["b1"])
    n = signature.num_learners
    active = activate(signature.activation, u)
    if signature.glu:
        active = active * hidden_inputs(q, factor, feeds["v1"], feeds["t1"], feeds["c1"])
    active = active.astype(np.float32).reshape(*u.shape[:-1], n, -1)
    scaled = np.rint(active * feeds["h_mult"][:, None]) + feeds["h_zero"][:, None].astype(np.float32)
    runs = np.arange(n) < counts[..., None]
    qh = np.clip(scaled, -128, 127).astype(np.int64) * runs[..., None]
    sums = qh.reshape(u.shape) @ feeds["w2"].astype(np.int64)
    return (sums.astype(np.float32) * feeds["s2"] + feeds["b2"][counts]).astype(feeds["x"].dtype)
