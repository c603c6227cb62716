"""The command that installs what is missing, in a checkout and from a wheel."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from acm_export.base import optional
from acm_export.base.version import __version__

ROOT = Path(__file__).parents[2]
REQUIRES = [
    "click>=8.1",
    "numpy<3,>=1.24",
    'torch>=2.9; extra == "export"',
    'onnxruntime>=1.20; extra == "cpu"',
    "triton<4,>=3.6; platform_system == 'Linux' and extra == 'gpu'",
    'windows-only>=1; platform_system == "Windows" and extra == "gpu"',
    'acm-export[cpu,export]; extra == "demo"',
    'scikit-learn>=1.4; extra == "demo"',
]


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package that was installed from a wheel."""
    monkeypatch.setattr(optional, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(metadata, "requires", lambda _: REQUIRES)
    monkeypatch.setattr(optional.platform, "system", lambda: "Linux")


def test_a_checkout_is_installed_by_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert optional.install_command("export", "cpu") == f"pip install -e '{ROOT}[export,cpu]'"
    assert optional.install_command() == f"pip install -e {ROOT}"
    folder = tmp_path / "a b"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "acm-export"\n')
    monkeypatch.setattr(optional, "_CHECKOUT", folder)
    assert optional.install_command("cpu") == f"pip install -e '{folder}[cpu]'"


@pytest.mark.usefixtures("wheel")
def test_a_wheel_is_completed_by_the_requirements_of_the_extra() -> None:
    assert optional.install_command("export") == "pip install 'torch>=2.9'"
    assert optional.install_command("gpu") == "pip install 'triton<4,>=3.6'"
    assert optional.install_command("demo") == "pip install 'onnxruntime>=1.20' 'torch>=2.9' 'scikit-learn>=1.4'"
    assert optional.install_command() == "pip install 'click>=8.1' 'numpy<3,>=1.24'"


@pytest.mark.usefixtures("wheel")
def test_the_pyproject_of_another_project_is_not_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    assert optional.install_command("export") == "pip install 'torch>=2.9'"


def test_a_package_without_metadata_is_installed_from_its_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(optional, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(metadata, "requires", missing)
    assert optional.install_command("cpu") == f"pip install './acm_export-{__version__}-py3-none-any.whl[cpu]'"


def test_the_installed_metadata_names_every_extra_that_a_hint_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(optional, "_CHECKOUT", tmp_path)
    commands = {extra: optional.install_command(extra) for extra in ("export", "cpu", "gpu", "train", "report", "demo")}
    assert all(len(command.split()) > 2 for command in commands.values()), commands
    assert "onnxruntime" in commands["demo"]
