"""Refuse a call that comes in the middle of another one of the same thread.

A signal handler, a finalizer or a caller's clock may call a store in the middle of anything
that its thread does there, while that holds what the call would need.
"""

from __future__ import annotations

from typing import Any

from batpak.errors import ReentrantCall

__all__ = ["owns", "reentered"]


def owns(lock: Any) -> bool:
    """Whether this thread holds the RLock: what `threading.Condition` asks it, too."""
    return lock._is_owned()


def reentered(what: str = "store") -> ReentrantCall:
    """What to raise for such a call of a store, a keyring or a reader."""
    return ReentrantCall(
        f"the thread is in the middle of another call of this {what}: a signal handler, a "
        "finalizer or a clock can't use there what that one holds",
        advice="set a flag there, or put the value into a queue.SimpleQueue, and write it where "
        "the program goes on",
    )
