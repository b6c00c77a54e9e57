"""Going on from a checkpoint: as if nothing had happened, whoever held which one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from all_reduce_steps import IDS
from fake_swarm import FakeSwarm
from plain_programs import BATCH, SAMPLES, SEED, Program, data, network, start, train

from lepton_p2p.errors import SchemaMismatch
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.training import params_digest
from lepton_p2p.training.checkpoints import Place, Upkeep
from lepton_p2p.training.snapshots import Snapshot


class Recorder(Upkeep):
    """Keeps the state after each of ``steps``."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        self.kept: dict[int, Snapshot] = {}
        self._steps = steps

    def between_steps(self, place: Place, capture: Callable[[], Snapshot], *, founded: bool) -> None:
        if place.step in self._steps and place.step not in self.kept:
            self.kept[place.step] = capture()


def undisturbed(*steps: int, passes: int = 3, **options: Any) -> tuple[int, dict[int, Snapshot]]:
    """How three peers end, and the states on their way."""
    swarm, recorder = FakeSwarm(), Recorder(*steps)
    swarm.found(IDS[:3])
    programs = [
        Program(swarm, me, train(passes), upkeep=recorder if me == IDS[0] else None, **options) for me in IDS[:3]
    ]
    ended = [program.start() for program in programs]
    digests = {params_digest(program.finish().model) for program in ended}
    assert len(digests) == 1
    return digests.pop(), recorder.kept


def restarted(snapshots: list[Snapshot | None], *, passes: int = 3, **options: Any) -> tuple[FakeSwarm, list[Program]]:
    """New processes with new ids, each with what was on its disk."""
    swarm = FakeSwarm()
    ids = IDS[3 : 3 + len(snapshots)]
    swarm.found(ids)
    programs = [
        Program(
            swarm,
            me,
            train(passes),
            model=network(seed=50 + number),
            upkeep=Upkeep(recalled=snapshot),
            quorum=len(snapshots),
            **options,
        )
        for number, (me, snapshot) in enumerate(zip(ids, snapshots, strict=True))
    ]
    return swarm, [program.start() for program in programs]


def digest_of(programs: list[Program]) -> int:
    digests = {params_digest(program.finish().model) for program in programs}
    assert len(digests) == 1
    return digests.pop()


@pytest.mark.parametrize("step", [1, 7, 9, 13])
def test_the_same_number_of_peers_ends_as_if_nothing_had_happened(step: int) -> None:
    expected, kept = undisturbed(step)
    swarm, programs = restarted([kept[step]] * 3)
    assert digest_of(programs) == expected
    assert swarm.results[0].contributors == (), "the founding round"
    assert len(swarm.results[1].contributors) == 3, "nobody needed to fetch anything"


@pytest.mark.parametrize(
    "disks", [(12, 5, 5), (5, 12, 5), (5, 5, 12), (12, 12, 5), (None, 12, None), (None, None, 12)], ids=str
)
def test_whoever_holds_the_newest_the_others_get_it_and_nobody_starts_before(disks: tuple[int | None, ...]) -> None:
    expected, kept = undisturbed(5, 12)
    swarm, programs = restarted([kept[step] if step else None for step in disks])
    assert digest_of(programs) == expected
    first = next(result for result in swarm.results if result.contributors)
    assert len(first.contributors) == 3


@pytest.mark.parametrize("peers", [1, 2])
def test_another_number_of_peers_uses_each_sample_that_was_left_of_the_pass_once(peers: int) -> None:
    _, kept = undisturbed(5)
    cursor = kept[5].cursor
    assert cursor is not None
    _, programs = restarted([kept[5]] * peers, passes=1)
    digest_of(programs)
    used = [sample for program in programs for _, batch in program.batches for sample in batch]
    assert len(used) == len(set(used)) == SAMPLES - cursor.used


def test_a_learning_rate_scheduler_made_after_the_optimizer_is_no_obstacle() -> None:
    swarm, recorder = FakeSwarm(), Recorder(4)
    swarm.found(IDS[:1])
    Program(swarm, IDS[0], train(1, schedule=True), upkeep=recorder).start().finish()
    again = FakeSwarm()
    again.found(IDS[3:4])
    resumed = Program(again, IDS[3], train(1, schedule=True), upkeep=Upkeep(recalled=recorder.kept[4])).start().finish()
    assert resumed.training.cursor.pass_number == 1


def test_without_a_loader_the_gradient_from_before_the_checkpoint_does_not_count() -> None:
    x, y = data()
    states: list[int] = []

    def steps(count: int) -> Callable[[Program], None]:
        def run(program: Program) -> None:
            while program.optimizer.steps < count:
                program.one_step(x[:BATCH], y[:BATCH])
                states.append(params_digest(program.model))

        return run

    recorder = Recorder(3)
    swarm = FakeSwarm()
    swarm.found(IDS[:1])
    Program(swarm, IDS[0], steps(6), loader=False, upkeep=recorder).start().finish()
    expected = list(states)
    states.clear()
    again = FakeSwarm()
    again.found(IDS[3:4])
    upkeep = Upkeep(recalled=recorder.kept[3])
    Program(again, IDS[3], steps(6), loader=False, upkeep=upkeep, model=network(9)).start().finish()
    assert states == expected[2:]


@pytest.mark.parametrize("change", [{"seed": SEED + 1}, {"batch": BATCH + 1}], ids=str)
def test_a_checkpoint_of_another_loader_is_refused(change: dict[str, int]) -> None:
    _, kept = undisturbed(3, passes=1)
    cursor = kept[3].cursor
    assert cursor is not None
    table = Cursor.to_json(replace(cursor, **change))  # type: ignore[arg-type]
    meta = {**kept[3].meta, "cursor": table}
    changed = replace(kept[3], meta_json=json.dumps(meta))
    _, programs = restarted([changed])
    with pytest.raises(SchemaMismatch, match="does not fit the program"):
        programs[0].finish()


def test_a_start_without_a_checkpoint_is_as_ever() -> None:
    swarm = FakeSwarm()
    programs = start(swarm, 2, train(1), upkeep=Upkeep())
    digest_of(programs)
    assert torch.isfinite(next(programs[0].model.parameters())).all()
