"""An event loop for programs without one: what it starts, it ends."""

from __future__ import annotations

import asyncio
import threading

from lepton_p2p.runtime.loop_thread import LoopThread


def test_with_the_thread_those_end_that_worked_for_it_and_both_may_begin_anew() -> None:
    before = set(threading.enumerate())
    thread = LoopThread()
    for _ in range(2):
        thread.start()
        name = thread.call(asyncio.to_thread(lambda: threading.current_thread().name))
        assert name.startswith("lepton")
        thread.stop()
        assert set(threading.enumerate()) == before
        assert not thread.running
    thread.loop.close()


def test_it_waits_for_what_a_thread_has_begun() -> None:
    thread = LoopThread()
    thread.start()
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()
        ended.set()

    thread.loop.call_soon_threadsafe(thread.loop.run_in_executor, None, work)
    begun.wait()
    stopping = threading.Thread(target=thread.stop)
    stopping.start()
    go_on.set()
    stopping.join()
    assert ended.is_set()
    thread.loop.close()
