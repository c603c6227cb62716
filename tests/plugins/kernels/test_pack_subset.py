"""A pack for some of its architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from plugin_pack import write_fake_pack

from acm_export.base.errors import KernelError
from acm_export.plugins.kernels.compile import write_pack
from acm_export.plugins.kernels.pack import read_pack
from acm_export.plugins.kernels.subset import subset

if TYPE_CHECKING:
    from pathlib import Path


def test_a_subset_is_a_pack_with_the_same_kernels(tmp_path: Path) -> None:
    write_fake_pack(tmp_path / "whole", ("sm_80", "sm_87", "sm_90"))
    whole = read_pack(tmp_path / "whole")
    write_pack(subset(whole, ("sm_90", "sm_80")), tmp_path / "part")
    part = read_pack(tmp_path / "part")
    assert part.architectures == ["sm_80", "sm_90"]
    expected = {(row.arch, row.key): whole.cubin(row) for row in whole.kernels if row.arch != "sm_87"}
    assert {(row.arch, row.key): part.cubin(row) for row in part.kernels} == expected
    assert len(part.cubins) == sum(map(len, expected.values()))
    assert part.architecture_for((8, 7), integrated=False) == "sm_80"
    with pytest.raises(KernelError, match="no kernels for an integrated GPU of architecture sm_87"):
        part.architecture_for((8, 7), integrated=True)


def test_an_architecture_that_the_pack_lacks(tmp_path: Path) -> None:
    write_fake_pack(tmp_path / "pack", ("sm_80",))
    with pytest.raises(KernelError, match="has no kernels for sm_100, sm_90; it has sm_80"):
        subset(read_pack(tmp_path / "pack"), ("sm_80", "sm_90", "sm_100"))
