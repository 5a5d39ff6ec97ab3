"""Raise Ctrl-C in a call, at each place where CPython could deliver it, one place a run.

CPython looks for signals at three places: when a Python function begins, when a call of a
C function has returned, and when a loop jumps back; and a C function that waits for a lock
lets Ctrl-C through before it has the lock. So these are the points here, in every frame of
the operation, the standard library's included:

    call      a Python function begins: seen by the profiler, raised in the new frame
    return    a C function has returned: what it did is done, what it gave is lost; raised
              inside the call, so that the handlers of that very place catch it
    wait      a lock is about to be acquired by a call, or a thread to be joined
    loop      before a jump back

A line is the wrong grain, too coarse and too fine. It hides the moment between the return
of `lock.acquire()` and its assignment, and it invents one between the lock's acquisition
by `with` and the block: CPython has no place there (the opcode BEFORE_WITH does not look
for signals), and no code could be right if it had. The profiler is not told of the calls
that `with` makes of C functions, so these stay whole here as they do in CPython; of a
`__enter__` that is written in Python it is told, which is how a `threading.Condition`
keeps its lock after a Ctrl-C.

Where a class written in C is called (an int, a struct, an iterator) CPython looks too and
the profiler is silent: nothing but the new object exists by then, so the state is that of
the point before. What a `__del__` does, or the callback by which a WeakSet (of threads,
say) forgets a dead member, has no points: there CPython swallows Ctrl-C. So it is with a
generator that is dropped half-way, as the first Ctrl-C unwinds what used it; and where a
generator is resumed by an exception, CPython does not look for signals at all, though the
profiler takes it for a call.
"""

from __future__ import annotations

import dis
import gc
import sys
from collections.abc import Callable, Sequence
from inspect import CO_GENERATOR
from types import CodeType, FrameType, TracebackType
from typing import Any, NamedTuple, Self

__all__ = ["Interrupted", "Point"]

_BACK = frozenset(
    number
    for name, number in dis.opmap.items()
    if "JUMP_BACKWARD" in name and "NO_INTERRUPT" not in name
)
_FINALIZERS = ("__del__", "WeakSet.__init__.<locals>._remove")
_THROWS = frozenset({"throw", "close"})
_ASKS = frozenset({"next", "send"})
_WAITS = frozenset({"acquire", "__enter__"})


class Point(NamedTuple):
    """Where Ctrl-C was raised."""

    how: str
    file: str
    line: int
    name: str

    def __str__(self) -> str:
        file = self.file.rpartition("/src/")[2].rpartition("/lib/")[2]
        return f"{self.how} {self.name} in {file}:{self.line}"


class Interrupted:
    """Ctrl-C at chosen points of what a `with` block does in this thread.

    `targets` are numbers of points, ascending from 0; none of them counts only. The first
    is raised in the block's own course, further ones in whatever it does about it. The
    KeyboardInterrupt leaves the block as any exception does; `points` says where each
    began, `count` how many points were met. Frames whose code is `spared`, and those of
    this module, have no points. `watch` is told of each function that begins and of each
    wait, after its point has passed, and may do something about it: start threads, open
    gates. With a `handler` that is called at these points, as that of another signal is, and
    what it raises goes on from there.
    """

    def __init__(
        self,
        targets: Sequence[int] = (),
        *,
        spared: Callable[[CodeType], bool] = lambda code: False,
        watch: Callable[[str, str], None] | None = None,
        handler: Callable[[], object] | None = None,
    ) -> None:
        self.count = 0
        self.points: list[Point] = []
        self._targets = list(targets)
        self._spared = spared
        self._watch = watch
        self._handler = handler
        self._known: dict[CodeType, frozenset[int] | None] = {}
        """Where each code jumps back; None for a code that is spared."""
        self._busy = False
        self._last = ""
        """The C function that was called last, and has called nothing else in C."""
        self._finalizer: FrameType | None = None
        """The outermost finalizer under way."""

    def __enter__(self) -> Self:
        self._before = sys.gettrace(), sys.getprofile()
        # A collection runs what others hang on it, such as a test tool's clock: not ours.
        self._collects = gc.isenabled()
        gc.disable()
        sys.settrace(self._trace)
        sys.setprofile(self._profile)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._busy = True
        sys.setprofile(self._before[1])
        sys.settrace(self._before[0])
        if self._collects:
            gc.enable()

    def _jumps(self, code: CodeType) -> frozenset[int] | None:
        try:
            return self._known[code]
        except KeyError:
            jumps = None
            if code.co_filename != __file__ and not self._spared(code):
                opcodes = code.co_code
                jumps = frozenset(at for at in range(0, len(opcodes), 2) if opcodes[at] in _BACK)
            self._known[code] = jumps
            return jumps

    def _meet(self, how: str, frame: FrameType, name: str) -> None:
        number, self.count = self.count, self.count + 1
        if len(self.points) < len(self._targets) and number == self._targets[len(self.points)]:
            self.points.append(Point(how, frame.f_code.co_filename, frame.f_lineno, name))
            if self._handler is None:
                raise KeyboardInterrupt
            self._busy = True
            try:
                self._handler()
            finally:
                self._busy = False

    def _tell(self, how: str, name: str) -> None:
        if self._watch is not None:
            self._busy = True
            try:
                self._watch(how, name)
            finally:
                self._busy = False

    # A hook that raises is removed by CPython: each of the two puts the other back.

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if self._busy:
            return
        if sys.gettrace() is None:
            sys.settrace(self._trace)
        code = frame.f_code
        if self._finalizer is not None:
            if event == "return" and frame is self._finalizer:
                self._finalizer = None
            return
        if event == "call" and code.co_qualname.endswith(_FINALIZERS):
            self._finalizer = frame
            return
        if event.startswith("c_"):
            self._last = argument.__name__ if event == "c_call" else ""
        elif event == "call" and self.points and self._is_thrown_into(frame):
            if self._last not in _THROWS:
                self._finalizer = frame
            return
        if self._jumps(code) is None:
            return
        if event == "call":
            self._meet("call", frame, code.co_qualname)
            self._tell("call", code.co_qualname)
        elif event == "c_return":
            self._meet("return", frame, argument.__name__)
        elif event == "c_call" and argument.__name__ in _WAITS:
            self._meet("wait", frame, argument.__name__)
            self._tell("wait", argument.__name__)

    def _is_thrown_into(self, frame: FrameType) -> bool:
        """Whether a generator goes on, and for no asking that is seen."""
        caller = frame.f_back
        if not frame.f_code.co_flags & CO_GENERATOR or frame.f_lasti < 0 or caller is None:
            return False
        opcode = caller.f_code.co_code[caller.f_lasti]
        return dis.opname[opcode] not in ("FOR_ITER", "SEND") and self._last not in _ASKS

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self._busy:
            return None
        if sys.getprofile() is None:
            sys.setprofile(self._profile)
        jumps = self._jumps(frame.f_code)
        if jumps is None:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode" and frame.f_lasti in jumps and self._finalizer is None:
            self._meet("loop", frame, frame.f_code.co_qualname)
        return self._trace
