"""Keep docs/api.txt: every name that users may rely on, with its signature.

Usage: python -m tools.api_snapshot            writes the file and shows what changed
       python -m tools.api_snapshot --check    writes nothing, exits 1 when it differs

Read from the source by griffe, nothing is imported but `batpak` for its `__all__`.
Public are the names that `batpak` offers, those that the modules of PUBLIC and of
batpak itself list in `__all__`, and of classes all that has no leading underscore, be it
inherited from a class that has one. What is in PRIVATE is nobody's business.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import griffe

import batpak

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
PAGE = ROOT / "docs" / "api.txt"
PRIVATE = frozenset(
    {"batpak.engine", "batpak.index", "batpak.journal", "batpak_cli.importers.files"}
)
PUBLIC = ("batpak_cli.importers",)
"""Packages outside of batpak whose modules are documented for use from Python."""
ACCEPT = "if this is meant, accept it with: make api"

_HEAD = """\
The public surface, as `make api` found it in the source. A difference fails `make test`;
a change of this file is a change for users, and belongs into CHANGELOG.md.
"""
_LONGEST_VALUE = 60


def snapshot(source: Path = SOURCE, offered: Sequence[str] | None = None) -> str:
    """The whole file; `offered` are the names of `batpak` itself."""
    names = batpak.__all__ if offered is None else offered
    loader = griffe.GriffeLoader(search_paths=[source], allow_inspection=False)
    packages = [loader.load("batpak")]
    packages += [loader.load(name) for name in PUBLIC if (source / name.replace(".", "/")).is_dir()]
    loader.resolve_aliases()
    top = packages[0]
    described: dict[str, list[str]] = {"batpak": []}
    for name in sorted(names):
        target = _final(top.members[name])
        described["batpak"].append(f"{name} = {target.path}")
        home = target.path.rpartition(".")[0]
        if home.rpartition(".")[0] in PRIVATE:
            described.setdefault(home, []).extend(_describe(target))
    for package in packages:
        for module in _modules(package):
            described[module.path] = [
                line
                for name in sorted(module.exports or ())
                for line in _describe(module.members[str(name)])
            ]
    parts = [_HEAD]
    for path in sorted(described):
        parts.append("\n".join([f"[{path}]", *described[path]]) + "\n")
    return "\n".join(parts)


def _final(found: griffe.Object | griffe.Alias) -> griffe.Object:
    return found.final_target if isinstance(found, griffe.Alias) else found


def _modules(package: griffe.Object | griffe.Alias) -> Iterator[griffe.Object]:
    """Modules that say what they offer, but for those in private rooms."""
    for module in package.modules.values():
        if module.path in PRIVATE or isinstance(module, griffe.Alias):
            continue
        if module.exports:
            yield module
        yield from _modules(module)


def _describe(found: griffe.Object | griffe.Alias, indent: str = "") -> Iterator[str]:
    if isinstance(found, griffe.Alias) and not indent:
        yield f"{found.name} = {found.final_target.path}"
        return
    thing = _final(found)
    if isinstance(thing, griffe.Class):
        yield from _describe_class(thing, indent)
    elif isinstance(thing, griffe.Function):
        for each in thing.overloads or [thing]:
            yield indent + _marks(thing) + f"def {each.signature(return_type=True)}"
    elif isinstance(thing, griffe.Attribute):
        annotation = "" if thing.annotation is None else f": {thing.annotation}"
        yield f"{indent}{_marks(thing)}{thing.name}{annotation}{_value(thing)}"
    else:
        yield f"{indent}{thing.kind.value} {thing.name}"


def _describe_class(thing: griffe.Class, indent: str) -> Iterator[str]:
    bases = [str(base) for base in thing.bases if not str(base).startswith("_")]
    decorators = "".join(f"@{each.value} " for each in thing.decorators)
    yield f"{indent}{decorators}class {thing.name}({', '.join(bases)})"
    members = dict(_members(thing))
    # The order of fields can be that of arguments, the order of methods means nothing.
    for name in [name for name, each in members.items() if isinstance(each, griffe.Attribute)]:
        yield from _describe(members.pop(name), indent + "    ")
    for name in sorted(members):
        yield from _describe(members[name], indent + "    ")


def _members(thing: griffe.Class) -> Iterator[tuple[str, griffe.Object]]:
    """The public members, and those of bases that have no public name themselves."""
    for base in reversed(thing.mro()):
        if base.name.startswith("_"):
            yield from _own(base)
    yield from _own(thing)


def _own(thing: griffe.Class) -> Iterator[tuple[str, griffe.Object]]:
    for name, member in thing.members.items():
        special = name.startswith("__") and name.endswith("__") and name != "__slots__"
        found = _final(member)
        if not name.startswith("_") or (special and isinstance(found, griffe.Function)):
            yield name, found


def _marks(thing: griffe.Object) -> str:
    shown = ("async", "classmethod", "staticmethod", "property", "cached", "writable")
    return "".join(f"{label} " for label in shown if label in thing.labels)


def _value(thing: griffe.Attribute) -> str:
    # What __init__ assigns is how it does it.
    is_assigned = "instance-attribute" in thing.labels and "class-attribute" not in thing.labels
    if thing.value is None or is_assigned or "property" in thing.labels:
        return ""
    text = str(thing.value)
    is_shown = len(text) <= _LONGEST_VALUE and "\n" not in text
    return f" = {text}" if is_shown else " = …"


def difference(stored: str, found: str) -> str:
    """A unified diff that tells where each change belongs; empty where there is none."""
    return "\n".join(_diff(stored.splitlines(), found.splitlines()))


def _diff(stored: Iterable[str], found: Iterable[str]) -> Iterator[str]:
    yield from difflib.unified_diff(
        list(stored), list(found), "docs/api.txt", "the source", lineterm="", n=3
    )


def main(arguments: Sequence[str], page: Path = PAGE) -> int:
    """Write or check the page; the process's exit code."""
    found = snapshot()
    stored = page.read_text("utf-8") if page.is_file() else ""
    changes = difference(stored, found)
    if changes:
        print(changes)
    if "--check" in arguments:
        if changes:
            print(ACCEPT)
        return 1 if changes else 0
    page.write_text(found, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
