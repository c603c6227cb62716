"""Record the inputs and outputs of all sites of the teacher in one forward pass, without padding."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput
    from typing_extensions import Self

    from acm_export.surgery import ModelInterface, Site


@dataclass(frozen=True)
class SiteTensors:
    """Inputs and outputs of one site, for all tokens of a batch.

    Args:
        x: Inputs ``[tokens, D]``.
        output: Outputs ``[tokens, D]``.
        hidden: Hidden values of an FFN ``[tokens, width]``; the same as ``x`` for a projection.
    """

    x: torch.Tensor
    output: torch.Tensor
    hidden: torch.Tensor


class PaddingListener:
    """Finds which tokens a model treats as padding, from the mask that its encoder receives.

    Args:
        model: Model whose forward passes to observe.
        interface: How to run the model.
    """

    def __init__(self, model: PreTrainedModel, interface: ModelInterface) -> None:
        self.valid: torch.Tensor | None = None
        """``[batch, tokens]`` of the last pass, False for padding; None if it had no mask."""
        self._model, self._module, self._masked = model, _masked_module(model, interface), interface.masked

    def valid_at(self, name: str) -> torch.Tensor | None:
        """``valid`` for a module below the one that takes the mask; None for others, such as a decoder's layers."""
        below = self._masked == "" or f"{name}.".startswith(f"{self._masked}.")
        return self.valid if below else None

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        clear = self._model.register_forward_pre_hook(self._clear)
        self._stack.callback(clear.remove)
        if self._module is not None:
            self._parameters = inspect.signature(self._module.forward)
            handle = self._module.register_forward_pre_hook(self._listen, with_kwargs=True)
            self._stack.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _clear(self, *_: object) -> None:
        self.valid = None

    def _listen(self, _module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        arguments = self._parameters.bind_partial(*args, **kwargs).arguments
        mask = arguments.get("attention_mask")
        if mask is None:
            mask = arguments.get("kwargs", {}).get("attention_mask")
        self.valid = mask.bool() if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None


class SiteRecorder:
    """Records the sites of a teacher.

    Args:
        model: Dense teacher.
        interface: How to run the model.
        sites: Sites to record.
        record_gradients: Add zeros to every output, so that their gradient is the gradient at the output.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        interface: ModelInterface,
        sites: Sequence[Site],
        *,
        record_gradients: bool = False,
    ) -> None:
        self._model, self._sites, self._record_gradients = model, sites, record_gradients
        self._padding = PaddingListener(model, interface)
        self._recorded: dict[str, dict[str, torch.Tensor]] = {}

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._stack.enter_context(self._padding)
        for site in self._sites:
            names = (site.up.module, (site.down or site.up).module)
            first, last = (self._model.get_submodule(name) for name in names)
            for handle in (
                first.register_forward_pre_hook(self._input_hook(site, "x"), with_kwargs=True),
                last.register_forward_pre_hook(self._input_hook(site, "hidden"), with_kwargs=True),
                last.register_forward_hook(self._output_hook(site)),
            ):
                self._stack.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, inputs: Mapping[str, torch.Tensor]) -> tuple[ModelOutput, dict[str, SiteTensors]]:
        """Run one forward pass of the teacher.

        Args:
            inputs: Inputs by the names of ``forward``'s parameters.

        Returns:
            The teacher's output, and the tensors of every site by place.
        """
        self._recorded = {site.place: {} for site in self._sites}
        output = self._model(**inputs)
        tensors = {
            place: SiteTensors(*(self._tokens(parts[part], place) for part in ("x", "output", "hidden")))
            for place, parts in self._recorded.items()
        }
        return output, tensors

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradients at the outputs of the sites, ``[tokens, D]`` by place, after ``backward``.

        Raises:
            RuntimeError: ``backward`` did not reach a site.
        """
        found = {}
        for place, parts in self._recorded.items():
            gradient = parts["zeros"].grad
            if gradient is None:
                raise RuntimeError(f"{place} has no gradient; call backward() on the output first")
            found[place] = self._tokens(gradient, place)
        return found

    def _tokens(self, value: torch.Tensor, place: str) -> torch.Tensor:
        valid = self._padding.valid_at(place)
        if valid is None or valid.shape != value.shape[:-1]:
            return value.reshape(-1, value.shape[-1])
        return value[valid]

    def _input_hook(self, site: Site, part: str) -> _InputHook:
        def record(_module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
            (value,) = (*args, *kwargs.values())
            self._recorded[site.place][part] = value.detach().movedim(site.axis, -1)

        return record

    def _output_hook(self, site: Site) -> _OutputHook:
        def record(_module: nn.Module, _args: object, output: torch.Tensor) -> torch.Tensor | None:
            tokens = output.detach().movedim(site.axis, -1)
            self._recorded[site.place]["output"] = tokens
            if not self._record_gradients:
                return None
            zeros = self._recorded[site.place]["zeros"] = torch.zeros_like(tokens, requires_grad=True)
            return output + zeros.movedim(-1, site.axis)

        return record


class _InputHook(Protocol):
    def __call__(
        self, module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor], /
    ) -> None: ...


class _OutputHook(Protocol):
    def __call__(self, module: nn.Module, args: object, output: torch.Tensor, /) -> torch.Tensor | None: ...


def _masked_module(model: PreTrainedModel, interface: ModelInterface) -> nn.Module | None:
    return None if interface.masked is None else model.get_submodule(interface.masked)
