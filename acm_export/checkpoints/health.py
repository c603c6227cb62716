"""Notice weights that cannot be meant."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmWarning

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def warn_about_values(state: Mapping[str, torch.Tensor]) -> None:
    """Warn once for all tensors that hold NaN or infinite values, naming each; thresholds may be infinite."""
    broken = []
    for name, tensor in state.items():
        if tensor.is_floating_point():
            bad = tensor.isnan() if name.endswith(".thresholds") else ~tensor.isfinite()
            if count := int(bad.sum()):
                broken.append(f"{name} ({count} of {tensor.numel()} values)")
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        warnings.warn(f"NaN or infinite weights: {', '.join(broken[:5])}{more}", AcmWarning, stacklevel=3)
