"""The documentation builds as a site, without a warning and without a network.

Needs requirements/docs.lock, which `make test-system` installs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import batpak

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"  # the discard port: whoever fetches anything fails
ENVIRONMENT = os.environ | {
    "NO_MKDOCS_2_WARNING": "1",
    **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"), NOWHERE),
    "no_proxy": "",
}
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
}


class Loaded(HTMLParser):
    """What a browser fetches with a page, and what the page offers to be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.ids: set[str] = set()
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids.add(found.get("id", ""))
        self.classes.update(found.get("class", "").split())
        if tag == "link" and found.get("rel") not in ("canonical", "next", "prev"):
            self.resources.append(found.get("href", ""))
        if LOADS.get(tag, "") in found:
            self.resources.append(found[LOADS[tag]])


def build(root: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(target)],
        cwd=root,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT, target)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Loaded]:
    return {
        path.relative_to(site).as_posix(): Loaded(path.read_text("utf-8"))
        for path in site.rglob("*.html")
    }


def test_every_page_of_the_docs_is_on_the_site(pages: dict[str, Loaded]) -> None:
    written = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    expected = {path.with_suffix(".html").as_posix() for path in written}
    assert len(expected) > 10
    assert pages.keys() >= expected | {"index.html", "api.html", "SECURITY.html", "CHANGELOG.html"}


def test_a_browser_fetches_nothing_from_elsewhere(site: Path, pages: dict[str, Loaded]) -> None:
    fetched = {(page, each) for page, found in pages.items() for each in found.resources}
    assert len(fetched) > len(pages)
    assert [pair for pair in fetched if re.match(r"(?:[a-z]+:)?//", pair[1])] == []
    styles = [path.read_text("utf-8") for path in site.rglob("*.css")]
    assert styles
    outside = r"url\([\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//"
    assert [found for text in styles for found in re.findall(outside, text)] == []
    # The theme's script would fetch another to draw such a diagram.
    assert not [page for page, found in pages.items() if "mermaid" in found.classes]


def test_every_public_name_has_its_place_in_the_reference(pages: dict[str, Loaded]) -> None:
    homes = {name: getattr(batpak, name).__module__ for name in batpak.__all__}
    assert {f"{home}.{name}" for name, home in homes.items()} <= pages["api.html"].ids
    assert "batpak.store.Store.append" in pages["api.html"].ids


@pytest.mark.parametrize(
    ("page", "added", "said"),
    [
        ("README.md", "\n[gone](docs/gone.md)\n", "gone.md"),
        ("docs/damage.md", "\n[gone](format.md#no-such-heading)\n", "no-such-heading"),
        ("docs/unlisted.md", "# Unlisted\n", "unlisted.md"),
    ],
)
def test_a_link_to_nowhere_and_a_page_that_is_left_out_stop_the_build(
    tmp_path: Path, page: str, added: str, said: str
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("docs", "tools"):
        shutil.copytree(ROOT / name, copy / name)
    for path in [*ROOT.glob("*.md"), ROOT / "mkdocs.yml"]:
        shutil.copy(path, copy)
    (copy / "src").symlink_to(ROOT / "src")
    with (copy / page).open("a") as file:
        file.write(added)
    done = build(copy, tmp_path / "site")
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
