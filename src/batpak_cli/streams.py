"""The standard streams of the program: what becomes of output that has nowhere to go.

A result that can't be written is an error, once; what is said beside it never is, since
an exit code says the same. Every text can be written, whatever the encoding.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from typing import TextIO, cast

from batpak.errors import Unavailable

__all__ = ["OutputFailed", "ReaderLeft", "claim", "document"]

_ESCAPES = "batpak.escapes"


class OutputFailed(Unavailable):
    """Standard output takes no more; what the command changed is changed."""

    code = "output-failed"
    retryable = False


class ReaderLeft(Exception):
    """Nobody reads standard output any more, as in `batpak export … | head`.

    No OSError: click and rich end with codes of their own on those.
    """


class _Checked(io.TextIOWrapper):
    """Tells of a write that fails, if it is to; what is written later goes nowhere.

    On top of the buffer, not below it: Ctrl-C just behind a raw write in Python would
    leave in the buffer what is written already, and it would be written twice.
    """

    tells = True

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        # What is still buffered has nobody to go to; at exit Python would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        if not self.tells:
            return
        if isinstance(error, BrokenPipeError):
            raise ReaderLeft from error
        raise OutputFailed(
            f"the output can't be written: {os.strerror(error.errno or 0)}",
            advice="make room, or let it go elsewhere; what the command changed is changed",
        ) from error


def claim() -> None:
    """Put checked streams in the place of this process's own.

    Raises OutputFailed when there is no standard output: before anything is done, and
    before a file of the journal gets its number.
    """
    codecs.register_error(_ESCAPES, _escapes)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  # for good
    has_output = sys.stdout is not None
    sys.stdout = _checked(sys.stdout, tells=True)
    sys.stderr = _checked(sys.stderr, tells=False)
    if not has_output:
        raise OutputFailed(
            "standard output is closed", advice="if nobody is to read it, redirect: >/dev/null"
        )


def _checked(stream: TextIO | None, *, tells: bool) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    own = cast("io.TextIOWrapper", stream)
    try:
        # What stands in its buffer was written before what comes now.
        own.flush()
    except OSError:
        # The checked stream meets the same, and tells of it.
        pass
    checked = _Checked(
        own.buffer,
        encoding=own.encoding,
        errors=_ESCAPES,
        line_buffering=own.line_buffering,
        write_through=own.write_through,
    )
    checked.tells = tells
    return checked


def _escapes(error: UnicodeError) -> tuple[str, int]:
    """What an encoding can't hold as JSON's escapes: in JSON they mean the same text."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def document(text: str) -> None:
    """A text whose bytes count, such as a note, on standard output: UTF-8 everywhere."""
    cast("io.TextIOWrapper", sys.stdout).reconfigure(encoding="utf-8")
    sys.stdout.write(text)
    sys.stdout.flush()
