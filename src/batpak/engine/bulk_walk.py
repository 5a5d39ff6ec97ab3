"""Take ordinary records into the index many at a time, where an opening has many to read.

What recovery may accept is decided in `batpak.journal.recovery`, record by record; here
only what is beyond all doubt is accepted, by `batpak.engine.bulk_check`, and the rest is
left. Loads NumPy, and only where that pays.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from batpak.errors import BatpakError
from batpak.event import NO_HASH
from batpak.index.growing import GrowingPart
from batpak.journal.commits import Head
from batpak.journal.header import SegmentHeader
from batpak.journal.record import Chain, Read, salt_crc
from batpak.journal.recovery import Taken, Witness

if TYPE_CHECKING:
    from batpak.engine.bulk_check import Pace, Past, Seal

__all__ = ["WORTH", "BulkWalk"]

WORTH = 4 << 20
"""Bytes of records from which on loading NumPy costs less than looking at each by itself."""
_PAGE: Final = 4096
_LATER: Final = 256
"""How many records are looked at one by one before it is asked again whether there are many."""
_NO_END: Final = (1 << 63) - 1


class BulkWalk:
    """Takes what is ordinary of one segment into `growing`; `heads` says where streams end.

    What it takes at or past D depends on who reads: what proves itself, where `cold_head`
    gives the end of a stream that `heads` does not know; with `eager`, what is whole and its
    writer let readers see.
    """

    def __init__(
        self,
        read: Read,
        size: int,
        header: SegmentHeader,
        growing: GrowingPart,
        heads: dict[bytes, Head],
        cold_head: Callable[[bytes], Head | None] | None = None,
        *,
        eager: bool = False,
    ) -> None:
        self.size = size
        """Length of the segment, which may grow."""
        self._read = read
        self._salt_state = salt_crc(header.salt)
        self.growing = growing
        self._heads = heads
        self._cold_head = cold_head
        self._eager = eager
        self._tools: tuple[Seal, Past, _Streams, Pace] | None = None
        self._wait = 0
        """How many records are to be looked at one by one before the next attempt."""
        self._goes_on = False
        """Whether all was ordinary so far, so that what follows may be, however little it is."""

    def take(self, chain: Chain, durable: int) -> Taken | None:
        """Apply the run of ordinary records at `chain`; None where the next one is not.

        Below D, which is `durable`, a record's row has to be right; from there on all of it.
        """
        if self._wait:
            self._wait -= 1
            return None
        is_below = chain.sequence < durable
        if not self._goes_on and not self._is_worth_it(chain):
            self._wait = _LATER
            return None
        from batpak.engine.bulk_check import check_run

        seal, past, streams, pace = self._tools = self._tools or self._begun()
        # Of a stream that is not known its first event here can't be checked; below D nobody
        # asks for it.
        past.after_gap = is_below or self._eager
        streams.asks = not is_below
        window = self._read(chain.offset, max(min(pace.window, self.size - chain.offset), 0))
        run = check_run(
            window, chain, min(durable, _NO_END) if is_below else _NO_END, seal, past,
            full=not is_below, within=is_below, eager=self._eager and not is_below,
            is_name=_any, are_extensions=_any,
        )  # fmt: skip
        self._goes_on = run is not None and run.is_whole
        pace.tried(run, 0 if run is None else run.chain.offset - chain.offset)
        self._wait, pace.closely = pace.closely, 0
        if run is None:
            return None
        self.growing.extend(chain.sequence, run.columns(), run.clocks)
        nexts, ends = array("Q"), array("Q")
        nexts.frombytes(run.record_nexts.tobytes())
        ends.frombytes(run.record_ends.tobytes())
        bound, at = run.durable
        return Taken(
            run.chain, Witness(bound, f"record at {at}"), nexts, ends, run.last_record,
            run.hashes[-32:],
        )  # fmt: skip

    def _is_worth_it(self, chain: Chain) -> bool:
        """Whether there is much to read: what is reserved ahead in the file is zeros."""
        far = chain.offset + WORTH
        last = max(far - _PAGE, chain.offset)
        return self.size > far and bool(self._read(last, _PAGE).strip(b"\0"))

    def _begun(self) -> tuple[Seal, Past, _Streams, Pace]:
        from batpak.engine.bulk_check import Pace, Past, Seal

        streams = _Streams(self._heads, self._cold_head)
        return Seal(self._salt_state), Past(streams), streams, Pace()


class _Streams:
    """Where streams end: as known, or as older segments say."""

    def __init__(
        self, known: dict[bytes, Head], cold_head: Callable[[bytes], Head | None] | None
    ) -> None:
        self._known = known
        self._cold_head = cold_head
        self.asks = True
        """Whether older segments are asked at all: that is a search in each of them."""

    def get(self, entity: bytes, /) -> Head | None:
        found = self._known.get(entity)
        if found is not None or self._cold_head is None or not self.asks:
            return found
        try:
            return self._cold_head(entity)
        except BatpakError:
            # No clock is that: the event is left to whoever looks closely.
            return -1, NO_HASH

    def __contains__(self, entity: object, /) -> bool:
        return entity in self._known

    def __setitem__(self, entity: bytes, head: Head, /) -> None:
        self._known[entity] = head

    def clear(self) -> None:
        self._known.clear()


def _any(_name: bytes) -> bool:
    """Recovery asks for no more than a name's length."""
    return True
