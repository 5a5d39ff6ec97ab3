"""Pages of the site that are not files of docs/; a hook of mkdocs, named in mkdocs.yml.

README.md is the front page, and the other pages of the root stand beside it: they are
read where they are, with their links into docs/ made to fit. The reference of the API
is made of the names that `batpak` offers, in the groups of their modules. Pages that a
folder of the navigation holds are added to it, so that a new one cannot be forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import batpak

ROOT = Path(__file__).resolve().parent.parent
FRONT = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
}
"""Pages of the root, and what they are called on the site."""

_LINK = re.compile(r"\]\((?P<target>[^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder that the navigation names in its place."""
    config.nav = [_with_pages(entry, Path(config.docs_dir)) for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and leave out what is no page."""
    for name, on_site in FRONT.items():
        text = _relinked((ROOT / name).read_text("utf-8"))
        files.append(File.generated(config, on_site, content=text))
    files.append(File.generated(config, "api.md", content=api_page()))
    for file in list(files):
        if file.src_uri.endswith((".toml", ".txt")):
            files.remove(file)
    return files


def api_page() -> str:
    """Every public name under its module, for mkdocstrings to fill in."""
    parts = [
        "# API\n",
        "The names that `batpak` offers, by the modules that they live in; import them from "
        "`batpak`. All of the surface, one line a name, is `docs/api.txt` in the source.\n",
    ]
    for home, names in _by_home().items():
        parts.append(f"## {home}\n")
        parts += [f"::: {home}.{name}\n" for name in names]
    return "\n".join(parts)


def _by_home() -> dict[str, list[str]]:
    homes: dict[str, list[str]] = {}
    for name in batpak.__all__:
        homes.setdefault(getattr(batpak, name).__module__, []).append(name)
    return dict(sorted(homes.items()))


def _relinked(text: str) -> str:
    """Links of a page of the root, as they are from the top of the site."""
    return _LINK.sub(lambda link: f"]({_on_site(link['target'])}", text)


def _on_site(target: str) -> str:
    return FRONT.get(target, target.removeprefix("docs/"))


def _with_pages(entry: Any, docs: Path) -> Any:
    if isinstance(entry, dict):
        return {title: _with_pages(below, docs) for title, below in entry.items()}
    if isinstance(entry, list):
        return [_with_pages(each, docs) for each in entry]
    return list(_pages(docs, entry)) if entry.endswith("/") else entry


def _pages(docs: Path, folder: str) -> Iterator[str]:
    for path in sorted((docs / folder).glob("*.md")):
        yield path.relative_to(docs).as_posix()
