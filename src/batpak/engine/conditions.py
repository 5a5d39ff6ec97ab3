"""Hold a commit's conditions against the journal, in two looks.

The first look, before the append lock, goes through everything written by then, however
long that takes; the second, under the lock, only through what came since. So a condition
over a long past holds nobody up. Knows the index, not what is to be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batpak.coordinate import Region
from batpak.engine.preparing import expected_clock
from batpak.engine.reading import LogReader
from batpak.errors import ConditionFailed, InvalidInput
from batpak.index.query import Query
from batpak.items import Expect, Unless
from batpak.journal.writer import Writer, unexpected

__all__ = ["Guard", "check_conditions", "guard_of"]


class Guard:
    """The conditions of one commit. `look` first; the writer calls it under its lock."""

    def __init__(
        self,
        reader: LogReader,
        writer: Writer,
        expected: Sequence[tuple[str, bytes, int]],
        unless: Unless | None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._expected = expected
        self._low = 0 if unless is None or unless.after is None else unless.after + 1
        self._ruled_out = () if unless is None else unless.regions
        self.refusal: ConditionFailed | None = None
        """What the first look found; the second raises it, unless keys are known by then."""

    def look(self) -> None:
        """Through all that is written now. Raises InvalidInput; a refusal is kept."""
        written = self._writer.log.sequence
        if self._low > written:
            raise InvalidInput(
                f"after= names event {self._low - 1}; the journal has {written}",
                field="unless",
                value=self._low - 1,
                advice="pass the sequence of the last event that the decision has seen",
            )
        try:
            self._search(written)
        except ConditionFailed as error:
            self.refusal = error

    def __call__(self, written: int) -> None:
        """Under the append lock, with all that is written. Raises Conflict."""
        for name, entity, clock in self._expected:
            actual = self._writer.head(entity)[0]
            if actual != clock:
                raise unexpected(name, actual, clock)
        if self.refusal is not None:
            raise self.refusal
        self._search(written)

    def _search(self, written: int) -> None:
        if self._low >= written:
            return
        for region in self._ruled_out:
            found = self._reader.first_match(Query.of(region), self._low, written)
            if found is not None:
                raise _ruled_out(region, found)
        self._low = written


def guard_of(
    reader: LogReader,
    writer: Writer,
    expected: Sequence[tuple[str, bytes, int]],
    unless: Unless | None,
) -> Guard:
    """The guard of a commit, after its first look. Raises InvalidInput."""
    guard = Guard(reader, writer, expected, unless)
    guard.look()
    return guard


def check_conditions(
    expect: Mapping[str, int | Expect] | None, unless: Unless | None
) -> list[tuple[str, bytes, int]]:
    """Refuse conditions that are none, whatever the journal holds. Raises InvalidInput.

    Gives what is expected: of each entity its name, its bytes, and its next clock.
    """
    if unless is not None and not isinstance(unless, Unless):
        raise InvalidInput(
            "unless= takes an Unless",
            field="unless",
            value=unless,
            advice="write unless=Unless(Region(…), after=sequence)",
        )
    expected: list[tuple[str, bytes, int]] = []
    if expect is not None:
        if not isinstance(expect, Mapping):
            raise InvalidInput(
                "a batch's expect= maps entities to clocks",
                field="expect",
                value=expect,
                advice='write expect={"player:alice": 3}',
            )
        for name, clock in expect.items():
            if not isinstance(name, str):
                raise InvalidInput(
                    "an entity is named by a text",
                    field="expect",
                    value=name,
                    advice='write expect={coordinate.entity: 3}, or {"player:alice": 3}',
                )
            expected.append((name, name.encode("utf-8", "surrogatepass"), expected_clock(clock)))
    return expected


def _ruled_out(region: Region, sequence: int) -> ConditionFailed:
    return ConditionFailed(
        f"event {sequence} matches {region}, which the commit rules out",
        sequence=sequence,
        region=repr(region),
        advice="read what came since and decide anew",
    )
