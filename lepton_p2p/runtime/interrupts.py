"""Ctrl+C in a thread that waits for the event loop: prompt, but never in the middle of something."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Self

Handler = Callable[[int, FrameType | None], object]


class Interrupts:
    """While it is entered (by the main thread; again inside of itself at will) SIGINT calls ``give_up`` instead of
    raising ``KeyboardInterrupt``, which follows on leaving: what was waited for has then ended one way or the other.

    The second SIGINT is raised at once.  A handler of the program's own is called on leaving, without giving up.
    """

    def __init__(self) -> None:
        self.pending = False
        """Whether SIGINT has come."""
        self.give_up: Callable[[], object] | None = None
        """Ends what the main thread waits for; called at most once, between two instructions of that thread."""
        self._depth = 0
        self._before: Handler | None = None

    @property
    def giving_up(self) -> bool:
        """Whether what the main thread waits for, or is about to wait for, shall end."""
        return self.pending and self._before is signal.default_int_handler

    def guard(self) -> AbstractContextManager[object]:
        """This object in the main thread; nothing in others, which are never interrupted."""
        return self if threading.current_thread() is threading.main_thread() else contextlib.nullcontext()

    def __enter__(self) -> Self:
        if self._depth == 0:
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self.pending, self._before = False, before
                signal.signal(signal.SIGINT, self._handle)
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        before = self._before
        if self._depth or before is None:
            return
        self._before = None
        signal.signal(signal.SIGINT, before)
        if self.pending:
            self.pending = False
            try:
                before(signal.SIGINT, None)
            except BaseException as interrupt:
                raise interrupt from None  # that a round was given up for it is no news

    def _handle(self, number: int, frame: FrameType | None) -> None:
        before = self._before
        assert before is not None  # it is only installed together with this
        if self.pending:
            before(number, frame)
            return
        self.pending = True
        if self.giving_up and self.give_up is not None:
            self.give_up()
