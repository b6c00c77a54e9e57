"""Shares of the data set without anybody who hands them out."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_p2p.identity import PeerId
from lepton_p2p.jobs import Schedule
from lepton_p2p.training.schedule import complete, fraction, lr_factor
from lepton_p2p.training.shards import ShardSampler, owner

PEERS = tuple(PeerId(f"{index:032x}") for index in range(5))


def one_pass(sampler: ShardSampler, alive: tuple[PeerId, ...], size: int = 7) -> list[int]:
    """Batches until the sampler starts again."""
    seen: list[int] = []
    while True:
        batch = sampler.batch(alive, size).tolist()
        if sampler.pass_number:
            return seen
        seen += batch


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 5))
def test_all_samples_are_somebodys_and_each_once_per_pass(total: int, blocks: int, count: int) -> None:
    peers = PEERS[:count]
    seen = Counter(s for peer in peers for s in one_pass(ShardSampler(total, blocks, 1, peer), peers))
    owners = {owner(block, peers) for block in range(min(blocks, total))}
    everything_too = len(peers) - len(owners)  # peers without a block use all samples
    assert set(seen) == set(range(total))
    assert set(seen.values()) == {1 + everything_too}


def test_when_a_peer_goes_only_its_blocks_move() -> None:
    before = [owner(block, PEERS) for block in range(200)]
    after = [owner(block, PEERS[:4]) for block in range(200)]
    assert all(new == old for old, new in zip(before, after, strict=True) if old != PEERS[4])
    assert min(Counter(before).values()) > 20


def test_a_changed_view_does_not_repeat_what_was_used_in_this_pass() -> None:
    sampler = ShardSampler(400, 64, 1, PEERS[0])
    first = sampler.batch(PEERS, 20).tolist()
    assert not set(first) & set(one_pass(sampler, PEERS[:2]))


def test_the_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    schedule = Schedule(steps=100, lr="cosine", lr_floor=0.1, warmup_steps=10)
    at = [lr_factor(schedule, step=step, done=fraction(schedule, step=step, passes=0.0)) for step in range(101)]
    assert at[0] < at[5] < at[9]
    assert all(later <= earlier for earlier, later in itertools.pairwise(at[10:]))
    assert abs(at[100] - 0.1) < 1e-12
    assert lr_factor(Schedule(steps=1), step=50, done=0.5) == 1.0


def test_whichever_limit_comes_first_ends_the_training() -> None:
    both = Schedule(passes=3, steps=10)
    assert not complete(both, step=9, passes=2)
    assert complete(both, step=10, passes=0)
    assert complete(both, step=0, passes=3)
    assert fraction(both, step=5, passes=3.0) == 1.0
