"""The mutation tool makes the mutants that it says, and chooses the tests that run them."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest

from tests.support.effort import sample
from tools.mutation import __main__ as command
from tools.mutation.operators import Mutant, mutants_of
from tools.mutation.targets import LEFT_OUT, MODULES, TESTS
from tools.mutation.trial import Covering, Outcome, Verdict

ROOT = Path(__file__).parents[2]


def changes(source: str) -> list[tuple[str, str]]:
    return [(m.old, m.new) for m in mutants_of(textwrap.dedent(source), "m.py")]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", [("a < b", "a <= b"), ("a < b", "a >= b")]),
        ("x = a == b", [("a == b", "a != b")]),
        ("x = a is not b", [("a is not b", "a is b")]),
        ("x = a in b", [("a in b", "a not in b")]),
        ("x = a <= b < c", [
            ("a <= b < c", "a < b < c"), ("a <= b < c", "a <= b <= c"),
            ("a <= b < c", "a <= b >= c"), ("a <= b < c", "a > b < c"),
        ]),
        ("x = a + b", [("a + b", "a - b")]),
        ("x = a // b", [("a // b", "a * b")]),
        ("x = a << b", [("a << b", "a >> b")]),
        ("x = a & b", [("a & b", "a | b")]),
        ("x = a and b", [("a and b", "a or b")]),
        ("x = a or b or c", [
            ("a or b or c", "a and b or c"), ("a or b or c", "a or b and c"),
        ]),
        ("x = not a", [("not a", "a")]),
        ("x = -a", [("-a", "(a)")]),
        ("x = 7", [("7", "8")]),
        ("x = 0x10", [("0x10", "0x11")]),
        ("x = True", [("True", "False")]),
        ("x = b'BPC1'", [("b'BPC1'", "b'CPC1'")]),
        ("x = b''", [("b''", 'b"\\1"')]),
        ("x = 'end-of-file'", [("'end-of-file'", "'end-of-file!'")]),
        ("x += a", [("x += a", "x -= a")]),
        ("self.x = a", [("self.x = a", "pass")]),
        ("f(a)", [("f(a)", "pass")]),
        ("if a: f()", [("a", "not (a)"), ("f()", "pass")]),
        ("if a < b: f()", [("a < b", "a <= b"), ("a < b", "a >= b"), ("f()", "pass")]),
        ("def f():\n    return a", [("return a", "return None")]),
        ("def f(a=1): ...", [("1", "2")]),
        ("raise error", [("raise error", "pass")]),
        ("while a:\n    break", [("a", "not (a)"), ("break", "continue")]),
        ("x = f(a, file=1)", [("1", "2")]),
    ],
)  # fmt: skip
def test_each_operator_makes_its_mutants(source: str, expected: list[tuple[str, str]]) -> None:
    assert sorted(changes(source)) == sorted(expected)


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""',
        "def f() -> 'text': ...",
        "x: 'int'",
        "x = 'prose has spaces'",
        "x = f'{y}'",
        "assert x < 5",
        "import a",
        "from a import b",
        "__all__ = ['a', 'b']",
        "logger.info('x', 1)",
        "x = struct.Struct('<I')",
        "x = f(advice='once')",
        "x = cast('list[int]', y)",
        "def __repr__(self):\n    return 'x'",
        "if TYPE_CHECKING:\n    x = 1",
        "x = ''",
    ],
)
def test_what_no_test_should_notice_is_left_alone(source: str) -> None:
    assert changes(source) == []


def test_every_mutant_of_every_module_is_a_program_and_has_an_id_of_its_own() -> None:
    mutants = command.all_mutants()
    assert len({mutant.id for mutant in mutants}) == len(mutants) > 1000
    assert {mutant.module for mutant in mutants} == set(MODULES)
    sources = {module: (ROOT / "src" / module).read_bytes() for module in MODULES}
    for mutant in mutants:
        source = sources[mutant.module]
        changed = mutant.apply(source)
        assert changed != source
        assert changed.startswith(source[: mutant.start])
        assert changed.endswith(source[mutant.end :])
        assert source[mutant.start : mutant.end].decode() == mutant.old
    # To parse a module is most of the work.
    for mutant in sample("mutants that are parsed", mutants, 200):
        ast.parse(mutant.apply(sources[mutant.module]))


def test_an_id_stays_when_other_lines_change() -> None:
    one = "def f(a):\n    return a < 1\n"
    two = "# größer\n\nx = 5\n\n" + one
    before = {m.id for m in mutants_of(one, "m.py")}
    assert before < {m.id for m in mutants_of(two, "m.py")}
    twice = mutants_of("def f(a):\n    g(1)\n    g(1)\n", "m.py")
    assert len({m.id for m in twice}) == len(twice) == 4


def mutant(
    line: int, where: str = "f", end_line: int | None = None, statement: int | None = None
) -> Mutant:
    return Mutant("m.py", line, end_line or line, 0, 1, "a", "b", where, 0, statement or line)


LINES = {"1": [""], "2": ["", "t::one"], "3": ["t::two", "t::one"], "5": ["t::three"]}
SECONDS = {"t::one": 3.0, "t::two": 1.0, "t::three": 2.0}


def covering(cases: int = 0) -> Covering:
    return Covering({"seconds": SECONDS, "lines": {"m.py": LINES}}, cases)


@pytest.mark.parametrize(
    ("changed", "tests"),
    [
        (mutant(3), ["t::two", "t::one"]),
        (mutant(5), ["t::three"]),
        (mutant(4), []),
        (mutant(3, end_line=5), ["t::two", "t::three", "t::one"]),
        (mutant(1, ""), ["t::two", "t::three", "t::one"]),
        (mutant(4, "", statement=1), ["t::two", "t::three", "t::one"]),
        (mutant(4, "C", statement=1), ["t::two", "t::three", "t::one"]),
        (mutant(4, "f", statement=3), ["t::two", "t::one"]),
        (mutant(1, "f"), ["t::two", "t::three", "t::one"]),
        (mutant(2, "f"), ["t::one"]),
    ],
)
def test_a_mutant_is_given_to_the_tests_that_run_it_fastest_first(
    changed: Mutant, tests: list[str]
) -> None:
    assert covering().of(changed) == tests


def test_of_many_cases_of_a_costly_test_some_from_all_over_are_run() -> None:
    cases = [f"t::many[{n:03}]" for n in range(100)]
    found = {
        "seconds": dict.fromkeys(cases, 1.0) | {"t::one": 9.0},
        "lines": {"m.py": {"1": [*cases, "t::one"]}},
    }
    chosen = Covering(found, 4).of(mutant(1))
    assert chosen == ["t::many[000]", "t::many[025]", "t::many[050]", "t::many[075]", "t::one"]
    assert len(Covering(found).of(mutant(1))) == 101
    cheap = found | {"seconds": dict.fromkeys(cases, 0.01) | {"t::one": 9.0}}
    assert len(Covering(cheap, 4).of(mutant(1))) == 101


def test_a_test_is_given_far_more_time_than_it_takes() -> None:
    covering = Covering({"seconds": {"a": 0.1, "b": 3.0, "c": 50.0}, "lines": {}})
    assert [covering.bound(test) for test in "abc"] == [20, 60, 260]


def test_the_score_counts_survivors_whether_they_are_explained_or_not() -> None:
    found = [
        Verdict(Mutant(MODULES[0], 1, 1, 0, 1, str(n), "x", "f", 0), outcome)
        for n, outcome in enumerate(
            [Outcome.KILLED] * 6 + [Outcome.TIMEOUT, Outcome.SURVIVED, Outcome.UNCOVERED] * 1
        )
    ]
    page = f"| `{found[7].mutant.id}` | `a` → `b` | it is the same |\n| `nothing` | x | y |\n"
    reasons = command.explained(page)
    assert reasons == {found[7].mutant.id: "it is the same"}
    table, score = command.summary(found, reasons)
    assert score == pytest.approx(100 * 7 / 9)
    assert "of the 2 left, 1 are explained" in table
    assert command.summary([], {})[1] == 0


def test_what_docs_mutation_explains_is_a_mutant_of_today() -> None:
    known = {mutant.id for mutant in command.all_mutants()}
    reasons = command.explained(command.PAGE.read_text(encoding="utf-8"))
    assert reasons.keys() <= known
    assert all(len(reason) > 10 for reason in reasons.values())


def test_every_target_and_every_folder_of_tests_is_there() -> None:
    assert all((ROOT / "src" / module).is_file() for module in MODULES)
    assert all((ROOT / folder).is_dir() for folder in (*TESTS, *LEFT_OUT))
