"""What all tests share: quiet libraries and one hypothesis profile."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch: threads for tiny models wait more than they work

import pytest
import torch
import transformers
from hypothesis import settings

settings.register_profile("acm", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("acm")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)
