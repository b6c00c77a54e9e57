"""A butterfly on real links: everybody gets the same aggregate, bit for bit, or a reason why not."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from functools import partial
from typing import Any

import attempts
import pytest
import torch
from attempts import DEADLINE, HASTY, SHAPES, epoch_of, inputs, peer, until
from mesh_harness import MEDIAN, Mesh, Run

from lepton_p2p.collectives.aggregators import aggregate
from lepton_p2p.collectives.outcome import result_digest
from lepton_p2p.collectives.pending import counts
from lepton_p2p.identity import short
from lepton_p2p.rounds.aggregation import Aggregation, Rule
from lepton_p2p.rounds.butterfly import Leg, Parcel
from lepton_p2p.rounds.records import Flag, Record
from lepton_p2p.rounds.ring import encode_records


def median(values: list[torch.Tensor]) -> torch.Tensor:
    stack = torch.stack([one.reshape(-1) for one in values])
    (made,) = aggregate([stack], MEDIAN)
    return made.reshape(values[0].shape)


async def same_everywhere(runs: list[Run]) -> None:
    ends = [await run.outcome() for run in runs]
    assert len({end.digest for end in ends}) == 1
    assert len({end.records for end in ends}) == 1
    values = [
        b"".join(one.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for one in run.unpacked())
        for run in runs
    ]
    assert len(set(values)) == 1


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
async def test_everybody_gets_the_median(world: int, shapes: list[tuple[int, ...]]) -> None:
    given = inputs(world, shapes)
    async with Mesh(world) as mesh:
        runs = await mesh.all(given, chunk_bytes=64 << 10)
        await same_everywhere(runs)
    for run in runs:
        for number, tensor in enumerate(run.unpacked()):
            assert torch.equal(tensor, median([one[number] for one in given]))
        end = await run.outcome()
        assert result_digest(run.work, run.packed.layout(world, chunk_bytes=64 << 10)) == end.digest
        assert sorted(run.hops) == list(range(1, 2 * (world - 1) + 1))


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("sealed", [False, True], ids=["open", "sealed"])
async def test_every_rule_gives_everybody_the_same_bytes(rule: Rule, sealed: bool) -> None:
    given = inputs(4, [(70_000,), (3, 3)])
    given = [[one, two.double()] for one, two in given]
    async with Mesh(4, sealed=sealed) as mesh:
        runs = await mesh.all(given, Aggregation(rule.value), chunk_bytes=64 << 10)
        await same_everywhere(runs)
    (mean,) = aggregate([torch.stack([one[0] for one in given])], Aggregation("centered_clip", radius=1e9))
    assert float((runs[0].unpacked()[0] - mean).norm()) < 0.6 * float(mean.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
async def test_all_kinds_of_floats(dtype: torch.dtype) -> None:
    given = inputs(3, [(1001,)], dtype)
    async with Mesh(3) as mesh:
        for run in await mesh.all(given):
            torch.testing.assert_close(run.unpacked()[0], torch.stack([one[0] for one in given]).median(0).values)


async def test_it_costs_as_many_bytes_as_a_ring() -> None:
    given = inputs(4, [(1 << 18,)])
    async with Mesh(4) as mesh:
        for run in await mesh.all(given):
            end = await run.outcome()
            assert end.bytes_sent == end.bytes_received == 2 * 3 * (1 << 20) // 4
            assert end.seconds_compute > 0


async def test_inputs_are_not_changed() -> None:
    given = inputs(3, [(50_000,)])
    before = [one[0].clone() for one in given]
    async with Mesh(3) as mesh:
        await mesh.all(given)
    for one, was in zip(given, before, strict=True):
        assert torch.equal(one[0], was)


async def test_every_weight_above_zero_counts_the_same_and_none_does_not_count() -> None:
    given = inputs(4, [(1000,)])
    given[2][0][5] = math.nan
    async with Mesh(4) as mesh:
        for run in await mesh.all(given, weights=[1.0, 1e6, 0.0, 0.5]):
            assert torch.equal(run.unpacked()[0], median([given[rank][0] for rank in (0, 1, 3)]))


async def test_one_that_says_that_its_numbers_are_not_finite_does_not_count() -> None:
    given = inputs(4, [(1000,)])
    given[1][0][7] = math.inf
    async with Mesh(4) as mesh:
        runs = await mesh.all(given)
        for run in runs:
            assert torch.equal(run.unpacked()[0], median([given[rank][0] for rank in (0, 2, 3)]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("rule", list(Rule))
async def test_one_that_does_not_say_so_is_found_out_by_the_owner_and_named_by_all(bad: float, rule: Rule) -> None:
    given = inputs(4, [(1000,)])
    given[1][0][800] = bad
    aggregation = Aggregation(rule.value)
    async with Mesh(4) as mesh:
        runs = await mesh.all(given, aggregation, liars=(1,))
        await same_everywhere(runs)
        records = [Record.decode(one) for one in (await runs[0].outcome()).records]
    assert [bool(record.flags & Flag.NON_FINITE) for record in records] == [False, True, False, False]
    assert [counts(record) for record in records] == [True, False, True, True]
    assert bool(runs[0].unpacked()[0].isfinite().all())
    if rule is Rule.MEDIAN:
        # The fourth segment was made without the liar; the others are of all.
        made = runs[0].unpacked()[0]
        start = runs[0].packed.layout(4).segments[3][0].start // 4
        assert torch.equal(made[start:], median([given[rank][0] for rank in (0, 2, 3)])[start:])
        assert torch.equal(made[:start], median([one[0] for one in given])[:start])


@pytest.mark.parametrize("rule", list(Rule))
async def test_what_is_voted_on_is_a_median_whatever_the_rule_and_counts_for_no_length(rule: Rule) -> None:
    given = inputs(5, [(1000,), (7,)])
    settings = [torch.tensor([1e30, 0.25, float(rank)], dtype=torch.float64) for rank in range(5)]
    async with Mesh(5) as mesh:
        plain = await mesh.all(given, Aggregation(rule.value))
        with_votes = [[*one, vote] for one, vote in zip(given, settings, strict=True)]
        runs = await mesh.all(with_votes, Aggregation(rule.value, votes=1), round=2)
        await same_everywhere(runs)
    *gradients, voted = runs[0].unpacked()
    assert voted.tolist() == [1e30, 0.25, 2.0]
    if rule in (Rule.MEDIAN, Rule.TRIMMED_MEAN):
        for one, other in zip(gradients, plain[0].unpacked(), strict=True):
            assert torch.equal(one, other)
    assert float(torch.cat(gradients).norm()) < 40, "gradients were not clipped to nothing, nor let through"


async def test_votes_beside_gradients_of_the_same_dtype_are_kept_apart() -> None:
    given = [[torch.full((96,), float(rank)), torch.full((16,), 100.0 + rank)] for rank in range(2)]
    async with Mesh(2) as mesh:
        for run in await mesh.all(given, Aggregation("clip", norm=1e-6, votes=1)):
            gradient, voted = run.unpacked()
            assert float(gradient.norm()) <= 1e-6
            assert voted.tolist() == [100.5] * 16


async def test_without_any_contribution_the_result_is_zero() -> None:
    given = inputs(3, [(1000,), (7,)])
    async with Mesh(3) as mesh:
        for run in await mesh.all(given, weights=[0.0] * 3):
            assert not any(tensor.any() for tensor in run.unpacked())


async def test_rounds_follow_each_other_on_the_same_links_and_buffers() -> None:
    async with Mesh(3) as mesh:
        for round in range(1, 20):
            given = inputs(3, [(60_000,)], seed=round)
            for run in await mesh.all(given, round=round, chunk_bytes=64 << 10):
                assert torch.equal(run.unpacked()[0], median([one[0] for one in given]))
        for seat in mesh.seats:
            assert sum(map(len, seat.pool._idle.values())) == 1, "the memory for contributions is used again"


async def test_who_has_the_result_may_go_on_while_others_still_wait_for_theirs() -> None:
    given = inputs(3, [(60_000,)])
    async with Mesh(3, patience=HASTY) as mesh:
        first = [mesh.prepare(rank, given[rank], round=1) for rank in range(3)]
        for run in first:
            run.attempt.start()
        slow = first[2].attempt._couriers[1]
        deliver, kept = slow.put, list[Parcel]()
        slow.put = kept.extend  # type: ignore[method-assign]
        await first[0].outcome()
        ahead = mesh.prepare(0, given[0], round=2)
        ahead.attempt.start()
        link = mesh.seats[1].arrivals.link_from(peer(0))
        assert link is not None
        await until(lambda: link.protocol.held)
        # Nothing more is read from there, heartbeats neither: it is not silent, it has said all.
        alive = mesh.seats[1].arrivals.link_from(peer(2))
        assert alive is not None
        beats = 5 * HASTY.ceiling / HASTY.heartbeat * 64 + alive.protocol.bytes_received
        await until(lambda: first[1].end.done() or alive.protocol.bytes_received >= beats)
        assert not first[1].end.done()
        deliver(kept)
        slow.finish()
        for run in first:
            await run.outcome()
        rest = [mesh.prepare(rank, given[rank], round=2) for rank in (1, 2)]
        for run in rest:
            run.attempt.start()
        await same_everywhere([ahead, *rest])


async def test_a_member_that_starts_late_misses_nothing() -> None:
    given = inputs(3, [(700_000,)])
    async with Mesh(3) as mesh:
        runs = [mesh.prepare(rank, tensors) for rank, tensors in enumerate(given)]
        runs[0].attempt.start()
        runs[1].attempt.start()
        await until(lambda: bool(runs[0].hops and runs[1].hops))
        assert not any(run.end.done() for run in runs)
        runs[2].attempt.start()
        await same_everywhere(runs)


@pytest.mark.parametrize("dead", [0, 1, 2])
async def test_the_death_of_any_member_breaks_the_attempt_and_names_it(dead: int) -> None:
    given = inputs(3, [(1000,)])
    async with Mesh(3) as mesh:
        runs = [mesh.prepare(rank, given[rank]) for rank in range(3) if rank != dead]
        for run in runs:
            run.attempt.start()
        await mesh.seats[dead].hub.close()
        for run in runs:
            broken = await run.broken()
            assert broken.suspect == peer(dead)
            assert "is gone" in broken.reason


async def test_a_link_that_is_replaced_before_anything_came_by_it_is_not_missed() -> None:
    given = inputs(3, [(1000,)])
    async with Mesh(3) as mesh:
        runs = [mesh.prepare(rank, given[rank]) for rank in range(3)]
        first, last, epoch = mesh.seats[0], mesh.seats[2], epoch_of(3)
        for seat in mesh.seats:
            seat.arrivals.advance(epoch.number, epoch.tag)
        for link in last.links.values():
            link.abort("the ring has changed")
        await until(lambda: first.arrivals.link_from(peer(2)) is None)
        runs[0].attempt.start()  # was told of the loss before it began
        runs[1].attempt.start()
        await until(lambda: bool(runs[0].hops and runs[1].hops))
        assert not any(run.end.done() for run in runs)
        for seat in (first, mesh.seats[1]):
            await mesh.connect(last, seat)
        runs[2].attempt.start()
        await same_everywhere(runs)


async def test_a_broken_attempt_leaves_the_links_for_the_next_epoch() -> None:
    given = inputs(3, [(700_000,)])
    async with Mesh(3) as mesh:
        stuck = [mesh.prepare(rank, given[rank]) for rank in (0, 1)]
        for run in stuck:
            run.attempt.start()
        await until(lambda: bool(stuck[1].hops))
        for run in stuck:
            run.attempt.halt()
        await same_everywhere(await mesh.all(given, number=2))
        assert not any(run.end.done() for run in stuck)


@pytest.mark.parametrize("hop", [1, 2])
async def test_after_halt_there_is_no_callback_and_no_write(hop: int) -> None:
    """hop 1: while contributions come; 2: when the first result does, with the own one being made or sent."""
    given = inputs(2, [(2_000_000,)])
    async with Mesh(2) as mesh:
        halted: list[bytes] = []
        happened = asyncio.Event()

        def halt(at: int) -> None:
            if at == hop:
                runs[0].attempt.halt()
                halted.append(runs[0].work.numpy().tobytes())
                happened.set()

        runs = [mesh.prepare(0, given[0], on_hop=halt), mesh.prepare(1, given[1])]
        for run in runs:
            run.attempt.start()
        await asyncio.wait_for(happened.wait(), DEADLINE)
        runs[1].attempt.halt()
        # The links are drained by the next epoch, so everything of the first has arrived by then.
        await same_everywhere(await mesh.all(given, number=2))
        assert runs[0].work.numpy().tobytes() == halted[0]
        assert not runs[0].end.done()
        runs[0].attempt.halt()


async def test_silence_of_any_member_breaks_the_attempt() -> None:
    async with Mesh(3, patience=HASTY) as mesh:
        runs = [mesh.prepare(rank, [torch.ones(10)]) for rank in (0, 1)]
        for link in mesh.seats[2].links.values():
            assert link._timer is not None
            link._timer.cancel()  # its heart stops, the connection stays
        for run in runs:
            run.attempt.start()
        for run in runs:
            broken = await run.broken()
            assert broken.suspect == peer(2)
            assert "has been silent for" in broken.reason


async def test_a_member_that_never_opens_its_link_is_named() -> None:
    async with Mesh(2, patience=HASTY) as mesh:
        mesh.seats[0].arrivals = type(mesh.seats[0].arrivals)()
        run = mesh.prepare(0, [torch.ones(10)])
        run.attempt.start()
        broken = await run.broken()
        assert broken.suspect == peer(1)
        assert "did not open its link within 0.2 s" in broken.reason


async def test_members_that_aggregate_differently_are_told_so() -> None:
    async with Mesh(3) as mesh:
        rules = [MEDIAN, Aggregation("clip"), MEDIAN]
        runs = [mesh.prepare(rank, [torch.ones(1000)], rule) for rank, rule in enumerate(rules)]
        for run in runs:
            run.attempt.start()
        for run in runs:
            broken = await run.broken()
            assert broken.suspect is None
            assert "tensors or operation differ" in broken.reason


async def test_so_are_members_with_other_shapes() -> None:
    async with Mesh(2) as mesh:
        runs = [mesh.prepare(rank, [torch.ones(100 + 1000 * rank)]) for rank in range(2)]
        for run in runs:
            run.attempt.start()
        for run in runs:
            broken = await run.broken()
            assert broken.suspect is None
            assert "tensors or operation differ" in broken.reason


async def test_a_failure_of_the_aggregation_breaks_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(2, [(1000,)])
    async with Mesh(2) as mesh:
        runs = [mesh.prepare(rank, given[rank]) for rank in range(2)]
        failed: list[BaseException] = []
        runs[0].seat.tasks._on_failure = failed.append

        def fail(*_: object) -> None:
            raise MemoryError("none left")

        monkeypatch.setattr(runs[0].attempt._contributions, "make", fail)
        for run in runs:
            run.attempt.start()
        broken = await runs[0].broken()
        assert (broken.reason, broken.suspect) == ("the own segment could not be aggregated: none left", None)
        runs[1].attempt.halt()
        await until(lambda: bool(failed))


head = partial(attempts.chunk, segment=0, phase=Leg.CONTRIBUTION)
"""What the member of rank 1 of 2 would send first."""
FULL = torch.ones(16).numpy().tobytes()


@pytest.mark.parametrize(
    ("payload", "fields", "why", "accused"),
    [
        (FULL, {"digest": 1}, "chunk 0 of segment 0 with a wrong checksum", True),
        (FULL[:32], {}, "has 64 bytes, not 32", True),
        (FULL, {"segment": 1}, "which is not that of rank 0", True),
        (FULL, {"phase": 0}, "tensors or operation differ", False),
    ],
)
async def test_a_member_that_sends_rubbish_is_named(
    payload: bytes, fields: dict[str, Any], why: str, accused: bool
) -> None:
    async with Mesh(2) as mesh:
        run = mesh.prepare(0, [torch.ones(32)])
        record = Record(peer(1), 1.0, run.packed.schema).encode()
        run.attempt.start()
        extra = encode_records([record])
        mesh.seats[1].links[peer(0)].send(head(payload, extra=extra, **fields), memoryview(payload))
        broken = await run.broken()
        assert broken.suspect == (peer(1) if accused else None)
        assert not accused or short(peer(1)) in broken.reason
        assert why in broken.reason


async def test_an_owner_whose_result_is_not_finite_is_named() -> None:
    async with Mesh(2) as mesh:
        run = mesh.prepare(0, [torch.ones(32)])
        record = Record(peer(1), 1.0, run.packed.schema).encode()
        run.attempt.start()
        own = Record(peer(0), 1.0, run.packed.schema).encode()
        bad = torch.full((16,), math.nan).numpy().tobytes()
        extra = encode_records([own, record, b"\0"])
        mesh.seats[1].links[peer(0)].send(head(bad, extra=extra, segment=1, phase=Leg.RESULT), memoryview(bad))
        broken = await run.broken()
        assert broken.suspect == peer(1)
        assert "sent a result that is not finite" in broken.reason


async def test_a_halted_attempt_holds_nothing() -> None:
    async with Mesh(2) as mesh:
        run = mesh.prepare(0, [torch.ones(100_000)])
        run.attempt.start()
        run.attempt.halt()
        gone = weakref.ref(run.attempt)
        del run
        await until(lambda: gc.collect() >= 0 and gone() is None)
        taken = mesh.seats[0].pool
        assert sum(map(len, taken._idle.values())) == 1, "the memory for contributions is back"
