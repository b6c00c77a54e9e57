"""A program's own loop in a swarm: equal to one process, exact about samples, bit-identical whoever comes and goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from all_reduce_steps import IDS, at, hold_until_fetched
from fake_swarm import FakeCollective, FakeSwarm
from plain_programs import BATCH, OPTIMIZERS, SAMPLES, SEED, Program, data, join_when, network, start, train
from torch import nn

from lepton_p2p.errors import Closed, StateLost
from lepton_p2p.identity import PeerId
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.notes import Note
from lepton_p2p.replication.permutation import permutation
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training import params_digest
from lepton_p2p.training.collective import Withdrawn


def one_process(optimizer: str, peers: int, passes: int) -> nn.Module:
    """The same loop without a swarm, with batches as large as those of all peers together."""
    model, (x, y) = network(), data()
    inner = OPTIMIZERS[optimizer](model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(inner, step_size=4, gamma=0.7)
    for number in range(passes):
        order = torch.from_numpy(permutation(SAMPLES, SEED, number))
        for index in torch.split(order, BATCH * peers):
            inner.zero_grad()
            nn.functional.cross_entropy(model(x[index]), y[index]).backward()  # type: ignore[no-untyped-call]
            inner.step()
            scheduler.step()
    return model


def assert_identical(swarm: FakeSwarm, programs: list[Program]) -> None:
    """Parameters and optimizer state at the end, and (what the members themselves said) before every round."""
    assert len({params_digest(program.model) for program in programs}) == 1
    states = [list(program.inner.state.values()) for program in programs]
    for other in states[1:]:
        for mine, theirs in zip(states[0], other, strict=True):
            assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(theirs[key])) for key in mine)
    assert all(len(said) <= 1 for said in swarm.digests.values())


def counted(swarm: FakeSwarm) -> dict[int, Counter[int]]:
    """How often each sample of each pass is in a result, replayed from the results alone."""
    cursor, used = Cursor(SAMPLES, SEED, BATCH), dict[int, Counter[int]]()
    for result in swarm.results:
        order = permutation(SAMPLES, SEED, cursor.pass_number)
        for peer in result.contributors:
            for item in Note.decode(result.notes[peer]).claim:
                used.setdefault(cursor.pass_number, Counter()).update(order[item.start : item.stop].tolist())
        cursor = cursor.advance(
            members=result.members,
            contributors=result.contributors,
            refused=result.refused,
            notes=result.notes,
            founders=result.members if result.round == 1 else (),
        )
    return used


def assert_each_sample_once(swarm: FakeSwarm, passes: int) -> None:
    used = counted(swarm)
    assert set(used) == set(range(passes))
    assert all(used[number] == Counter(range(SAMPLES)) for number in used)


# -- equal to one process --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_number_of_peers_equals_one_process_with_the_summed_batch(optimizer: str, count: int) -> None:
    swarm = FakeSwarm()
    programs = start(swarm, count, train(3, schedule=True), make=OPTIMIZERS[optimizer])
    for program in programs:
        program.finish()
    assert_identical(swarm, programs)
    assert_each_sample_once(swarm, 3)
    reference = one_process(optimizer, count, 3)
    for own, theirs in zip(reference.parameters(), programs[0].model.parameters(), strict=True):
        torch.testing.assert_close(theirs, own, rtol=2e-4, atol=2e-5)


def test_what_the_loader_gives_is_what_the_swarm_counts() -> None:
    swarm = FakeSwarm()
    programs = [program.finish() for program in start(swarm, 3, train(2))]
    given: dict[int, Counter[int]] = {0: Counter(), 1: Counter()}
    for program in programs:
        for number, index in program.batches:
            given[number].update(index)
    assert given == counted(swarm)
    assert [len(program.batches) for program in programs] == [18, 16, 16], "only the first has the 97th sample"


def test_without_shuffling_samples_come_in_the_order_of_the_data() -> None:
    (program,) = start(FakeSwarm(), 1, train(2), shuffle=False)
    program.finish()
    assert [i for number, index in program.batches for i in index if number == 1] == list(range(SAMPLES))


# -- peers come and go -----------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("round", [2, 6, 10])
def test_the_samples_of_a_killed_peer_are_used_by_the_others_in_the_same_pass(victim: int, round: int) -> None:
    swarm = FakeSwarm()
    at(swarm, round, swarm.kill, IDS[victim])
    programs = start(swarm, 3, train(2))
    with pytest.raises(Closed):
        programs.pop(victim).finish()
    assert_identical(swarm, [program.finish() for program in programs])
    assert_each_sample_once(swarm, 2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_late_joiner_ends_bit_identical_while_the_others_went_on(optimizer: str) -> None:
    swarm = FakeSwarm()
    swarm.fetch_allowed.clear()
    run = train(3, schedule=True)
    late = Program(swarm, IDS[5], run, model=network(seed=99), make=OPTIMIZERS[optimizer])
    join_when(swarm, late, 4)
    at(swarm, 11, swarm.fetch_allowed.set)
    hold_until_fetched(swarm, 16)
    programs = [*start(swarm, 2, run, make=OPTIMIZERS[optimizer]), late]
    assert_identical(swarm, [program.finish() for program in programs])
    assert_each_sample_once(swarm, 3)
    rounds = [result.round for result in swarm.results if late.me in result.contributors]
    assert rounds, "it must have taken part in the end"
    assert min(rounds) > 11
    assert all(len(result.contributors) == 2 for result in swarm.results if 4 < result.round < 11), "nobody waited"


def test_a_scheduler_that_began_late_does_not_part_the_replicas() -> None:
    swarm = FakeSwarm()
    late = Program(swarm, IDS[5], train(3, schedule=True))
    join_when(swarm, late, 4)
    programs = [program.finish() for program in (*start(swarm, 2, train(3, schedule=True)), late)]
    assert_identical(swarm, programs)
    steps = range(1, len(programs[0].lrs) + 1)
    assert programs[0].lrs == pytest.approx([0.05 * 0.7 ** (step // 4) for step in steps]), "as if it had been alone"


def test_a_peer_that_was_dropped_gets_the_state_again() -> None:
    swarm = FakeSwarm()
    at(swarm, 6, swarm.drop, IDS[1])
    programs = [program.finish() for program in start(swarm, 3, train(2))]
    assert_identical(swarm, programs)
    assert_each_sample_once(swarm, 2)
    assert any(IDS[1] in result.contributors and result.round > 6 for result in swarm.results)


def test_peers_with_different_initial_models_start_from_that_of_the_first() -> None:
    swarm = FakeSwarm()
    swarm.found(IDS[:3])
    programs = [Program(swarm, me, train(2), model=network(seed)) for seed, me in enumerate(IDS[:3])]
    for program in programs:
        program.start()
    assert_identical(swarm, [program.finish() for program in programs])
    assert swarm.results[1].contributors == (IDS[0],)
    assert any(len(result.contributors) == 3 for result in swarm.results)


def test_joiners_whose_donors_died_do_not_start_from_scratch_as_if_nothing_had_been() -> None:
    swarm = FakeSwarm()
    late = Program(swarm, IDS[5], train(2))
    join_when(swarm, late, 4)
    at(swarm, 5, swarm.kill, IDS[0])
    start(swarm, 1, train(2))
    with pytest.raises(StateLost):
        late.finish()


def test_rounds_before_the_training_do_not_keep_it_from_starting() -> None:
    swarm = FakeSwarm()
    swarm.round = 7  # barriers and the like
    programs = start(swarm, 2, train(1), seen=lambda: 7)
    assert_identical(swarm, [program.finish() for program in programs])


def test_a_newcomer_of_the_last_rounds_is_waited_for_by_those_that_are_done() -> None:
    swarm = FakeSwarm()
    swarm.fetch_allowed.clear()
    late = Program(swarm, IDS[5], train(1))
    last = 1 + 13  # two peers: twelve rounds of eight samples, one for the last sample, one for founding
    join_when(swarm, late, last - 1)
    at(swarm, last + 3, swarm.fetch_allowed.set)
    programs = [*start(swarm, 2, train(1)), late]
    assert_identical(swarm, [program.finish() for program in programs])
    assert swarm.round > last


def test_rounds_without_a_result_are_run_again_with_the_same_gradients() -> None:
    swarm = FakeSwarm()
    swarm.reject = {3, 6, 7}
    programs = start(swarm, 3, train(3, schedule=True))
    assert_identical(swarm, [program.finish() for program in programs])
    assert_each_sample_once(swarm, 3)
    for own, theirs in zip(one_process("sgd", 3, 3).parameters(), programs[0].model.parameters(), strict=True):
        torch.testing.assert_close(theirs, own, rtol=2e-4, atol=2e-5)


# -- who takes a round back ------------------------------------------------------------------------


class Interrupted(FakeCollective):
    """Takes back its input to ``round``, as Ctrl+C in a blocked step does."""

    def __init__(self, swarm: FakeSwarm, me: PeerId, round: int) -> None:
        super().__init__(swarm, me)
        self._round: int | None = round

    def all_reduce(self, *arguments: Any, **options: Any) -> RoundResult:
        if self.swarm.round + 1 == self._round:
            self._round = None
            self.swarm.withdraw(self.me)
            raise Withdrawn
        return super().all_reduce(*arguments, **options)


def keep_on(passes: int) -> Callable[[Program], None]:
    """A notebook: the cell is run again after an interruption."""

    def run(program: Program) -> None:
        try:
            train(passes)(program)
        except Withdrawn:
            train(passes)(program)

    return run


@pytest.mark.parametrize("round", [1, 5])
def test_a_peer_alone_that_took_its_round_back_goes_on_from_where_it_was(round: int) -> None:
    swarm = FakeSwarm()
    swarm.found(IDS[:1])
    program = Program(swarm, IDS[0], keep_on(1), collective=Interrupted(swarm, IDS[0], round), seen=lambda: swarm.round)
    program.start().finish()
    order = permutation(SAMPLES, SEED, 0)
    stepped = [i for _, index in program.batches for i in index]
    assert stepped == order.tolist()


def test_a_peer_that_took_its_round_back_gets_the_state_of_the_others() -> None:
    swarm = FakeSwarm()
    swarm.found(IDS[:3])
    collectives = {IDS[2]: Interrupted(swarm, IDS[2], 5)}
    programs = [Program(swarm, me, keep_on(2), collective=collectives.get(me)).start() for me in IDS[:3]]
    assert_identical(swarm, [program.finish() for program in programs])
    assert_each_sample_once(swarm, 2)
    assert any(len(result.contributors) == 2 for result in swarm.results)
