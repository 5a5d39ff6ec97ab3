"""Read by the type checker, not run: `@payload` shows the constructor and the fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

import msgspec

from batpak.payloads import payload


@payload(category=0xF, type_id=0xA01)
class PlayerMoved:
    x: int
    y: int = 0

    def length(self) -> int:
        return abs(self.x) + abs(self.y)


@payload(category=0xF, type_id=0xA02)
class Renamed(msgspec.Struct, frozen=True):
    name: str


@payload(category=0xF, type_id=0xA03)
@dataclass(frozen=True)
class Scored:
    points: int


moved = PlayerMoved(x=10, y=20)
assert_type(moved, PlayerMoved)
assert_type(moved.x, int)
assert_type(moved.length(), int)
assert_type(PlayerMoved(1), PlayerMoved)
assert_type(Renamed(name="a").name, str)
assert_type(Scored(points=3).points, int)

# Each of these must be an error: an ignore that ignores nothing is reported.
PlayerMoved(x="ten")  # pyright: ignore[reportArgumentType]  # the error that must be seen
PlayerMoved()  # pyright: ignore[reportCallIssue]  # the error that must be seen
PlayerMoved(x=1, z=2)  # pyright: ignore[reportCallIssue]  # the error that must be seen
Renamed(name=1)  # pyright: ignore[reportArgumentType]  # the error that must be seen
Scored(points="3")  # pyright: ignore[reportArgumentType]  # the error that must be seen
moved.x = 3  # pyright: ignore[reportAttributeAccessIssue]  # the error that must be seen
