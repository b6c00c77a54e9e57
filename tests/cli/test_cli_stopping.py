"""Being told to stop: in good order at first, at once the second time, never late."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from lepton_p2p.cli.stopping import Stopped, StopSignal


class Exits:
    """Stands for ``os._exit``: notes the code."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.called = threading.Event()

    def __call__(self, code: int) -> None:
        self.codes.append(code)
        self.called.set()


async def test_the_first_signal_is_an_order_to_stop() -> None:
    said: list[str] = []
    exits = Exits()
    with StopSignal(lambda: said.append("first"), exit=exits) as stop:
        assert not stop.is_set
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 5)
        assert stop.is_set
        assert said == ["first"]
        stop.disarm()
    assert exits.codes == []


async def test_ctrl_c_is_the_same() -> None:
    with StopSignal(exit=Exits()) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(stop.wait(), 5)
        stop.disarm()


async def test_the_second_signal_ends_the_process_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    exits = Exits()
    with StopSignal(exit=exits) as stop:
        stop.signalled()
        stop.signalled()
        stop.disarm()
    assert exits.codes == [130]
    assert capsys.readouterr().err == "lepton-peer: stopped at once; the swarm will notice by itself\n"


async def test_what_hangs_does_not_outlive_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    exits = Exits()
    with StopSignal(limit=0.01, exit=exits) as stop:
        stop.signalled()
        assert exits.called.wait(5)  # blocks the loop, as a hanging computation would
        stop.disarm()
    assert exits.codes == [0]
    assert "could not finish in time" in capsys.readouterr().err


async def test_without_a_signal_nothing_is_left_behind() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal(exit=Exits()):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class TestUnless:
    async def test_gives_the_result(self) -> None:
        async def work() -> int:
            return 7

        with StopSignal(exit=Exits()) as stop:
            assert await stop.unless(work()) == 7

    async def test_lets_errors_through(self) -> None:
        async def work() -> None:
            raise ValueError("broken")

        with StopSignal(exit=Exits()) as stop, pytest.raises(ValueError, match="broken"):
            await stop.unless(work())

    async def test_cancels_the_work_and_waits_for_its_clean_up(self) -> None:
        started, cleaned = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                cleaned.set()

        with StopSignal(exit=Exits()) as stop:
            task = asyncio.create_task(stop.unless(work()))
            await started.wait()
            stop.signalled()
            with pytest.raises(Stopped):
                await task
            assert cleaned.is_set()
            stop.disarm()

    async def test_does_not_start_what_came_after_the_signal(self) -> None:
        finished = False

        async def work() -> None:
            nonlocal finished
            finished = True

        with StopSignal(exit=Exits()) as stop:
            stop.signalled()
            with pytest.raises(Stopped):
                await stop.unless(work())
            stop.disarm()
        assert not finished
