"""An attempt on real links: the right numbers everywhere, bit for bit the same, or a reason why not."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attempts
import pytest
import ring_harness
import torch
import uvloop
from attempts import DEADLINE, HASTY, PATIENT, SHAPES, epoch_of, inputs, peer, until
from ring_harness import Ring

from lepton_p2p.collectives.attempt import Attempt, result_digest
from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.sources import FlatSource
from lepton_p2p.identity import short
from lepton_p2p.rounds.patience import Patience
from lepton_p2p.rounds.records import Record
from lepton_p2p.transport.links.frames import Kind, encode


@pytest.fixture(autouse=True, params=["memory", "sockets", "board", "sealed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything here holds for all ways from peer to peer."""
    monkeypatch.setattr(ring_harness, "WAY", request.param)
    return str(request.param)


carried = pytest.mark.parametrize("way", ["memory", "sockets", "sealed"], indirect=True)
"""For what is about bytes that are carried from one peer to the next."""
on_a_board = pytest.mark.parametrize("way", ["board"], indirect=True)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
async def test_everybody_gets_the_sum(world: int, shapes: list[tuple[int, ...]]) -> None:
    given = inputs(world, shapes)
    async with Ring(world) as ring:
        runs = await ring.all(given, chunk_bytes=64 << 10)
    for run in runs:
        for number, tensor in enumerate(run.unpacked()):
            expected = torch.stack([one[number].double() for one in given]).sum(0).float()
            torch.testing.assert_close(tensor, expected)
    ends = [await run.outcome() for run in runs]
    assert len({end.digest for end in ends}) == 1
    assert len({run.work.numpy().tobytes() for run in runs}) == 1
    for run in runs:
        assert result_digest(run.work, run.packed.layout(world, chunk_bytes=64 << 10)) == ends[0].digest
        assert sorted(run.hops) == list(range(1, 2 * (world - 1) + 1))


@pytest.mark.parametrize(
    ("op", "reference"),
    [
        (Op.SUM, lambda stack: stack.sum(0)),
        (Op.MEAN, lambda stack: stack.mean(0)),
        (Op.MAX, lambda stack: stack.amax(0)),
        (Op.MIN, lambda stack: stack.amin(0)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
async def test_operations_on_floats(
    op: Op, reference: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> None:
    given = inputs(3, [(1001,), (4, 5)], dtype)
    async with Ring(3) as ring:
        runs = await ring.all(given, op)
    for run in runs:
        for number, tensor in enumerate(run.unpacked()):
            expected = reference(torch.stack([one[number].double() for one in given])).to(dtype)
            torch.testing.assert_close(tensor, expected)


@pytest.mark.parametrize("op", [Op.SUM, Op.MAX, Op.MIN])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
async def test_operations_on_integers_wrap_around(op: Op, dtype: torch.dtype) -> None:
    given = inputs(3, [(1001,)], dtype)
    async with Ring(3) as ring:
        runs = await ring.all(given, op)
    stack = torch.stack([one[0] for one in given])
    expected = {
        Op.SUM: lambda: stack[0] + stack[1] + stack[2],
        Op.MAX: lambda: stack.amax(0),
        Op.MIN: lambda: stack.amin(0),
    }[op]()
    for run in runs:
        assert torch.equal(run.unpacked()[0], expected)


async def test_a_mean_is_weighted_and_a_weight_of_zero_is_not_looked_at() -> None:
    given = inputs(4, [(1000,), (10, 10)])
    given[2][0][5] = math.nan
    weights = [1.0, 32.0, 0.0, 0.5]
    async with Ring(4) as ring:
        runs = await ring.all(given, Op.MEAN, weights=weights)
    for run in runs:
        assert run.packed.finite
        for number, tensor in enumerate(run.unpacked()):
            parts = [w * one[number].double() for w, one in zip(weights, given, strict=True) if w]
            torch.testing.assert_close(tensor, (torch.stack(parts).sum(0) / sum(weights)).float())


async def test_an_input_that_is_not_finite_counts_as_nothing() -> None:
    given = inputs(3, [(1000,)])
    given[1][0][7] = math.inf
    async with Ring(3) as ring:
        runs = await ring.all(given)
    assert [run.packed.finite for run in runs] == [True, False, True]
    for run in runs:
        torch.testing.assert_close(run.unpacked()[0], given[0][0] + given[2][0])


@pytest.mark.parametrize("world", [1, 2, 4])
async def test_gathering_gives_everybody_everything(world: int, way: str) -> None:
    given = [
        [torch.full((300, 300), float(rank)), torch.tensor([rank > 1, True]), torch.tensor(1j * rank)]
        for rank in range(world)
    ]
    async with Ring(world) as ring:
        runs = await ring.all(given, Op.GATHER, chunk_bytes=64 << 10)
    for run in runs:
        for rank in range(world):
            for got, expected in zip(run.unpacked(slot=rank), given[rank], strict=True):
                assert torch.equal(got, expected)
        end = await run.outcome()
        assert end.bytes_sent == (0 if way == "board" else (world - 1) * run.packed.total)
        assert len(end.records) == world


@pytest.mark.parametrize("root", [0, 2])
async def test_a_broadcast_is_the_roots_bytes(root: int) -> None:
    given = inputs(3, [(100_000,), (3,)], torch.bfloat16)
    given[root][0][0] = math.nan
    async with Ring(3) as ring:
        runs = await ring.all(given, Op.COPY, root=root, chunk_bytes=64 << 10)
    for run in runs:
        for got, expected in zip(run.unpacked(), given[root], strict=True):
            assert torch.equal(got.view(torch.int16), expected.view(torch.int16))


@carried
async def test_every_peer_sends_and_receives_its_share_of_the_bytes() -> None:
    given = inputs(4, [(1 << 18,)])
    async with Ring(4) as ring:
        runs = await ring.all(given)
    for run in runs:
        end = await run.outcome()
        assert end.bytes_sent == end.bytes_received == 2 * 3 * (1 << 20) // 4
        assert end.seconds_compute > 0


async def test_inputs_are_not_changed() -> None:
    given = inputs(3, [(50_000,)])
    before = [one[0].clone() for one in given]
    async with Ring(3) as ring:
        await ring.all(given, Op.MEAN, weights=[2.0, 3.0, 4.0])
    for one, was in zip(given, before, strict=True):
        assert torch.equal(one[0], was)


async def test_rounds_follow_each_other_on_the_same_links_and_buffers() -> None:
    async with Ring(3) as ring:
        for round in range(1, 30):
            given = [[torch.full((100_000,), float(round * rank))] for rank in range(3)]
            for run in await ring.all(given, round=round, chunk_bytes=64 << 10):
                assert torch.equal(run.unpacked()[0], torch.full((100_000,), float(round * 3)))


async def test_a_member_that_starts_late_misses_nothing() -> None:
    given = inputs(3, [(700_000,)])
    async with Ring(3) as ring:
        runs = [ring.prepare(rank, tensors) for rank, tensors in enumerate(given)]
        runs[0].attempt.start()
        runs[1].attempt.start()
        await until(lambda: bool(runs[1].hops))
        assert not any(run.end.done() for run in runs)
        runs[2].attempt.start()
        for run in runs:
            await run.outcome()
            torch.testing.assert_close(run.unpacked()[0], given[0][0] + given[1][0] + given[2][0])


async def test_records_are_inspected_as_they_come_and_known_to_all_in_ring_order() -> None:
    seen: dict[int, list[Sequence[bytes]]] = {rank: [] for rank in range(4)}
    async with Ring(4) as ring:
        runs = [
            ring.prepare(rank, [torch.ones(8)], record=b"%d" % rank, inspect=seen[rank].append) for rank in range(4)
        ]
        for run in runs:
            run.attempt.start()
        for run in runs:
            assert (await run.outcome()).records == (b"0", b"1", b"2", b"3")
    for rank, calls in seen.items():
        assert [len(records) for records in calls] == sorted({len(records) for records in calls})
        assert list(calls[-1]) == [b"0", b"1", b"2", b"3"]
        assert all(b"%d" % rank in records for records in calls)


async def test_records_that_do_not_fit_break_the_attempt_also_if_the_shapes_differ() -> None:
    def inspect(records: Sequence[bytes]) -> float | None:
        if len(set(records)) > 1:
            raise ValueError("peers brought different tensors")
        return None

    async with Ring(2) as ring:
        runs = [
            ring.prepare(0, [torch.ones(100)], record=b"100", inspect=inspect),
            ring.prepare(1, [torch.ones(2000)], record=b"2000", inspect=inspect),
        ]
        for run in runs:
            run.attempt.start()
        for run in runs:
            broken = await run.broken()
            assert (broken.reason, broken.suspect) == ("peers brought different tensors", None)
        assert all(seat.right is not None and seat.right.closed is None for seat in ring.seats)


async def test_the_death_of_a_neighbour_breaks_the_attempt_and_names_it() -> None:
    given = inputs(3, [(1000,)])
    async with Ring(3) as ring:
        runs = [ring.prepare(rank, given[rank]) for rank in (0, 1)]
        for run in runs:
            run.attempt.start()
        await ring.seats[2].hub.close()
        for run in runs:
            broken = await run.broken()
            assert broken.suspect == peer(2)
            assert "is gone" in broken.reason


async def test_a_broken_attempt_leaves_the_links_for_the_next_epoch() -> None:
    given = inputs(3, [(700_000,)])
    async with Ring(3) as ring:
        stuck = [ring.prepare(rank, given[rank]) for rank in (0, 1)]
        for run in stuck:
            run.attempt.start()
        await until(lambda: bool(stuck[1].hops))
        for run in stuck:
            run.attempt.halt()
        for run in await ring.all(given, number=2):
            torch.testing.assert_close(run.unpacked()[0], given[0][0] + given[1][0] + given[2][0])
        assert not any(run.end.done() for run in stuck)


@carried
async def test_after_halt_there_is_no_callback_and_no_write() -> None:
    given = inputs(2, [(2_000_000,)])
    async with Ring(2) as ring:
        halted: list[bytes] = []
        happened = asyncio.Event()

        def halt(hop: int) -> None:
            runs[0].attempt.halt()
            halted.append(runs[0].work.numpy().tobytes())
            happened.set()

        runs = [ring.prepare(0, given[0], on_hop=halt), ring.prepare(1, given[1])]
        for run in runs:
            run.attempt.start()
        await asyncio.wait_for(happened.wait(), DEADLINE)
        runs[1].attempt.halt()
        # The links are drained by the next epoch, so everything of the first has arrived by then.
        await ring.all(given, number=2)
        assert runs[0].work.numpy().tobytes() == halted[0]
        assert not runs[0].end.done()
        runs[0].attempt.halt()


async def test_silence_breaks_the_attempt() -> None:
    async with Ring(2, patience=HASTY) as ring:
        run = ring.prepare(0, [torch.ones(10)])
        link = ring.seats[1].right
        assert link is not None
        assert link._timer is not None
        link._timer.cancel()  # its heart stops, the connection stays
        run.attempt.start()
        broken = await run.broken()
        assert broken.suspect == peer(1)
        assert "has been silent for" in broken.reason


async def test_a_neighbour_that_computes_for_long_is_not_silent() -> None:
    given = inputs(2, [(10,)])
    async with Ring(2, patience=HASTY) as ring:
        runs = [ring.prepare(rank, given[rank]) for rank in (0, 1)]
        runs[0].attempt.start()
        link = ring.seats[0].arrivals.link_from(peer(1))
        assert link is not None
        beats = 5 * HASTY.ceiling / HASTY.heartbeat
        await until(lambda: link.protocol.bytes_received >= beats * 64)
        assert not runs[0].end.done()
        runs[1].attempt.start()
        for run in runs:
            await run.outcome()


async def test_a_left_neighbour_that_never_opens_its_link_is_named() -> None:
    async with Ring(2, patience=HASTY) as ring:
        left = ring.seats[0].arrivals.link_from(peer(1))
        assert left is not None
        ring.seats[0].arrivals = type(ring.seats[0].arrivals)()
        run = ring.prepare(0, [torch.ones(10)])
        run.attempt.start()
        broken = await run.broken()
        assert broken.suspect == peer(1)
        assert "did not open its link within 0.2 s" in broken.reason


head = partial(attempts.chunk, segment=1, phase=0, extra=b"\x00\x031.0")
"""What the member of rank 1 of 2 would send first."""


@carried
@pytest.mark.parametrize(
    ("op", "payload", "fields", "why"),
    [
        (Op.SUM, torch.ones(16).numpy().tobytes(), {"digest": 1}, "chunk 0 of segment 1 with a wrong checksum"),
        (Op.SUM, torch.full((16,), math.nan).numpy().tobytes(), {}, "a partial result that is not finite"),
        (Op.SUM, torch.full((16,), math.inf).numpy().tobytes(), {}, "a partial result that is not finite"),
        (Op.MAX, torch.full((16,), math.nan).numpy().tobytes(), {}, "a partial result that is not finite"),
        (Op.SUM, torch.ones(8).numpy().tobytes(), {}, "has 64 bytes, not 32"),
        (Op.SUM, torch.ones(16).numpy().tobytes(), {"segment": 0}, "came back"),
    ],
)
async def test_a_neighbour_that_sends_rubbish_is_named(
    op: Op, payload: bytes, fields: dict[str, Any], why: str
) -> None:
    async with Ring(2) as ring:
        run = ring.prepare(0, [torch.ones(32)], op)
        run.attempt.start()
        link = ring.seats[1].right
        assert link is not None
        link.send(head(payload, **fields), memoryview(payload))
        broken = await run.broken()
        assert broken.suspect == peer(1)
        assert short(peer(1)) in broken.reason
        assert why in broken.reason


def placed(**fields: Any) -> bytes:
    """A turn on the board of epoch 1, round 1, as the member of rank 1 of 2 would announce it first."""
    epoch = epoch_of(2)
    values: dict[str, Any] = {"segment": 1, "phase": 0, "extra": b"\x00\x031.0", "payload_checksum": 0, **fields}
    return encode(Kind.PLACED, epoch=epoch.number, tag=epoch.tag, round=1, **values)


@on_a_board
@pytest.mark.parametrize(
    ("value", "frames", "why"),
    [
        (math.nan, [placed()], "a partial result that is not finite"),
        (1.0, [placed(segment=0)], "came back"),
        (1.0, [placed(), placed(segment=0, phase=1, extra=b"\x00\x031.0\x00\x031.0")], "other bytes are on the board"),
        (1.0, [head(bytes(64)) + bytes(64)], "bytes beside the board"),
    ],
    ids=["not finite", "came back", "not what was told", "carried"],
)
async def test_a_neighbour_that_puts_rubbish_on_the_board_is_named(value: float, frames: list[bytes], why: str) -> None:
    async with Ring(2) as ring:
        run = ring.prepare(0, [torch.ones(32)])
        run.work.view(torch.float32)[:] = value
        run.attempt.start()
        link = ring.seats[1].right
        assert link is not None
        for frame in frames:
            link.send(frame)
        broken = await run.broken()
        assert broken.suspect == (None if "bytes are on" in why else peer(1))
        assert short(peer(1)) in broken.reason
        assert why in broken.reason


@carried
async def test_a_turn_on_a_board_that_does_not_exist_is_refused() -> None:
    async with Ring(2) as ring:
        run = ring.prepare(0, [torch.ones(32)])
        run.attempt.start()
        link = ring.seats[1].right
        assert link is not None
        link.send(placed())
        broken = await run.broken()
        assert (broken.suspect, "a board where there is none" in broken.reason) == (peer(1), True)


@on_a_board
async def test_after_halt_nobody_finds_a_byte_changed_on_the_board() -> None:
    given = inputs(3, [(2_000_000,)])
    async with Ring(3) as ring:
        happened = asyncio.Event()

        def halt(hop: int) -> None:
            if hop == 3 and not happened.is_set():
                for run in runs:
                    run.attempt.halt()
                left.append(runs[0].work.numpy().tobytes())
                happened.set()

        left: list[bytes] = []
        runs = [ring.prepare(rank, given[rank], on_hop=halt) for rank in range(3)]
        for run in runs:
            run.attempt.start()
        await asyncio.wait_for(happened.wait(), DEADLINE)
        # Everything that was announced has arrived when the next epoch is through.
        await ring.all(given, number=2)
        assert runs[0].work.numpy().tobytes() == left[0]
        assert not any(run.end.done() for run in runs)


@on_a_board
async def test_nothing_is_carried_and_all_see_one_result() -> None:
    given = inputs(4, [(3_000_000,), (17,)])
    async with Ring(4) as ring:
        runs = await ring.all(given)
        ends = [await run.outcome() for run in runs]
        links = [seat.right.statistics() for seat in ring.seats if seat.right is not None]
    assert len({run.work.data_ptr() for run in runs}) == 1
    assert {(end.bytes_sent, end.bytes_received) for end in ends} == {(0, 0)}
    assert {end.digest for end in ends} == {result_digest(runs[0].work, runs[0].packed.layout(4))}
    assert all(link.bytes_sent < 20_000 for link in links)


@on_a_board
async def test_segments_of_unlike_numbers_of_chunks_are_no_dead_end() -> None:
    # The last segment lies in seven groups, the others in one.
    few = (torch.float64, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
    given = [[torch.ones(100), *(torch.ones(1, dtype=dtype) for dtype in few)] for _ in range(3)]
    async with Ring(3) as ring:
        runs = await ring.all(given, chunk_bytes=64)
        counts = [len(row) for row in runs[0].packed.layout(3, chunk_bytes=64).segments]
    assert max(counts) > min(counts) + 2, "more than the window makes up for"
    for tensor in runs[2].unpacked():
        assert torch.equal(tensor, torch.full_like(tensor, 3))


async def test_infinities_are_fine_for_max_and_min() -> None:
    given = [[torch.tensor([-math.inf, 1.0, math.inf])], [torch.tensor([-math.inf, 2.0, -math.inf])]]
    async with Ring(2) as ring:
        for run in await ring.all(given, Op.MAX):
            assert torch.equal(run.unpacked()[0], torch.tensor([-math.inf, 2.0, math.inf]))


async def test_a_neighbour_that_is_in_a_later_epoch_breaks_the_attempt_without_a_suspect() -> None:
    async with Ring(2) as ring:
        old = ring.prepare(0, [torch.ones(10)])
        new = ring.prepare(1, [torch.ones(10)], number=2)
        old.attempt.start()
        new.attempt.start()
        broken = await old.broken()
        assert (broken.reason, broken.suspect) == (f"{short(peer(1))} went on to epoch 2, round 1", None)
        retry = ring.prepare(0, [torch.ones(10)], number=2)
        retry.attempt.start()
        await retry.outcome()
        assert torch.equal(retry.unpacked()[0], torch.full((10,), 2.0))


async def test_buffers_that_do_not_fit_the_layout_are_refused() -> None:
    async with Ring(1) as ring:
        run = ring.prepare(0, [torch.ones(10)])
        with pytest.raises(ValueError, match="bytes, not 40 and 40"):
            Attempt(
                epoch=epoch_of(1),
                round=1,
                me=peer(0),
                layout=run.packed.layout(1),
                reduce_hops=0,
                op=Op.SUM,
                source=FlatSource(torch.zeros(39, dtype=torch.uint8).numpy()),
                work=run.work,
                record=b"",
                inspect=lambda records: None,
                right=None,
                arrivals=ring.seats[0].arrivals,
                patience=Patience(PATIENT),
                on_done=lambda outcome: None,
                on_broken=lambda broken: None,
            )


def test_the_same_on_uvloop() -> None:
    async def main() -> None:
        given = inputs(4, [(1_500_000,), (13,)])
        async with Ring(4, patience=PATIENT) as ring:
            for round in range(1, 6):
                runs = await ring.all(given, Op.MEAN, round=round, weights=[1.0, 2.0, 3.0, 4.0])
                assert len({(await run.outcome()).digest for run in runs}) == 1
                expected = sum((rank + 1) * given[rank][0].double() for rank in range(4)) / 10
                torch.testing.assert_close(runs[round % 4].unpacked()[0], expected.float())
            stuck = [ring.prepare(rank, given[rank], number=2) for rank in (0, 1)]
            for run in stuck:
                run.attempt.start()
            await ring.seats[2].hub.close()
            for run in stuck[1:]:
                assert (await run.broken()).suspect == peer(2)
            for run in stuck:
                run.attempt.halt()

    uvloop.run(main())


def test_records_of_the_longest_kind_fit_into_a_frame() -> None:
    assert 200 * (len(Record(peer(0), 1.0, 2, note=bytes(1024)).encode()) + 2) < 256 << 10


async def test_nothing_of_an_attempt_is_left_to_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        async with Ring(2) as ring:
            runs = await ring.all(inputs(2, [(300_000,)]), chunk_bytes=64 << 10)
            attempts = [weakref.ref(run.attempt) for run in runs]
            del runs
            await until(lambda: not any(attempt() for attempt in attempts))
    finally:
        gc.enable()
