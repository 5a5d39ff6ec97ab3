"""Judge a recorded history of concurrent calls: was each answer right at one moment?

A journal gives its own witness of the order: sequence numbers. So no search is needed.
The state is always a prefix of the final log, and each call happened at one length of it,
which has to lie between what calls that had ended before it prove and what calls that
began after it prove. `check` finds that room for each call and says what has none:

    a write      stands in the log once, whole, at its receipt's place; all that was
                 written by calls that ended before it began stands before it, and it
                 stands before all of calls that began after it ended
    expect       the entity's events before it are as many as was expected
    unless       nothing between `after` and it matches
    a key        has one event; whoever retried got that event's receipt
    a refusal    was right at some length in its room
    a read       shows some length in its room; lengths that reads show never shrink

In `Durability.SYNC` refusals know of written events that reads don't show yet: so there
are two lower bounds, of what is written and of what is visible.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Call", "Fact", "History", "check"]


@dataclass(frozen=True, slots=True)
class Fact:
    """An event of the log: all that a condition or a read can ask for."""

    entity: str
    clock: int
    content: Any
    key: int | None = None


@dataclass(slots=True)
class Call:
    """One call. `begin` and `end` are ticks of one clock for all threads.

    `written` are sequences given to events of this call's own, `replayed` those of events
    that were there already. `refused` says why nothing was written: ("expect", actual),
    ("unless", sequence) or ("key", sequence). Of a read, `read` is ("len", length) or
    ("latest", entity, sequence or None).
    """

    begin: int
    end: int = -1
    facts: Sequence[tuple[str, Any, int | None]] = ()
    """Entity, content and key of each event that was to be written."""
    expect: tuple[str, int] | None = None
    """An entity and how many events it has to have."""
    unless: tuple[str, int] | None = None
    """An entity of which there must be no event after this sequence; -1 for none at all."""
    written: Sequence[int] = ()
    replayed: Sequence[int] = ()
    refused: tuple[Any, ...] = ()
    read: tuple[Any, ...] = ()


@dataclass
class History:
    """Calls of all threads, recorded as they happen."""

    calls: list[Call] = field(default_factory=list[Call])
    _ticks: Any = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, call: Callable[[Call], None], **known: Any) -> Call:
        """Record a call: `call` fills in what came of it."""
        made = self.begin(**known)
        call(made)
        self.end(made)
        return made

    def begin(self, **known: Any) -> Call:
        """A call begins."""
        return Call(next(self._ticks), **known)

    def end(self, made: Call) -> None:
        """It is over, and what came of it is in it."""
        made.end = next(self._ticks)
        with self._lock:
            self.calls.append(made)


def check(log: Sequence[Fact], calls: Sequence[Call]) -> list[str]:
    """What is wrong, in words; empty for a history that could have happened."""
    wrong = _Log(log)
    by_begin = sorted(calls, key=lambda call: call.begin)
    by_end = sorted(calls, key=lambda call: call.end)
    # What calls that began after this one's end have written stands behind it.
    most: dict[int, int] = {}
    bound, later = len(log), list(by_begin)
    for call in reversed(by_end):
        while later and later[-1].begin > call.end:
            bound = min([bound, *later.pop().written])
        most[id(call)] = bound
    written = visible = 0
    ended = iter(by_end)
    following = next(ended, None)
    least: dict[int, tuple[int, int]] = {}
    for call in by_begin:
        while following is not None and following.end < call.begin:
            w, v = least[id(following)]
            written, visible = max(written, w), max(visible, v)
            following = next(ended, None)
        least[id(call)] = wrong.judge(call, written, visible, most[id(call)])
    wrong.judge_all(calls)
    return wrong.found


class _Log:
    """The final log, and what was found to be wrong with calls."""

    def __init__(self, log: Sequence[Fact]) -> None:
        self.log = log
        self.found: list[str] = []
        self.places: dict[str, list[int]] = {}
        self.keys: dict[int, int] = {}
        for sequence, fact in enumerate(log):
            self.places.setdefault(fact.entity, []).append(sequence)
            if fact.key is not None:
                if fact.key in self.keys:
                    self.found.append(f"key {fact.key} stands for two events")
                self.keys[fact.key] = sequence

    def judge(self, call: Call, written: int, visible: int, most: int) -> tuple[int, int]:
        """Judge a call; the lengths of written and of visible log that it proves."""
        if call.written:
            return self._write(call, written, most)
        if call.replayed:
            return self._replay(call, most)
        if call.refused:
            return self._refusal(call, written, most), visible
        if call.read:
            shown = self._read(call, visible, most)
            return shown, shown
        self.found.append(f"{call}: came to nothing")
        return 0, 0

    def _write(self, call: Call, written: int, most: int) -> tuple[int, int]:
        first, last = call.written[0], call.written[-1]
        if list(call.written) != list(range(first, last + 1)):
            self.found.append(f"{call}: others stand between the events of one commit")
        for sequence, (entity, content, key) in zip(call.written, call.facts, strict=True):
            if not 0 <= sequence < len(self.log):
                self.found.append(f"{call}: acknowledged and not there")
                return 0, 0
            fact = self.log[sequence]
            if (fact.entity, fact.content, fact.key) != (entity, content, key):
                self.found.append(f"{call}: at {sequence} stands {fact}")
        if first < written:
            self.found.append(f"{call}: stands before what others saw before it began: {written}")
        if last >= most:
            self.found.append(f"{call}: stands behind what began after it ended: {most}")
        if call.expect is not None:
            entity, count = call.expect
            if self._count(entity, first) != count:
                self.found.append(f"{call}: written on {self._count(entity, first)} events")
        if call.unless is not None:
            entity, after = call.unless
            between = [at for at in self.places.get(entity, ()) if after < at < first]
            if between:
                self.found.append(f"{call}: written although {between} came before it")
        return last + 1, last + 1

    def _replay(self, call: Call, most: int) -> tuple[int, int]:
        for sequence, (_, _, key) in zip(call.replayed, call.facts, strict=True):
            if key is None or self.keys.get(key) != sequence:
                self.found.append(f"{call}: a stranger's receipt: {sequence}")
            if sequence >= most:
                self.found.append(f"{call}: knew of an event that began after it ended")
        return max(call.replayed) + 1, max(call.replayed) + 1

    def _refusal(self, call: Call, written: int, most: int) -> int:
        why = call.refused
        if why[0] == "expect":
            assert call.expect is not None, "else it could not be refused so"
            entity, count = call.expect
            low, high = self._lengths(entity, why[1])
            low, high = max(low, written), min(high, most)
            if why[1] == count or low > high:
                self.found.append(f"{call}: {why[1]} events were never there meanwhile")
            return low
        sequence = why[1]
        if not 0 <= sequence < most:
            self.found.append(f"{call}: refused for what was not there yet: {sequence}")
            return written
        if why[0] == "unless":
            assert call.unless is not None, "else it could not be refused so"
            entity, after = call.unless
            if self.log[sequence].entity != entity or sequence <= after:
                self.found.append(f"{call}: refused for what does not match: {sequence}")
        else:
            [(entity, content, key)] = call.facts
            fact = self.log[sequence]
            if fact.key != key or (fact.entity, fact.content) == (entity, content):
                self.found.append(f"{call}: refused for {fact}")
        return max(written, sequence + 1)

    def _read(self, call: Call, visible: int, most: int) -> int:
        if call.read[0] == "len":
            length = call.read[1]
            if not visible <= length <= most:
                self.found.append(f"{call}: showed {length}, not from {visible} to {most}")
            return length
        _, entity, sequence = call.read
        places = self.places.get(entity, [])
        if sequence is not None and sequence not in places:
            self.found.append(f"{call}: showed another entity's event")
            return visible
        low, high = self._lengths(entity, 0 if sequence is None else places.index(sequence) + 1)
        low, high = max(low, visible), min(high, most)
        if low > high:
            self.found.append(f"{call}: not the latest from {visible} to {most}")
        return low

    def judge_all(self, calls: Sequence[Call]) -> None:
        """What only all calls together show: nobody wrote what nobody asked for, or twice."""
        given = [sequence for call in calls for sequence in call.written]
        if len(given) != len(set(given)):
            self.found.append("one place was given to two events")
        strangers = set(range(len(self.log))) - set(given)
        if any(self.log[at].content is not None for at in strangers):
            self.found.append("there are events that nobody was told of")

    def _count(self, entity: str, length: int) -> int:
        return sum(at < length for at in self.places.get(entity, ()))

    def _lengths(self, entity: str, count: int) -> tuple[int, int]:
        """The shortest and the longest log in which the entity has so many events."""
        places = self.places.get(entity, [])
        if count > len(places):
            return len(self.log) + 1, -1
        low = places[count - 1] + 1 if count else 0
        high = places[count] if count < len(places) else len(self.log)
        return low, high
