"""``import acm_export``: names, laziness, and what happens where links or packages are missing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import acm_export
from acm_export.base import errors
from acm_export.base.optional import install_command

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "acm_export"


def python(code: str, *args: str | Path, **kwargs: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **kwargs)  # type: ignore[call-overload,no-any-return]


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("numpy", "torch", "onnx", "onnxruntime", "transformers", "click", "rich")
    done = python(f"import sys, acm_export; dir(acm_export); print([m for m in {heavy} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", acm_export.__all__)
def test_every_name_resolves_and_has_a_docstring(name: str) -> None:
    found = getattr(acm_export, name)
    assert name == "__version__" or found.__doc__.strip()
    assert name in dir(acm_export)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        acm_export.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_and_the_import_see_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "_TYPE_CHECKING"]
    typed = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = {name: where if ":" in where else f"{where}:{name}" for name, where in acm_export._WHERE.items()}
    assert typed == lazy
    assert sorted(acm_export.__all__) == sorted([*lazy, "__version__"])


def test_every_error_class_is_there() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes - {"TYPE_CHECKING"} <= set(acm_export.__all__)


def test_no_folder_or_module_bears_the_name_of_the_api() -> None:
    # acm_export.export would be the function at first, and a module once something has imported it
    below = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert not below & set(acm_export.__all__)


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import acm_export\n"
        "acm_export.set_budget\n"
        "try: acm_export.export\n"
        "except acm_export.MissingDependencyError as error: print(error.hint)"
    )
    assert python(code).stdout.strip() == install_command("export")


def copy_checkout(folder: Path, *, links: bool) -> Path:
    """What a clone holds of the package, without compiled files; with text files in place of links if asked for."""
    held = ("acm_export", "calibration", "plugins", "cli.py", "setup.py", "pyproject.toml", "README.md")
    listed = subprocess.run(["git", "ls-files", *held], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    files = listed.stdout.splitlines()
    for name in files:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() and links:
            target.symlink_to(source.readlink())
        elif source.is_symlink():
            target.write_text(str(source.readlink()))
        elif source.exists():
            target.write_bytes(source.read_bytes())
    return folder


ALONE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
"""
"""Leaves an editable install of another checkout out of the search for packages."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("checkout"), links=True)


@pytest.fixture(scope="module")
def without_links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("zip"), links=False)


@pytest.fixture
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)


@pytest.mark.usefixtures("own_path")
def test_cli_py_runs_in_a_plain_checkout(checkout: Path, tmp_path: Path) -> None:
    code = ALONE + (
        "import runpy\n"
        "for name in ('torch', 'transformers', 'onnxscript', 'onnxruntime', 'matplotlib'): sys.modules[name] = None\n"
        "folder = sys.argv.pop(1)\n"
        "sys.path[0] = folder\n"
        "sys.argv[0] = 'cli.py'\n"
        "try: runpy.run_path(folder + '/cli.py', run_name='__main__')\n"
        "finally:\n"
        "    import acm_export, acm_export.calibration\n"
        "    print(acm_export.__file__, acm_export.calibration.__file__, file=sys.stderr)\n"
    )
    (tmp_path / "m.onnx").write_text("not a model")
    done = python(code, checkout, "inspect", tmp_path / "m.onnx", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "error:" in done.stderr
    assert "not an ONNX file" in done.stderr
    assert "traceback" not in done.stderr.lower()
    assert str(checkout / "acm_export" / "__init__.py") in done.stderr
    shown = subprocess.run(
        [sys.executable, "cli.py", "--help"], cwd=checkout, capture_output=True, text=True, check=True, timeout=120
    )
    assert "set-budget" in shown.stdout


@pytest.mark.usefixtures("own_path")
@pytest.mark.parametrize("entry", [["-c", "import acm_export"], ["cli.py", "--help"], ["-m", "acm_export", "--help"]])
def test_a_package_without_its_links_is_not_imported(without_links: Path, entry: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *entry], cwd=without_links, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert "calibration must be a folder or a symbolic link to ../calibration; it is not" in done.stderr
    assert "git clone -c core.symlinks=true" in done.stderr


def test_a_package_without_its_links_is_not_built(without_links: Path) -> None:
    pytest.importorskip("setuptools")
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=without_links,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "error: acm_export/calibration must be a symbolic link to ../calibration" in done.stderr
    assert "hint: git clone -c core.symlinks=true" in done.stderr
