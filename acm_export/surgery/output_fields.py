"""The fields of a model's output that an export returns, from a pass of an example input that computes nothing."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from acm_export.base.documentation import page
from acm_export.base.errors import CheckpointError
from acm_export.modules.evaluating import evaluating
from acm_export.surgery.examples import example_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.surgery.interface import ModelInterface

_STATES = ("last_hidden_state", "pooler_output")
_INTERNAL = {"loss", "extract_features", "encoder_last_hidden_state", "mask", "ids_restore", *_STATES}


def output_fields(model: nn.Module, interface: ModelInterface) -> tuple[str, ...]:
    """Fields of the output that are the model's results, in its order; empty if it returns plain tensors.

    A model with a head returns what the head computes (``logits``, ``pred_boxes``, ``image_embeds``). Any other returns
    ``last_hidden_state``, and ``pooler_output`` unless its pooler is optional: an optional one is often untrained.
    Hidden states, attention weights, caches and losses are left out.

    Raises:
        CheckpointError: The model does not run on inputs that follow from its config.
    """
    output = _dry_run(model, interface)
    if not isinstance(output, Mapping):
        return ()
    tensors = [name for name, value in output.items() if isinstance(value, torch.Tensor)]
    results = [name for name in tensors if name not in _INTERNAL]
    if results:
        return tuple(results)
    optional = "add_pooling_layer" in inspect.signature(type(model).__init__).parameters
    return tuple(name for name in _STATES if name in tensors and not (name == "pooler_output" and optional))


def _dry_run(model: nn.Module, interface: ModelInterface) -> object:
    """Run the model without values, or, if its control flow depends on values, on example inputs."""
    mode = FakeTensorMode()
    try:
        with torch.device("cpu"), _quiet(), mode:  # the caller may build its model on another device
            return _run(without_values(model, mode), _inputs_without_values(interface))
    except Exception as error:  # models raise many types, some because the tensors have no values
        first = next(iter(model.parameters()))
        if first.device.type == "meta":
            raise _failure(model, error) from error
    inputs = example_inputs(interface, 1)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    try:
        return _run(model, {n: v.to(first.device, dtype if v.is_floating_point() else None) for n, v in inputs.items()})
    except Exception as error:
        raise _failure(model, error) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from printing the traceback of a failure that the second run, with values, does not have."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _inputs_without_values(interface: ModelInterface) -> dict[str, torch.Tensor]:
    """One sample under the mode: a config may name a size that would not fit into memory."""
    lengths = {"batch": 1, **interface.lengths}
    return {
        spec.name: torch.empty(
            [lengths[dim] if isinstance(dim, str) else dim for dim in spec.shape], dtype=getattr(torch, spec.dtype)
        )
        for spec in interface.inputs
    }


def without_values(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy of a model whose tensors have shapes and no values; nothing is allocated on the way."""
    memo: dict[int, object] = {}
    with torch.device("cpu"), mode:
        for tensor in (*model.parameters(), *model.buffers()):
            fake = _empty(tensor)
            memo[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
        return copy.deepcopy(model, memo)


def _empty(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape and dtype; transformers does not read the values of such tensors under the mode."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, device="cpu")


def _run(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> object:
    with torch.no_grad(), evaluating(model):
        return model(**inputs)


def _failure(model: nn.Module, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:300]
    return CheckpointError(
        f"{type(model).__name__} does not run on the inputs that follow from its config: {reason}",
        f"describe its inputs with acm_export.register_family: {page('families.md')}",
    )
