"""JSON as a journal can keep it: what would be lost or changed silently is refused.

Python's reader lets pass doubled keys (the last one wins), NaN and Infinity, which
are no JSON, and numbers that overflow to infinity. Integers beyond 64 bits and half
surrogate pairs pass here: the canonical form refuses them and says where they are.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

__all__ = ["NotJson", "parse"]


class NotJson(ValueError):
    """The reason why a text can't be kept, as a phrase for an error message.

    `may_go_on` is True where more text could still make it JSON.
    """

    def __init__(self, reason: str, *, may_go_on: bool = False) -> None:
        super().__init__(reason)
        self.may_go_on = may_go_on


def _no_constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotJson(f"the number {text[:40]} is too large for 64-bit floating point")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise NotJson(f"the key {key[:80]!r} stands twice in one object")
            seen.add(key)
    return found


_read = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant
).decode


def parse(data: bytes) -> Any:
    """The value that these UTF-8 bytes write. Raises NotJson."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02X} at {error.start}"
        raise NotJson(f"not UTF-8 text: {found}", may_go_on=True) from error
    try:
        return _read(text)
    except json.JSONDecodeError as error:
        what = f"not JSON: {error.msg} at column {error.pos + 1}"
        raise NotJson(what, may_go_on=error.msg != "Extra data") from error
    except RecursionError as error:
        raise NotJson("nested too deep") from error
    except NotJson:
        raise
    except ValueError as error:
        # Python refuses to convert integers of thousands of digits.
        raise NotJson("a whole number of thousands of digits does not fit into 64 bits") from error
