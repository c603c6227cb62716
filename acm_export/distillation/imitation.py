"""The task that needs no labels: imitate the teacher's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

from acm_export.distillation.losses import divergence
from acm_export.modules.outputs import named_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Arrays = dict[str, torch.Tensor]
Measure = tuple[float, float]
"""A sum over samples or tokens, and their number."""

_FEATURES = ("last_hidden_state",)
_EMBEDDINGS = "_embeds"
_LOGITS = "logits"


class Imitation:
    """Imitate the teacher's outputs, without labels.

    Logits are compared as distributions, hidden states and embeddings by their cosine, and everything else (depths,
    boxes, the outputs of a user's module) by the squared error relative to the variance of the teacher's output.

    Args:
        fields: Fields of the output to imitate; empty for all its tensors.
        logits: Whether an output without fields is logits.
    """

    name, needs_labels = "distil", False

    def __init__(self, fields: tuple[str, ...], *, logits: bool = False) -> None:
        self._fields, self._unnamed = fields, "logits" if logits else "values"
        kinds = {_kind(name, self._unnamed) for name in fields} or {self._unnamed}
        self.quality_name = _QUALITY_NAMES[kinds.pop()] if len(kinds) == 1 else "agreement with the teacher"

    def loss(self, output: object, batch: Arrays, teacher: object, valid: torch.Tensor | None) -> torch.Tensor:  # noqa: ARG002
        """Mean over the fields of the divergence, 1 - cosine, or the relative squared error."""
        terms = [
            _LOSSES[kind](ours, theirs, valid)
            for kind, ours, theirs in self._pairs(named_outputs(output, self._fields), teacher)
        ]
        return torch.stack(terms).mean()

    def quality(
        self,
        output: object,
        batch: Arrays,  # noqa: ARG002
        teacher: object,
        valid: torch.Tensor | None,
    ) -> Measure:
        """Sum over the fields of equal argmaxes, cosines, or 1 - relative squared error."""
        found = [
            _QUALITIES[kind](ours, theirs, valid)
            for kind, ours, theirs in self._pairs(named_outputs(output, self._fields), teacher)
        ]
        return sum(part for part, _ in found), sum(weight for _, weight in found)

    def check(self, batch: Arrays) -> None:
        """Do nothing: labels are not used."""

    def _pairs(self, ours: Mapping[str, torch.Tensor], teacher: object) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
        theirs = named_outputs(teacher, self._fields)
        floats = [name for name, value in ours.items() if value.is_floating_point()]
        return [
            (
                _kind(name, self._unnamed) if ours[name].shape[-1] > 1 else "values",
                ours[name].float(),
                theirs[name].float(),
            )
            for name in floats
        ]


def _kind(name: str, unnamed: str) -> str:
    if _LOGITS in name:
        return "logits"
    if name in _FEATURES:
        return "features"
    return "embeddings" if name.endswith(_EMBEDDINGS) else unnamed


def _features_loss(ours: torch.Tensor, theirs: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """1 - cosine of each token, and of the mean over tokens."""
    tokens = 1 - F.cosine_similarity(ours, theirs, -1)
    weights = _token_weights(ours, valid)
    pooled = 1 - F.cosine_similarity(_pool(ours, weights), _pool(theirs, weights), -1).mean()
    return (tokens * weights).sum() / weights.sum() + pooled


def _features_quality(ours: torch.Tensor, theirs: torch.Tensor, valid: torch.Tensor | None) -> Measure:
    weights = _token_weights(ours, valid)
    return _embeddings_quality(_pool(ours, weights), _pool(theirs, weights), None)


def _embeddings_loss(ours: torch.Tensor, theirs: torch.Tensor, _valid: torch.Tensor | None) -> torch.Tensor:
    return 1 - F.cosine_similarity(ours, theirs, -1).mean()


def _embeddings_quality(ours: torch.Tensor, theirs: torch.Tensor, _valid: torch.Tensor | None) -> Measure:
    cosine = F.cosine_similarity(ours, theirs, -1)
    return float(cosine.sum()), float(cosine.numel())


def _logits_quality(ours: torch.Tensor, theirs: torch.Tensor, valid: torch.Tensor | None) -> Measure:
    same = ours.argmax(-1) == theirs.argmax(-1)
    if valid is not None and valid.shape == same.shape:
        same = same[valid]
    return float(same.sum()), float(same.numel())


def _values_loss(ours: torch.Tensor, theirs: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Squared error ÷ variance of the teacher's values."""
    if valid is not None and valid.shape == ours.shape[: valid.ndim]:
        ours, theirs = ours[valid], theirs[valid]
    spread = theirs.var(unbiased=False) if theirs.numel() else theirs.new_zeros(())
    return F.mse_loss(ours, theirs) / spread.clamp(min=1e-12)


def _values_quality(ours: torch.Tensor, theirs: torch.Tensor, valid: torch.Tensor | None) -> Measure:
    samples = float(len(ours)) if ours.ndim else 1.0
    return samples * (1 - float(_values_loss(ours, theirs, valid))), samples


def _token_weights(tokens: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """``[batch, tokens]``: 0 for padding, 1 for everything else."""
    if valid is None or valid.shape != tokens.shape[:-1]:
        return tokens.new_ones(tokens.shape[:-1])
    return valid.to(tokens)


def _pool(tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean over all dimensions between the batch and the channels, ``[batch, D]``."""
    flat, flat_weights = tokens.flatten(1, -2), weights.flatten(1).unsqueeze(-1)
    return (flat * flat_weights).sum(1) / flat_weights.sum(1).clamp(min=1)


_LOSSES: Mapping[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]] = {
    "logits": divergence,
    "features": _features_loss,
    "embeddings": _embeddings_loss,
    "values": _values_loss,
}
_QUALITIES: Mapping[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], Measure]] = {
    "logits": _logits_quality,
    "features": _features_quality,
    "embeddings": _embeddings_quality,
    "values": _values_quality,
}
_QUALITY_NAMES = {
    "logits": "agreement with the teacher",
    "features": "cosine to the teacher",
    "embeddings": "cosine to the teacher",
    "values": "1 - relative squared error",
}
