"""Reading a pack of compiled kernels, and which of its architectures runs on a GPU."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from acm_export.base.errors import KernelError, OutputError
from acm_export.plugins.kernels.compile import write_pack
from acm_export.plugins.kernels.pack import CUBINS, TABLE, Kernel, Pack, read_pack, source_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def kernel(arch: str, cubin: bytes, offset: int) -> Kernel:
    """A row as the compiler writes it."""
    return Kernel(
        arch,
        "up",
        "fp16",
        3,
        True,
        "",
        "up",
        128,
        49152,
        96,
        (("x", "ptr"), ("num_rows", "i32")),
        offset,
        len(cubin),
        hashlib.sha256(cubin).hexdigest(),
    )


def pack_of(*architectures: str) -> Pack:
    """A pack with one kernel for each, which no GPU could run."""
    cubins = [f"cubin of {arch}".encode() for arch in architectures]
    rows = [kernel(a, c, sum(map(len, cubins[:i]))) for i, (a, c) in enumerate(zip(architectures, cubins, strict=True))]
    return Pack(tuple(rows), "3.9.0", "12.9", source_digest(), b"".join(cubins))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pack on disk."""
    write_pack(pack_of("sm_80", "sm_121"), tmp_path / "pack")
    return tmp_path / "pack"


def change_table(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    table = json.loads((folder / TABLE).read_text())
    change(table)
    (folder / TABLE).write_text(json.dumps(table))


def refused(folder: Path) -> str:
    """The message, which always comes with the command that makes a new pack."""
    with pytest.raises(KernelError) as caught:
        read_pack(folder)
    assert "python -m acm_export.plugins.kernels.compile" in str(caught.value.hint)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_a_pack_survives_a_round_trip(folder: Path) -> None:
    pack = read_pack(folder)
    assert pack == pack_of("sm_80", "sm_121")
    assert [pack.cubin(row) for row in pack.kernels] == [b"cubin of sm_80", b"cubin of sm_121"]
    assert pack.kernels[0].key == ("up", "fp16", 3, True, "")


@pytest.mark.parametrize("name", [TABLE, CUBINS])
def test_a_missing_pack(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert "no kernel pack" in refused(folder)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"C" + b[1:], lambda _: b""])
def test_cubins_that_do_not_match_the_table(folder: Path, change: Callable[[bytes], bytes]) -> None:
    (folder / CUBINS).write_bytes(change((folder / CUBINS).read_bytes()))
    assert "is damaged" in refused(folder)


def test_a_table_that_ends_before_the_cubins(folder: Path) -> None:
    change_table(folder, lambda table: table["kernels"].pop())
    assert "is damaged" in refused(folder)


@pytest.mark.parametrize("text", [b"", b"{", b'{"schema": ', b"\xff\xfe"])
def test_a_table_that_is_not_json(folder: Path, text: bytes) -> None:
    (folder / TABLE).write_bytes(text)
    assert "cannot be read" in refused(folder)


@pytest.mark.parametrize(("text", "found"), [("[]", "None"), ("3", "None"), ("{}", "None"), ('{"schema": 1}', "1")])
def test_a_table_of_another_schema(folder: Path, text: str, found: str) -> None:
    (folder / TABLE).write_text(text)
    assert f"has schema {found}, expected 2" in refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.pop("kernels"),
        lambda table: table.pop("source_digest"),
        lambda table: table.pop("nvrtc"),
        lambda table: table.pop("cubins_sha256"),
        lambda table: table.update(kernels=3),
        lambda table: table["kernels"].append("up"),
        lambda table: table["kernels"][0].pop("symbol"),
        lambda table: table["kernels"][0].pop("activation"),
        lambda table: table["kernels"][0].update(colour="red"),
        lambda table: table["kernels"][0].update(arguments=[["x"]]),
        lambda table: table["kernels"][0].update(offset="0"),
    ],
)
def test_a_table_with_missing_or_wrong_fields(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    change_table(folder, change)
    assert "is broken" in refused(folder)


def test_a_pack_of_other_sources_is_stale(folder: Path) -> None:
    change_table(folder, lambda table: table.update(source_digest="0123456789abcdef"))
    message = refused(folder)
    assert "is stale" in message
    assert "0123456789ab" in message
    assert source_digest()[:12] in message


def test_a_pack_does_not_overwrite_other_files(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError):
        write_pack(pack_of("sm_80"), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("capability", "integrated", "chosen"),
    [
        ((8, 0), False, "sm_80"),
        ((8, 6), False, "sm_86"),
        ((8, 7), True, "sm_87"),
        ((9, 0), False, "sm_90"),
        ((11, 0), True, "sm_110"),
        ((12, 1), True, "sm_121"),
        ((8, 9), False, "sm_80"),  # not in this pack: another discrete chip of the family
        ((8, 8), False, "sm_80"),
    ],
)
def test_the_exact_architecture_or_on_discrete_8x_chips_that_of_sm_80(
    capability: tuple[int, int], integrated: bool, chosen: str
) -> None:
    pack = pack_of("sm_80", "sm_86", "sm_87", "sm_90", "sm_110", "sm_121")
    assert pack.architecture_for(capability, integrated=integrated) == chosen


@pytest.mark.parametrize(
    ("capability", "integrated", "message"),
    [
        ((7, 5), False, "a discrete GPU of architecture sm_75"),
        ((8, 7), True, "an integrated GPU of architecture sm_87"),
        ((8, 8), True, "an integrated GPU of architecture sm_88"),
        ((9, 1), False, "a discrete GPU of architecture sm_91"),
        ((10, 0), False, "a discrete GPU of architecture sm_100"),
        ((11, 0), True, "an integrated GPU of architecture sm_110"),
    ],
)
def test_errors_list_the_architectures_of_the_pack(capability: tuple[int, int], integrated: bool, message: str) -> None:
    with pytest.raises(KernelError, match=f"{message}; the pack has sm_80, sm_90, sm_121"):
        pack_of("sm_121", "sm_90", "sm_80").architecture_for(capability, integrated=integrated)


def test_without_sm_80_the_other_8x_chips_have_nothing_to_run() -> None:
    with pytest.raises(KernelError, match="sm_89; the pack has sm_86"):
        pack_of("sm_86").architecture_for((8, 9), integrated=False)


def test_architectures_are_listed_by_number() -> None:
    assert pack_of("sm_100", "sm_80", "sm_120", "sm_90").architectures == ["sm_80", "sm_90", "sm_100", "sm_120"]
