"""The built packages work in an empty environment.

Needs the network: it installs from the package index, versions and hashes as locked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ("blake3", "msgspec", "numpy", "cryptography")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(*arguments: str | Path, cwd: Path) -> str:
    return subprocess.run(
        [str(a) for a in arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target, cwd=ROOT)
    [built] = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def core_lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run.lock without the command line's and the build's packages."""
    wanted = (*CORE, "cffi", "pycparser", "typing-extensions")
    entries = (ROOT / "requirements/run.lock").read_text().replace(" \\\n    ", " ").splitlines()
    lock = tmp_path_factory.mktemp("lock") / "core.lock"
    lock.write_text("".join(e + "\n" for e in entries if e.split("==")[0] in wanted))
    return lock


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """The interpreter of a new environment with nothing installed."""
    venv.create(tmp_path / "env", with_pip=True)
    return tmp_path / "env" / "bin" / "python"


def install(python: Path, lock: Path, wheel: Path) -> None:
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet")
    run(*pip, "--require-hashes", "-r", lock, cwd=python.parent)
    run(*pip, "--no-deps", wheel, cwd=python.parent)
    run(python, "-m", "pip", "check", cwd=python.parent)


def test_the_wheel_carries_types_licences_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "batpak/py.typed" in names
    assert {n.rpartition("/")[2] for n in names} >= {"LICENSE-MIT", "LICENSE-APACHE"}
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"batpak", "batpak_cli"}


def test_the_journal_works_with_core_dependencies_only(
    empty: Path, core_lock: Path, wheel: Path, tmp_path: Path
) -> None:
    install(empty, core_lock, wheel)
    program = tmp_path / "first.py"
    program.write_text(
        "from batpak import Coordinate, Store, payload\n"
        "@payload(category=0xF, type_id=1)\n"
        "class Moved:\n"
        "    x: int\n"
        "with Store.open('journal') as store:\n"
        "    receipt = store.append(Coordinate('player:alice', 'room:1'), Moved(x=7))\n"
        "    print(store.get(receipt.event_id).payload.x, store.verify('full').ok)\n"
    )
    assert run(empty, program, cwd=tmp_path) == "7 True\n"


def test_the_command_works_from_the_run_lock(empty: Path, wheel: Path, tmp_path: Path) -> None:
    install(empty, ROOT / "requirements/run.lock", wheel)
    assert "verify" in run(empty.parent / "batpak", "--help", cwd=tmp_path)
