"""What an import costs: each room loads what it needs and nothing above it.

Each case is a fresh interpreter, since this one has everything loaded already.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import batpak

SOURCE = Path(__file__).resolve().parents[2] / "src" / "batpak"

# Core dependencies and what they themselves bring.
CORE = {"batpak", "blake3", "msgspec", "numpy", "cryptography", "cffi", "_cffi_backend"}
CORE |= {"typing_extensions"}  # blake3 asks for it on some versions of Python

# No I/O, so that an auditor needs neither the store nor its platform.
PURE = ("event", "payloads", "receipt", "coordinate", "kinds", "ids", "clock", "canonical")
PURE += ("config", "errors", "proof", "outcome", "machine", "gates")
PURE += ("bundle", "tlog.trees", "tlog.tiles", "tlog.signing")
IMPURE = {"numpy", "fcntl", "mmap", "socket", "asyncio", "batpak.files", "batpak.journal"}
IMPURE |= {"batpak.index", "batpak.store"}

PROGRAM = """
import json, sys
before = set(sys.modules)
{statement}
files = {{
    name: getattr(module, "__file__", None)
    for name, module in list(sys.modules.items())
    if name not in before
}}
print(json.dumps(files))
"""


def loaded_by(statement: str) -> dict[str, str | None]:
    """Modules that a statement loads in a fresh interpreter, with their files."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement=statement)],
        env={"PYTHONPATH": str(SOURCE.parent)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def rooms() -> list[str]:
    """The pure rooms that are there."""
    return [
        name
        for name in PURE
        if (SOURCE / f"{name.replace('.', '/')}.py").exists()
        or (SOURCE / name / "__init__.py").exists()
    ]


def test_the_store_loads_only_the_core_dependencies() -> None:
    loaded = loaded_by("from batpak import Store")
    foreign = {
        name.partition(".")[0]
        for name, file in loaded.items()
        # Without a file: built in, or made up by a compiled package for itself.
        if file is not None and name.partition(".")[0] not in sys.stdlib_module_names
    }
    assert foreign <= CORE


@pytest.mark.proves("INV-NO-TOKIO-PROD")
@pytest.mark.parametrize("unwanted", ["asyncio", "rich", "typer", "anyio", "batpak_cli"])
def test_the_store_loads_no_event_loop_and_no_terminal(unwanted: str) -> None:
    assert unwanted not in loaded_by("from batpak import Store")


def test_the_package_itself_loads_nothing() -> None:
    loaded = loaded_by("import batpak")
    assert {name for name in loaded if name.startswith("batpak.")} <= {"batpak.errors"}
    assert {"numpy", "msgspec", "cryptography", "blake3"}.isdisjoint(loaded)


@pytest.mark.proves("INV-OFFLINE-VERIFICATION-IMPORTS-NO-STORE")
@pytest.mark.parametrize("room", rooms())
def test_a_pure_room_loads_no_store_and_no_platform(room: str) -> None:
    assert IMPURE.isdisjoint(loaded_by(f"import batpak.{room}"))


def test_every_public_name_resolves() -> None:
    program = (
        "import batpak\n"
        "for name in batpak.__all__: assert getattr(batpak, name) is not None\n"
        "assert set(batpak.__all__) <= set(dir(batpak))"
    )
    loaded_by(program)


def test_public_names_are_not_shadowed_by_modules_of_the_same_name() -> None:
    # `import batpak.event` would replace a public name `event` by the module.
    listed = json.loads(
        subprocess.run(
            [sys.executable, "-c", "import batpak, json; print(json.dumps(batpak.__all__))"],
            env={"PYTHONPATH": str(SOURCE.parent)},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    )
    modules = {path.stem for path in SOURCE.glob("*.py")} | {
        path.parent.name for path in SOURCE.glob("*/__init__.py")
    }
    assert modules.isdisjoint(listed)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    loaded_by(
        "import batpak\n"
        "try: batpak.no_such_name\n"
        "except AttributeError as error: assert 'no_such_name' in str(error)\n"
        "else: raise SystemExit('resolved a name that does not exist')"
    )


def coroutines(thing: object, name: str) -> list[str]:
    """Names of what must be awaited: the thing itself, or what its class holds."""
    members = inspect.getmembers_static(thing) if inspect.isclass(thing) else []
    return [
        where
        for where, member in [(name, thing), *((f"{name}.{n}", m) for n, m in members)]
        if inspect.iscoroutinefunction(inspect.unwrap(getattr(member, "__func__", member)))
        or inspect.isasyncgenfunction(member)
        or where.rpartition(".")[2] in ("__aenter__", "__aiter__", "__await__")
    ]


@pytest.mark.proves("INV-STORE-SYNC-ONLY")
def test_nothing_public_is_awaited() -> None:
    found = [c for name in batpak.__all__ for c in coroutines(getattr(batpak, name), name)]
    assert found == []


def test_the_search_for_coroutines_sees_them() -> None:
    class Asynchronous:
        async def append(self) -> None: ...
        @classmethod
        async def open(cls) -> None: ...
        async def scan(self):  # an async generator
            yield

        def __aiter__(self): ...
        def close(self) -> None: ...

    names = {name.rpartition(".")[2] for name in coroutines(Asynchronous, "A")}
    assert names == {"append", "open", "scan", "__aiter__"}
