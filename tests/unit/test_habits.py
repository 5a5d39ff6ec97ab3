"""Habits that no tool checks for us: suppressions give reasons, locks give hashes."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for room in ("src", "tests", "tools", "benchmarks") for path in (ROOT / room).rglob("*.py")
)
LOCKS = ("run", "dev", "docs", "bench", "fuzz", "lock")

SUPPRESSION = re.compile(r"# *(?:noqa|(?:type|pyright|ruff): *(?:ignore|noqa)|pragma: *no)\b")
EXPLAINED = re.compile(
    r"# *(?:noqa: *[A-Z]+\d+(?:, *[A-Z]+\d+)*"
    r"|(?:type|pyright): *ignore\[[\w, -]+\]"
    r"|pragma: *no (?:cover|branch))"
    r" +# (?P<reason>\S+ \S.*)"
)


def unexplained(source: str) -> list[int]:
    """Lines whose comment switches a check off without naming the rule and a reason."""
    comments = (
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    )
    return [
        comment.start[0]
        for comment in comments
        if SUPPRESSION.match(comment.string) and not EXPLAINED.match(comment.string)
    ]


@pytest.mark.proves("INV-ALLOW-IS-DESIGN")
def test_every_suppression_names_its_rule_and_its_reason() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line in unexplained(path.read_text("utf-8"))
    }
    assert not found, "write it as `# type: ignore[rule]  # the reason, in words`"


@pytest.mark.parametrize(
    ("comment", "passes"),
    [
        ("# noqa", False),
        ("# noqa: E501", False),
        ("# noqa: E501  # a table, read in columns", True),
        ("# type: ignore  # because of reasons", False),
        ("# type: ignore[arg-type]", False),
        ("# pyright: ignore[reportPrivateUsage]  # its own test", True),
        ("# pragma: no cover", False),
        ("# pragma: no cover  # only on macOS", True),
        ("# ruff: noqa", False),
        ("# says why, as comments should", True),
    ],
)
def test_the_search_for_suppressions_sees_them(comment: str, passes: bool) -> None:
    assert unexplained(f"x = 1  {comment}\n") == ([] if passes else [1])


def locked(name: str) -> dict[str, set[str]]:
    """Package and marker to the pinned lines of a lock; each must carry hashes."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text().replace("\\\n", " ")
    pins: dict[str, set[str]] = {}
    for line in text.splitlines():
        pin, *hashes = line.split("--hash=")
        package, _, version = pin.strip().partition("==")
        assert version, f"{name}.lock: {line[:60]} is no exact version"
        assert hashes, f"{name}.lock: {package} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64} *", each) for each in hashes), package
        pins.setdefault(package, set()).add(version)
    return pins


@pytest.mark.proves("INV-CANONICAL-CONTAINER-CI")
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_exact_versions_with_hashes_and_no_address(name: str) -> None:
    assert locked(name)


@pytest.mark.proves("INV-CANONICAL-CONTAINER-CI")
@pytest.mark.parametrize(
    ("lower", "upper"), [("run", "dev"), ("dev", "docs"), ("dev", "bench"), ("dev", "fuzz")]
)
def test_locks_that_build_on_each_other_agree(lower: str, upper: str) -> None:
    above = locked(upper)
    for name, pins in locked(lower).items():
        # A package for one platform below may be one for all above.
        everywhere = {pin.partition(" ;")[0] for pin in pins}
        assert above.get(name) in (pins, everywhere), name


def test_no_unlisted_lock_lies_about() -> None:
    assert {path.stem for path in (ROOT / "requirements").glob("*.lock")} == set(LOCKS)
