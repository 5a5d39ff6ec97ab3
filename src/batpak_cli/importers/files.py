"""What the importers of files share: batches, bad lines, and finding the place again.

Knows no format: an importer reads its lines, judges them and says where it stands. A
file has to be a regular one and is read by offset; it is never written. The hash of
what stands before an offset tells whether the file is still the one that was imported.
Guide: docs/guide/import.md.
"""

from __future__ import annotations

import os
import stat
from typing import IO, Final

from blake3 import blake3

from batpak.coordinate import name_from_path
from batpak.errors import BatchTooLarge, ImportSourceError, InvalidInput
from batpak.items import Item
from batpak.store import Store
from batpak_cli.importers.report import BadLine, ImportReport, Progress

__all__ = ["BOM", "WINDOW_BYTES", "FileWork", "default_source", "open_source", "source_name"]

BOM: Final = b"\xef\xbb\xbf"
WINDOW_BYTES: Final = 64 << 10
"""Bytes before an offset that a position's hash covers."""
_BATCH_BYTES: Final = 4 << 20
_NAMED_BAD_LINES: Final = 20


def default_source(path: str | os.PathLike[str], prefix: str) -> str:
    """`<prefix><file name>`: the folder may change, the name may not."""
    return name_from_path(os.path.basename(os.fsencode(path)), prefix=prefix)


def source_name(chosen: str | None, default: str) -> str:
    """The name that the journal knows the file by. Raises InvalidInput."""
    if chosen is not None and not chosen.isprintable():
        raise InvalidInput("a source's name is printable text", field="source", value=chosen)
    return chosen or default


def open_source(path: str | os.PathLike[str]) -> IO[bytes]:
    """The file for reading. Raises ImportSourceError for what is no regular file."""
    where = os.fspath(path)
    try:
        # A pipe would wait here for its writer.
        if not stat.S_ISREG(os.stat(where).st_mode):
            raise ImportSourceError(
                "not a regular file: an import has to find its place again",
                file=where,
                advice="write the lines to a file first",
            )
        return open(where, "rb", buffering=1 << 18)
    except OSError as error:
        raise ImportSourceError(
            f"the file can't be read: {error.strerror}", file=where, advice="check the path"
        ) from error


class FileWork:
    """One run over one file: fills batches, and commits each with the position behind it."""

    def __init__(
        self,
        store: Store,
        file: IO[bytes],
        path: str,
        report: ImportReport,
        *,
        skip_bad: bool,
        batch_events: int,
        progress: Progress | None,
    ) -> None:
        self._store = store
        self._file = file
        self._path = path
        self._report = report
        self._skip_bad = skip_bad
        self._batch_events = batch_events
        self._progress = progress
        self._batch: list[tuple[int, Item]] = []
        self._bytes = 0
        # How far lines were looked at; the position of the batch that is being filled.
        self._offset: int = 0
        self._lines: int = 0

    def position(self) -> dict[str, object]:
        """How far the file is imported, as the journal keeps it."""
        raise NotImplementedError

    def put(self, line: int, item: Item, size: int) -> None:
        """Take an event of `size` bytes into the batch; `line` is what made it."""
        self._batch.append((line, item))
        self._bytes += size

    @property
    def full(self) -> bool:
        """Whether the batch is to be committed before more is read."""
        return len(self._batch) >= self._batch_events or self._bytes >= _BATCH_BYTES

    def bad(self, line: int, error: Exception) -> None:
        """Count a bad line, or raise ImportSourceError where that was not asked for."""
        reason = error.what if isinstance(error, InvalidInput) else str(error)
        place = getattr(error, "path", None)
        if place:
            reason = f"{reason} at {place}"
        if not self._skip_bad:
            raise ImportSourceError(
                f"line {line} can't be imported: {reason}",
                file=self._path,
                line=line,
                advice="mend the line, or leave such lines out with --skip-bad",
            ) from error
        self._report.skipped += 1
        if len(self._report.bad) < _NAMED_BAD_LINES:
            self._report.bad.append(BadLine(line, reason))

    def flush(self, file_size: int) -> None:
        """Commit the batch; what the journal refuses of it is a bad line."""
        while self._batch:
            position = self.position()
            try:
                self._store.append_imported(
                    self._report.source, position, [item for _, item in self._batch]
                )
            except BatchTooLarge:
                raise
            except InvalidInput as error:
                if error.index is None:
                    raise
                number, _ = self._batch[error.index]
                self.bad(number, error)
                del self._batch[error.index]
                continue
            self._report.events += len(self._batch)
            self._report.batches += 1
            self._batch, self._bytes = [], 0
        if self._progress is not None:
            self._progress(self._offset, file_size)

    def hash_before(self, offset: int, window: int) -> bytes:
        """BLAKE3 of the `window` bytes before `offset`. Raises ValueError for too many."""
        if window > WINDOW_BYTES:
            raise ValueError(f"a window of {window} bytes")
        return blake3(os.pread(self._file.fileno(), window, offset - window)).digest()

    def other_file(self, why: str) -> ImportSourceError:
        """The refusal of a file that is not the one that was imported under this name."""
        return ImportSourceError(
            f"not the file that was imported as {self._report.source}: {why}",
            file=self._path,
            advice="import it as another source with --source NAME",
        )
