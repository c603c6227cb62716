"""What goes into and comes out of every site of the teacher, from one pass for all of them; padding is left out."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn
    from transformers import PreTrainedModel
    from typing_extensions import Self

    from acm_export.surgery import ModelFamily, Site


@dataclass(frozen=True)
class Seen:
    """Of one site, tokens of the whole batch.

    Args:
        x: Inputs ``[tokens, D]``.
        o: Outputs ``[tokens, D]``.
        hidden: Hidden values of an FFN ``[tokens, width]``; for a projection the same as ``x``.
    """

    x: torch.Tensor
    o: torch.Tensor
    hidden: torch.Tensor


class Masks:
    """Listens which tokens a model takes for padding.

    Args:
        model: Whose passes are listened to.
        family: Of the model.
    """

    def __init__(self, model: PreTrainedModel, family: ModelFamily) -> None:
        self.tokens: torch.Tensor | None = None
        """``[batch, tokens]``, True for tokens that are none; None where the last pass had no mask."""
        self._model, self._module = model, _masked_module(model, family)

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

    def _clear(self, *_: Any) -> None:
        self.tokens = None

    def _listen(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = self._parameters.bind_partial(*args, **kwargs).arguments.get("attention_mask")
        if mask is None:
            mask = self._parameters.bind_partial(*args, **kwargs).arguments.get("kwargs", {}).get("attention_mask")
        self.tokens = mask.bool() if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None


class Recorder:
    """Records the sites of a teacher.

    Args:
        model: The dense teacher.
        family: Of the model.
        sites: To record.
        listen_gradients: Add zeros to every output whose gradient is what the output's would be.
    """

    def __init__(
        self, model: PreTrainedModel, family: ModelFamily, sites: Sequence[Site], *, listen_gradients: bool = False
    ) -> None:
        self._model, self._sites, self._listen_gradients = model, sites, listen_gradients
        self._masks = Masks(model, family)
        self._taken: dict[str, dict[str, torch.Tensor]] = {}

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._stack.enter_context(self._masks)
        for site in self._sites:
            first, last = (self._model.get_submodule(name) for name in (site.modules[0], site.modules[-1]))
            for handle in (
                first.register_forward_pre_hook(self._hook(site.place, "x")),
                last.register_forward_pre_hook(self._hook(site.place, "hidden")),
                last.register_forward_hook(self._output(site.place)),
            ):
                self._stack.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, inputs: Mapping[str, torch.Tensor]) -> tuple[Any, dict[str, Seen]]:
        """One pass of the teacher.

        Args:
            inputs: By the names of its ``forward``'s parameters.

        Returns:
            Its output, and what every site saw.
        """
        self._taken = {site.place: {} for site in self._sites}
        output = self._model(**inputs)
        seen = {
            place: Seen(*(self._tokens(tensors[part]) for part in ("x", "o", "hidden")))
            for place, tensors in self._taken.items()
        }
        return output, seen

    def gradients(self) -> dict[str, torch.Tensor]:
        """After ``backward``: for each site the gradient at its output, ``[tokens, D]``."""
        return {place: self._tokens(tensors["zeros"].grad) for place, tensors in self._taken.items()}  # type: ignore[arg-type]

    def _tokens(self, value: torch.Tensor) -> torch.Tensor:
        mask = self._masks.tokens
        if mask is None or mask.shape != value.shape[:-1]:
            return value.reshape(-1, value.shape[-1])
        return value[mask]

    def _hook(self, place: str, part: str) -> Any:
        def take(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            self._taken[place][part] = args[0].detach()

        return take

    def _output(self, place: str) -> Any:
        def take(_module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor | None:
            self._taken[place]["o"] = output.detach()
            if not self._listen_gradients:
                return None
            self._taken[place]["zeros"] = torch.zeros_like(output, requires_grad=True)
            return output + self._taken[place]["zeros"]

        return take


def _masked_module(model: PreTrainedModel, family: ModelFamily) -> nn.Module | None:
    if family.masked is None:
        return None
    path = f"{family.base_path(model)}{family.masked}".rstrip(".")
    found: nn.Module = model.get_submodule(path) if path else model
    return found
