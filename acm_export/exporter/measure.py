"""Run one sample to count the tokens of each ACM layer and the FLOPs outside learners and gates."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from acm_export.base.errors import AcmError, ExportError
from acm_export.modules import ACMLayer, acm_layers
from acm_export.modules.flops import gate_flops, learner_flops
from acm_export.modules.wrapper import PREFIX
from acm_export.onnx_file.manifest import LayerEntry
from acm_export.verification.replay import override_gate_logits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from acm_export.modules.wrapper import Exportable


@dataclass(frozen=True)
class Probe:
    """Measurement of one sample.

    Args:
        layers: ACM layers in execution order.
        rest_flops: FLOPs outside learners and gates.
        output_names: Names of the tensors that the model returns.
    """

    layers: tuple[LayerEntry, ...]
    rest_flops: int
    output_names: list[str]


def run_one_sample(model: Exportable, one_sample: tuple[torch.Tensor, ...]) -> Probe:
    """Run one sample and count tokens and FLOPs.

    Args:
        model: Model to run.
        one_sample: Inputs; those with a batch axis have batch size 1.

    Returns:
        ACM layers by their names in ``model``, FLOPs, and output names.

    Raises:
        ExportError: The module does not run on the inputs, or the forward pass does not reach an ACM layer.
    """
    tokens: dict[str, int] = {}
    with ExitStack() as stack, _frozen(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        for name, layer in acm_layers(model):
            stack.enter_context(override_gate_logits(layer, _TokenCounter(name, tokens)))
        try:
            outputs = model.outputs(*one_sample)
        except (RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, AcmError):
                raise
            raise ExportError(f"the module does not run on the example inputs: {error}") from error
    layers = dict(acm_layers(model))
    if idle := [name.removeprefix(PREFIX) for name in layers if name not in tokens]:
        raise ExportError(
            f"the forward pass does not reach the ACM layers {', '.join(idle[:5])}", "remove them from the module"
        )
    entries = tuple(_entry(name, layers[name], count) for name, count in tokens.items())
    rest = counter.get_total_flops() - sum(e.gate_flops * e.tokens for e in entries)
    return Probe(entries, rest, list(outputs))


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Parameters need no gradients in the block: torch's FLOP counter fails where a module is called on a parameter."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()


class _TokenCounter:
    """Counts the tokens that reach a layer."""

    def __init__(self, name: str, tokens: dict[str, int]) -> None:
        self._name, self._tokens = name, tokens

    def __call__(self, x: torch.Tensor, gate_logits: torch.Tensor) -> torch.Tensor:
        self._tokens[self._name] = self._tokens.get(self._name, 0) + x[..., 0].numel()
        return gate_logits


def _entry(name: str, layer: ACMLayer, tokens: int) -> LayerEntry:
    spec = layer.spec
    return LayerEntry(
        name.removeprefix(PREFIX),
        spec.model_dim,
        spec.num_learners,
        spec.hidden_dim,
        spec.min_learners,
        spec.activation,
        learner_flops(spec),
        gate_flops(spec),
        tokens,
        glu=spec.glu,
    )
