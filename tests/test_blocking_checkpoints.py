"""Plain loops with real processes: all of them are killed at once, and go on from what is on their disks."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from blocking_programs import DEADLINE, Program

EVERY = 10
PASSES = 6
Start = Callable[[Sequence[Path]], list[Program]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts one program for each state directory, all in one swarm, with models that are seeded differently."""
    with contextlib.ExitStack() as stack:

        def begin(folders: Sequence[Path]) -> list[Program]:
            programs = [Program() for _ in folders]
            stack.callback(lambda: [program.end() for program in programs])
            address = None
            for program, folder in zip(programs, folders, strict=True):
                options = {"state_dir": folder, "checkpoint_every": EVERY, "min_peers": len(folders)}
                listens, _ = program.call("start", join=address, **options)
                address = address or listens
            for number, program in enumerate(programs):
                program.call("make", seed=number)
            return programs

        yield begin


def trained(programs: list[Program]) -> int:
    """The digest with which all end."""
    for program in programs:
        program.ask("train", passes=PASSES)
    digests = {program.answer() for program in programs}
    assert len(digests) == 1
    return int(digests.pop())


def kill_all(programs: list[Program], step: int) -> None:
    """SIGKILL to all when each has come to ``step``."""
    for program in programs:
        program.ask("train", passes=PASSES)
    for program in programs:
        program.until("step", step)
    for program in programs:
        program.kill()
    for program in programs:
        program.process.join(DEADLINE)


def test_a_plain_loop_goes_on_after_a_kill_of_all_as_if_nothing_had_happened(start: Start, tmp_path: Path) -> None:
    expected = trained(start([tmp_path / f"calm{number}" for number in range(3)]))
    folders = [tmp_path / str(number) for number in range(3)]
    kill_all(start(folders), 3 * EVERY + 4)
    shutil.rmtree(folders[0])
    # The first has lost its disk, and its own initial model must not count, since another has a checkpoint.
    again = start(folders)
    assert trained(again) == expected
    assert all(min(program.steps) > EVERY for program in again), "they did not begin anew"


def test_a_loop_that_ends_leaves_its_last_state_behind(start: Start, tmp_path: Path) -> None:
    (first,) = start([tmp_path])
    expected = trained([first])
    first.call("close")
    (again,) = start([tmp_path])
    assert trained([again]) == expected
    assert not again.steps, "there was nothing left to do"


def test_resume_never_begins_anew(start: Start, tmp_path: Path) -> None:
    (first,) = start([tmp_path])
    trained([first])
    first.call("close")
    never = Program()
    try:
        never.call("start", state_dir=tmp_path, resume="never")
        never.call("make", seed=0)
        never.call("train", passes=1)
        assert never.steps[0] == 1
    finally:
        never.end()
