"""Find the ACM layers in the authors' weights, and infer N, h and min_learners from the shapes."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from acm_export.base.errors import AcmError, CheckpointError, UsageError
from acm_export.modules import ACMSpec

State = dict[str, torch.Tensor]
MinLearners = Mapping[str, int]

_SAVE_AGAIN = "the file is damaged or was changed after training: save it again"
_GATE = "gating_network."
_LINEAR = re.compile(r"gating_network\.(?:fc|net\.(\d+))\.(weight|bias)")
_LEARNERS = ("w1", "b1", "w2", "b2")
_IGNORED = ("gating_network.gs_tau",)  # temperature of the Gumbel softmax, used in training only


@dataclass(frozen=True)
class InferredLayer:
    """One ACM layer: its description, and its tensors by their names in :class:`~acm_export.modules.ACMLayer`."""

    spec: ACMSpec
    state: State


def group_acm_layers(state: State) -> tuple[dict[str, State], State]:
    """Split the weights into ACM layers, by module name, and all other tensors."""
    names = [name.removesuffix(".w1") for name in state if name.endswith(".w1")]
    groups: dict[str, State] = defaultdict(dict)
    dense: State = {}
    for name, tensor in state.items():
        owner = next((owner for owner in names if name.startswith(f"{owner}.")), None)
        if owner is None:
            dense[name] = tensor
        elif (key := name.removeprefix(f"{owner}.")) in _LEARNERS or key.startswith(_GATE):
            if key not in _IGNORED:
                groups[owner][key] = tensor
        else:
            raise CheckpointError(
                f"the weights contain {name!r}, which is not part of an ACM layer",
                f"expected: {', '.join(_LEARNERS)}, {_GATE}*",
            )
    return dict(groups), dense


def infer_learners(
    groups: dict[str, State], num_learners: int | None, min_learners: MinLearners
) -> dict[str, InferredLayer]:
    """Find N, h, min_learners and the gate of every ACM layer.

    b2 has N + 1 rows, and a gate has N + 1 - min_learners choices. N therefore follows from b2, or, if no layer has b2,
    from the widest gate, unless the options say that learners always run there too. N and the width of a gate then give
    min_learners of the other layers.

    Args:
        groups: Tensors of each ACM layer.
        num_learners: N, if the user gave it.
        min_learners: Learners that always run, by a part of the layer name, if the user gave them.

    Returns:
        A description and tensors for each layer.

    Raises:
        CheckpointError: The tensors contradict each other or the options; the message has both values.
        UsageError: ``num_learners`` is below 1, or ``min_learners`` matches no layer.
    """
    gates = {name: _gate(name, tensors) for name, tensors in groups.items()}
    unused = [pattern for pattern in min_learners if not any(pattern in name for name in groups)]
    if unused:
        known = sorted({name.rpartition(".")[2] for name in groups})
        raise UsageError(
            f"--min-learners has {', '.join(unused)}, which matches no ACM layer",
            f"the ACM layers are {', '.join(known[:6])}",
        )
    widths = {name: gate[-1][0].shape[0] for name, gate in gates.items()}
    given = {name: next((v for k, v in min_learners.items() if k in name), None) for name in groups}
    stated = _stated_learners(groups, num_learners)
    n = num_learners if stated is None else stated
    if n is None:
        n = max((width - 1 + (given[name] or 0) for name, width in widths.items()), default=0)
    for name, width in widths.items():
        _check_gate(name, width, n, given[name], determines_n=stated is None and width == max(widths.values()))
    return {name: _layer(name, tensors, gates[name], n, n + 1 - widths[name]) for name, tensors in groups.items()}


def _stated_learners(groups: dict[str, State], num_learners: int | None) -> int | None:
    """N from the shapes of b2, [(N+1)*D] with D from w1, compared with the option; None if no layer has a b2."""
    if num_learners is not None and num_learners < 1:
        raise UsageError(f"--num-learners is {num_learners}; expected at least 1", "leave it out to infer N")
    stated: dict[str, int] = {}
    for name, tensors in groups.items():
        if {"b2", "w1"} <= tensors.keys() and tensors["w1"].ndim == 2:
            values, d = tensors["b2"].numel(), max(1, tensors["w1"].shape[0])
            if values % d or values < 2 * d:
                raise CheckpointError(
                    f"{name}: b2 has {values} values, expected (N+1)*D with D = {d} and N of at least 1", _SAVE_AGAIN
                )
            stated[name] = values // d - 1
    for name, n in stated.items():
        first = next(iter(stated))
        if n != stated[first]:
            raise CheckpointError(
                f"{name}: b2 implies N = {n}, but the b2 of {first} implies N = {stated[first]}", _SAVE_AGAIN
            )
        if num_learners is not None and n != num_learners:
            raise CheckpointError(
                f"{name}: b2 has {n + 1} rows, which implies N = {n}, but --num-learners is {num_learners}",
                f"leave out --num-learners, or give {n}",
            )
    return next(iter(stated.values()), None)


def _check_gate(name: str, width: int, n: int, given: int | None, *, determines_n: bool) -> None:
    """Compare the width of one gate with N and the option for its layer."""
    minimum = n + 1 - width
    if given is not None and given != minimum:
        raise CheckpointError(
            f"{name}: the gate has {width} choices; with N = {n} this implies min_learners = {minimum}, "
            f"but --min-learners is {given}",
            f"leave it out, or give {minimum}",
        )
    if not 0 <= minimum <= n:
        raise CheckpointError(
            f"{name}: the gate has {width} choices, which contradicts N = {n} (at most {n + 1})",
            "correct --num-learners, or leave it out to infer N from b2 or the widest gate",
        )
    if minimum > 0 and determines_n and given is None:
        raise CheckpointError(
            f"{name}: its gate is the widest, with {width} choices, which implies N = {width - 1}, "
            f"but the options give N = {n}",
            "correct --num-learners, or set the number of learners that always run there with --min-learners",
        )


def _gate(name: str, tensors: State) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights and biases of the gate's linear maps, in order; the authors' code has nothing between them."""
    parts: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        if key.startswith(_GATE):
            match = _LINEAR.fullmatch(key)
            if match is None:
                raise CheckpointError(
                    f"{name}.{key} is not part of a supported gate (fc, net.0, ...)",
                    "only gates of linear maps are supported",
                )
            parts[int(match[1] or 0)][match[2]] = tensor
    if sorted(parts) != list(range(len(parts))):
        raise CheckpointError(
            f"{name} has a gate with other modules between its linear maps {sorted(parts)}",
            "only gates of linear maps are supported",
        )
    linears = [parts[index] for index in sorted(parts)]
    if not linears:
        raise CheckpointError(
            f"{name} has no gate", "the file was saved before the gates were trained; finish training"
        )
    for linear in linears:
        if linear.keys() != {"weight", "bias"} or linear["weight"].ndim != 2:
            raise CheckpointError(
                f"{name} has a gate with parts {', '.join(linear)}; expected weight and bias", _SAVE_AGAIN
            )
    for before, after in itertools.pairwise(linears):
        if before["weight"].shape[0] != after["weight"].shape[1]:
            raise CheckpointError(
                f"{name}: a gate map of width {before['weight'].shape[0]} feeds one of {after['weight'].shape[1]}",
                _SAVE_AGAIN,
            )
    return [(linear["weight"], linear["bias"]) for linear in linears]


def _layer(
    name: str, tensors: State, gate: list[tuple[torch.Tensor, torch.Tensor]], n: int, minimum: int
) -> InferredLayer:
    if missing := {"w1", "w2"} - tensors.keys():
        raise CheckpointError(f"{name} has no {', '.join(sorted(missing))}", _SAVE_AGAIN)
    w1, w2 = tensors["w1"], tensors["w2"]
    if w1.ndim != 2 or w2.ndim != 2 or w1.shape != w2.T.shape:
        raise CheckpointError(
            f"{name}: w1 is {list(w1.shape)} and w2 {list(w2.shape)}; expected transposed shapes", _SAVE_AGAIN
        )
    d, width = w1.shape
    if n < 1 or width % n:
        raise CheckpointError(
            f"{name}: w1 has {width} columns, which is not divisible by N = {n}", "give --num-learners"
        )
    if gate[0][0].shape[1] != d:
        raise CheckpointError(
            f"{name}: the gate takes tokens of width {gate[0][0].shape[1]}, the learners of width {d}", _SAVE_AGAIN
        )
    b1 = tensors.get("b1", torch.zeros(width))
    rows = tensors.get("b2", torch.zeros((n + 1) * d))
    if b1.shape != (width,) or rows.numel() != (n + 1) * d:
        raise CheckpointError(
            f"{name}: b1 has {b1.numel()} values and b2 {rows.numel()}; expected {width} and (N+1)*D = {(n + 1) * d}",
            _SAVE_AGAIN,
        )
    try:
        spec = ACMSpec(
            model_dim=d,
            num_learners=n,
            hidden_dim=width // n,
            min_learners=minimum,
            activation="gelu" if name.endswith(".mlp") else "identity",
            gate_hidden=tuple(weight.shape[0] for weight, _ in gate[:-1]),
        )
    except AcmError as error:
        raise CheckpointError(f"{name}: {error}") from error
    state = {
        "w1": w1,
        "b1": b1,
        "w2": w2,
        "b2": rows.reshape(n + 1, d).cumsum(0),
        "thresholds": torch.zeros(n),
    }
    for index, (weight, bias) in enumerate(gate):
        state |= {f"gate.linears.{index}.weight": weight, f"gate.linears.{index}.bias": bias}
    return InferredLayer(spec, state)
