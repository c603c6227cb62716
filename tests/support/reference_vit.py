"""A small Vision Transformer as the ACM authors' code saves it, and its forward pass written out in plain torch."""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

State = dict[str, torch.Tensor]

MODEL_DIM, HEADS, LAYERS, PATCH, IMAGE, CHANNELS, CLASSES, FFN = 12, 3, 2, 4, 8, 1, 5, 24
TOKENS = (IMAGE // PATCH) ** 2 + 1


def dense_state(layers: int = LAYERS) -> State:
    """Make a dense model with torchvision's names and separate projections, as that code replaces them."""
    d = MODEL_DIM
    state = {
        "class_token": torch.randn(1, 1, d),
        "conv_proj.weight": torch.randn(d, CHANNELS, PATCH, PATCH) / PATCH,
        "conv_proj.bias": torch.randn(d),
        "encoder.pos_embedding": torch.randn(1, TOKENS, d),
        "encoder.ln.weight": 1 + torch.randn(d) / 4,
        "encoder.ln.bias": torch.randn(d),
        "heads.head.weight": torch.randn(CLASSES, d),
        "heads.head.bias": torch.randn(CLASSES),
    }
    for index in range(layers):
        layer = f"encoder.layers.encoder_layer_{index}"
        for name in ("ln_1", "ln_2"):
            state |= {f"{layer}.{name}.weight": 1 + torch.randn(d) / 4, f"{layer}.{name}.bias": torch.randn(d) / 4}
        for name in "qkvo":
            state |= linear(f"{layer}.self_attention.{name}_proj", d, d)
        state |= linear(f"{layer}.mlp.0", d, FFN) | linear(f"{layer}.mlp.3", FFN, d)
    return state


def linear(name: str, inputs: int, outputs: int) -> State:
    return {f"{name}.weight": torch.randn(outputs, inputs) / inputs**0.5, f"{name}.bias": torch.randn(outputs) / 4}


def acm_layer(
    n: int = 4, h: int = 6, minimum: int = 0, gate: tuple[int, ...] | None = None, *, b1: bool = True, b2: bool = True
) -> State:
    """Make the tensors of one ACM layer; ``gate`` lists the hidden widths of a gate ``net``, None means one ``fc``."""
    d = MODEL_DIM
    state = {"w1": torch.randn(d, n * h) / d**0.5, "w2": torch.randn(n * h, d) / h**0.5}
    if b1:
        state["b1"] = torch.randn(n * h) / 4
    if b2:
        state["b2"] = torch.randn((n + 1) * d) / 4
    widths = [d, *(gate or ()), n + 1 - minimum]
    for index in range(len(widths) - 1):
        name = "gating_network.fc" if gate is None else f"gating_network.net.{index}"
        state |= linear(name, widths[index], widths[index + 1])
    return state


def with_acm(state: State, place: str, layer: State) -> State:
    """Replace a module's tensors in the state by those of an ACM layer."""
    kept = {k: v for k, v in state.items() if not k.startswith(f"{place}.")}
    return kept | {f"{place}.{k}": v for k, v in layer.items()}


def acm_state() -> State:
    """Make ACM layers of every variant: with and without b1 and b2, one and several gate maps, min_learners 0 and 1."""
    state, layer = dense_state(), "encoder.layers.encoder_layer_{}.{}".format
    state = with_acm(state, layer(0, "mlp"), acm_layer())
    state = with_acm(state, layer(0, "self_attention.q_proj"), acm_layer(h=2, minimum=1, b1=False))
    state = with_acm(state, layer(1, "self_attention.o_proj"), acm_layer(h=3, minimum=1, gate=(5,), b2=False))
    return with_acm(state, layer(1, "mlp"), acm_layer(h=6, gate=(7, 5), b1=False, b2=False))


def fused_projections(state: State) -> State:
    """Merge query, key and value into one matrix, and give the output projection torchvision's name."""
    result = {k: v for k, v in state.items() if ".self_attention." not in k}
    for prefix in {k.rsplit(".", 2)[0] for k in state if ".self_attention." in k}:
        for kind in ("weight", "bias"):
            parts = [state[f"{prefix}.{p}_proj.{kind}"] for p in "qkv"]
            result[f"{prefix}.in_proj_{kind}"] = torch.cat(parts)
            result[f"{prefix}.out_proj.{kind}"] = state[f"{prefix}.o_proj.{kind}"]
    return result


def run_module(state: State, name: str, x: torch.Tensor, n: int, minimum: int, threshold: float) -> torch.Tensor:
    """A dense or ACM module of the state for tokens ``[..., D]``: learners 1..k and rows 0..k of b2, in a loop."""
    if f"{name}.weight" in state:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])
    if f"{name}.w1" not in state:
        return run_module(state, f"{name}.3", F.gelu(run_module(state, f"{name}.0", x, n, 0, 0.0)), n, 0, 0.0)
    w1, w2 = state[f"{name}.w1"], state[f"{name}.w2"]
    d, h = w1.shape[0], w1.shape[1] // n
    b1 = state.get(f"{name}.b1", torch.zeros(n * h))
    b2 = state.get(f"{name}.b2", torch.zeros((n + 1) * d)).reshape(n + 1, d)
    z = x
    gate = f"{name}.gating_network."
    for weight in sorted(k for k in state if k.startswith(gate) and k.endswith(".weight")):
        z = F.linear(z, state[weight], state[weight.removesuffix("weight") + "bias"])
    rows = []
    for token, scores in zip(x.reshape(-1, d), z.reshape(-1, z.shape[-1]), strict=True):
        count = minimum
        if threshold == 0:
            count += int(scores.argmax())
        elif threshold == float("-inf"):
            count = n
        total = b2[0].clone()
        for k in range(count):
            part = slice(k * h, (k + 1) * h)
            hidden = token @ w1[:, part] + b1[part]
            total += (F.gelu(hidden) if name.endswith(".mlp") else hidden) @ w2[part] + b2[k + 1]
        rows.append(total)
    return torch.stack(rows).reshape(x.shape)


def forward(
    state: State, images: torch.Tensor, n: int = 4, minimum: dict[str, int] | None = None, threshold: float = 0.0
) -> torch.Tensor:
    """Logits ``[batch, classes]``: patches, class token first, pre-LN layers with eps 1e-6, head on the class token."""
    d = MODEL_DIM

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (d,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def run(name: str, x: torch.Tensor) -> torch.Tensor:
        least = next((v for k, v in (minimum or {}).items() if k in name), 0)
        return run_module(state, name, x, n, least, threshold)

    patches = F.conv2d(images, state["conv_proj.weight"], state["conv_proj.bias"], stride=PATCH)
    x = torch.cat([state["class_token"].expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
    x = x + state["encoder.pos_embedding"]
    for index in range(sum(k.endswith("ln_1.weight") for k in state)):
        layer = f"encoder.layers.encoder_layer_{index}"
        normed = norm(f"{layer}.ln_1", x)
        q, k, v = (
            run(f"{layer}.self_attention.{p}_proj", normed).unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in "qkv"
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) / (d // HEADS) ** 0.5, -1)
        x = x + run(f"{layer}.self_attention.o_proj", (weights @ v).transpose(1, 2).flatten(2))
        x = x + run(f"{layer}.mlp", norm(f"{layer}.ln_2", x))
    return F.linear(norm("encoder.ln", x)[:, 0], state["heads.head.weight"], state["heads.head.bias"])
