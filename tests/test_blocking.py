"""The blocking face, with real processes: a plain loop in a swarm, kills and joins, Ctrl+C, the end of the program."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from blocking_programs import BATCH, DEADLINE, SAMPLES, SEED, Log, Program, data, network
from torch import nn

from lepton_p2p.identity import PeerId
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.notes import Note
from lepton_p2p.replication.permutation import permutation

Start = Callable[[int], list[Program]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs that are all in one swarm; they are ended after the test."""
    programs: list[Program] = []

    def begin(count: int) -> list[Program]:
        mine = [Program() for _ in range(count)]
        programs.extend(mine)
        return mine

    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [program.end() for program in programs])
        yield begin


def swarm_of(programs: list[Program], seeds: tuple[int, ...] = (1, 1, 1)) -> str:
    """Let them meet; returns the first one's address."""
    address: str = programs[0].call("start")[0]
    for program in programs[1:]:
        program.ask("start", join=address)
    for program in programs[1:]:
        program.answer()
    for program in programs:
        program.ask("wait", count=len(programs))
    for program in programs:
        program.answer()
    for program, seed in zip(programs, seeds, strict=False):
        program.call("make", seed=seed)
    return address


def one_process(peers: int, passes: int) -> list[list[float]]:
    model, (x, y) = network(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for number in range(passes):
        for index in torch.split(torch.from_numpy(permutation(SAMPLES, SEED, number)), BATCH * peers):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[index]), y[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return [parameter.detach().reshape(-1).tolist() for parameter in model.parameters()]


def counted(log: Log) -> dict[int, Counter[int]]:
    """How often each place of each pass is in a result."""
    cursor, used = Cursor(SAMPLES, SEED, BATCH), dict[int, Counter[int]]()
    for round, members, contributors, refused, notes in log:
        for peer in contributors:
            for item in Note.decode(notes[peer]).claim:
                used.setdefault(cursor.pass_number, Counter()).update(range(item.start, item.stop))
        cursor = cursor.advance(
            members=[PeerId(peer) for peer in members],
            contributors=[PeerId(peer) for peer in contributors],
            refused=[PeerId(peer) for peer in refused],
            notes={PeerId(peer): note for peer, note in notes.items()},
            founders=[PeerId(peer) for peer in members] if round == 1 else (),
        )
    return used


def assert_each_sample_once(log: Log, passes: int) -> None:
    assert counted(log) == {number: Counter(range(SAMPLES)) for number in range(passes)}


def test_three_programs_equal_one_with_the_summed_batch(start: Start) -> None:
    programs = start(3)
    swarm_of(programs)
    for program in programs:
        program.ask("train", passes=3)
    digests = {program.answer() for program in programs}
    assert len(digests) == 1
    for own, theirs in zip(one_process(3, 3), programs[0].call("parameters"), strict=True):
        assert theirs == pytest.approx(own, rel=2e-4, abs=2e-5)
    assert_each_sample_once(programs[2].call("rounds"), 3)


def test_a_program_that_is_killed_mid_pass_loses_no_sample_and_a_late_one_ends_identical(start: Start) -> None:
    first, *others = programs = start(3)
    swarm_of(programs)
    for program in programs:
        program.ask("train", passes=12, stop_at=40)
    first.until("step", 4)
    first.kill()
    for program in others:
        program.answer()
    late = start(1)[0]
    late.call("start", join=others[0].call("address"))
    late.call("make", seed=77)
    late.ask("train", passes=12)
    others[0].call("wait", count=3)
    for program in others:
        program.ask("train", passes=12)
    assert len({program.answer() for program in (*others, late)}) == 1
    assert late.steps, "it took part in the end"
    assert late.steps[0] > 41, "it did not begin at the beginning"
    assert_each_sample_once(others[1].call("rounds"), 12)


def test_programs_with_different_models_at_the_start_end_with_the_same(start: Start) -> None:
    programs = start(3)
    swarm_of(programs, seeds=(4, 5, 5))
    for program in programs:
        program.ask("train", passes=4)
    assert len({program.answer() for program in programs}) == 1
    assert_each_sample_once(programs[0].call("rounds"), 4)


def test_a_program_with_another_model_is_refused_and_the_swarm_goes_on(start: Start) -> None:
    programs = start(2)
    address = swarm_of(programs)
    for program in programs:
        program.ask("train", passes=12, stop_at=20)
    for program in programs:
        program.answer()
    other = start(1)[0]
    other.call("start", join=address)
    other.call("make", width=9)
    other.ask("train", passes=12)
    programs[0].call("wait", count=3)
    for program in programs:
        program.ask("train", passes=12)
    with pytest.raises(RuntimeError, match=r"SchemaMismatch: .*tensors or operation differ"):
        other.answer()
    other.call("close")
    assert len({program.answer() for program in programs}) == 1
    assert_each_sample_once(programs[1].call("rounds"), 12)


def test_ctrl_c_in_a_blocked_step_takes_the_round_back_and_the_program_can_go_on(start: Start) -> None:
    waiting, idle = programs = start(2)
    swarm_of(programs)
    waiting.ask("step_until_interrupted")
    idle.call("wait_to_be_waited_for")
    waiting.interrupt()
    assert waiting.answer() == "interrupted"
    for program in programs:
        program.ask("train", passes=2)
    assert len({program.answer() for program in programs}) == 1
    assert_each_sample_once(idle.call("rounds"), 2)


def test_collectives_are_those_of_the_peer(start: Start) -> None:
    programs = start(3)
    address = programs[0].call("start")[0]
    ids = [programs[0].call("id")]
    for program in programs[1:]:
        ids.append(program.call("start", join=address)[1])
    for program in programs:
        program.ask("wait", count=3)
    for program in programs:
        program.answer()
    for rank, program in enumerate(programs):
        program.ask("collectives", rank=rank, root=ids[1])
    rows = {peer: 10.0 * rank for rank, peer in enumerate(ids)}
    for program in programs:
        assert program.answer() == (6.0, 1.0, rows, "IDLE")


def test_nobody_waits_for_a_program_that_has_not_called_anything_yet(start: Start) -> None:
    first, second, third = start(3)
    address = first.call("start")[0]
    second.call("start", join=address)
    third.call("start", join=address)
    for program in (first, second):
        program.ask("wait", count=2)
    for program in (first, second):
        program.answer()
    for program in (first, second):
        program.ask("barrier")
    assert [program.answer() for program in (first, second)] == [2, 2]


def test_one_swarm_per_process_until_it_is_closed_and_then_another(start: Start) -> None:
    first, second = start(2)
    address = first.call("start")[0]
    second.call("start", join=address)
    assert second.call("again")
    assert second.call("close") == (True, ["MainThread"])
    second.call("start", join=address)
    for program in (first, second):
        program.ask("wait", count=2)
    for program in (first, second):
        program.answer()
    for program in (first, second):
        program.ask("barrier")
    assert [program.answer() for program in (first, second)] == [2, 2]


def test_a_loop_in_the_main_thread_does_not_matter(start: Start) -> None:
    first, second = start(2)
    address = first.call("start")[0]
    first.ask("wait", count=2)
    assert second.call("start_inside_a_loop", join=address) == 2
    first.answer()


def test_what_is_not_given_comes_from_the_environment_and_mistakes_are_named(start: Start) -> None:
    first, second = start(2)
    address = first.call("start", swarm="blue")[0]
    second.call("environment", LEPTON_JOIN=address, LEPTON_SWARM="green")
    with pytest.raises(RuntimeError, match="WrongSwarm"):
        second.call("init", listen="127.0.0.1:0")
    with pytest.raises(RuntimeError, match=r"ConfigError: preset: 'lam' is not one of local, lan, wan"):
        second.call("init", preset="lam")
    with pytest.raises(RuntimeError, match=r"InsecureRefused"):
        second.call("init", listen="0.0.0.0:0")
    second.call("environment", LEPTON_SWARM="blue", LEPTON_LISTEN="127.0.0.1:0")
    second.call("init")


def test_whoever_is_done_first_stays_until_a_newcomer_has_the_state(start: Start) -> None:
    (first,) = start(1)
    address = swarm_of([first])
    first.call("train", passes=12, stop_at=20)
    (late,) = start(1)
    late.call("start", join=address)
    late.call("make", seed=3)
    late.ask("train", passes=2)
    first.call("wait", count=2)
    first.call("close")
    late.answer()
    assert late.steps[0] >= 21


SCRIPT = """
import sys, threading, torch
import lepton_p2p as lp

swarm = lp.init_distributed(join=sys.argv[1], listen="127.0.0.1:0", preset="local")
swarm.wait_for_members(2, timeout=30)
model = torch.nn.Linear(1, 1)
optimizer = swarm.optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model)
print("ready", flush=True)
if sys.argv[2] == "step":
    optimizer.step()
"""


@pytest.mark.parametrize(("then", "status"), [("end", 0), ("step", -signal.SIGINT)])
def test_a_program_that_ends_leaves_the_swarm_at_once(start: Start, then: str, status: int) -> None:
    (first,) = start(1)
    address = swarm_of([first])
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, address, then], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with script:
        try:
            first.call("wait", count=2)
            assert script.stdout is not None
            assert script.stdout.readline() == "ready\n"
            if then == "step":
                first.call("wait_to_be_waited_for")
                script.send_signal(signal.SIGINT)
            _, errors = script.communicate(timeout=DEADLINE)
        finally:
            script.kill()
    assert script.returncode == status, errors
    assert ("KeyboardInterrupt" in errors) == (then == "step")
    assert "Withdrawn" not in errors
    assert first.call("barrier") == 1
    assert first.call("gone") == ["LEFT"], "it said goodbye"
