"""The public ``Peer``: collectives over real sockets, several peers on one loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest
import structlog
import torch

import lepton_p2p as lp
from lepton_p2p.collectives.packing import Packed
from lepton_p2p.errors import Closed
from lepton_p2p.jobs import job_from_table
from lepton_p2p.peer import Peer

Swarm = Callable[[int], Coroutine[Any, Any, list[Peer]]]


shares_memory = pytest.mark.skipif(sys.platform != "linux", reason="shared memory needs Linux")


@pytest.fixture
async def swarm() -> AsyncIterator[Swarm]:
    """Starts n peers that are all in one epoch; they are closed after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(count: int) -> list[Peer]:
            first = await stack.enter_async_context(Peer(preset="local"))
            joiners = [Peer(preset="local", join=[first.address]) for _ in range(count - 1)]
            peers = [first, *await asyncio.gather(*(stack.enter_async_context(peer) for peer in joiners))]
            await asyncio.gather(*(peer.wait_for_members(count, timeout=20) for peer in peers))
            return peers

        yield start


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address at which nobody listens, and nobody will meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


async def all_of(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    return list(await asyncio.gather(*calls))


async def test_a_peer_alone_is_a_swarm_of_one(swarm: Swarm) -> None:
    (peer,) = await swarm(1)
    tensor = torch.arange(5.0)
    result = await peer.all_reduce(tensor, weight=3)
    assert torch.equal(tensor, torch.arange(5.0))
    assert result.members == result.contributors == (peer.id,)
    assert (result.round, result.attempts, result.total_weight) == (1, 1, 3.0)


@pytest.mark.parametrize("size", [0, 1, 3, 1000, 700_001])
async def test_a_weighted_mean_is_the_same_on_all_members(swarm: Swarm, size: int) -> None:
    peers = await swarm(4)
    inputs = [torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    expected = sum((1.0 + seed) * tensor.double() for seed, tensor in enumerate(inputs)) / 10.0
    tensors = [tensor.clone() for tensor in inputs]
    results = await all_of(
        [p.all_reduce(t, weight=1.0 + i) for i, (p, t) in enumerate(zip(peers, tensors, strict=True))]
    )
    for tensor in tensors:
        assert torch.equal(tensor, tensors[0])
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)
    assert len({result.digest for result in results}) == 1
    assert results[0].contributors == results[0].members
    if size > 1000:
        for result in results:
            assert result.bytes_sent == pytest.approx(2 * 3 / 4 * size * 4, rel=0.01)


async def on_a_board(peers: Sequence[Peer], size: int = 100_000) -> None:
    """Rounds of all until they are made in memory that all see."""
    async with asyncio.timeout(20):
        while True:
            results = await all_of([peer.all_reduce(torch.ones(size), op="sum") for peer in peers])
            if all(result.bytes_sent == 0 for result in results):
                return


@shares_memory
@pytest.mark.parametrize("world", [2, 4])
async def test_peers_on_one_machine_come_to_work_in_one_memory(swarm: Swarm, world: int) -> None:
    peers = await swarm(world)
    await on_a_board(peers)
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        given = [torch.randn(60_000 + 5000 * seed, generator=generator) for _ in peers]
        tensors = [tensor.clone() for tensor in given]
        results = await all_of(
            [p.all_reduce(t, weight=1.0 + i) for i, (p, t) in enumerate(zip(peers, tensors, strict=True))]
        )
        expected = sum((1.0 + rank) * tensor.double() for rank, tensor in enumerate(given)) / sum(range(1, world + 1))
        torch.testing.assert_close(tensors[0].double(), expected, rtol=1e-5, atol=1e-6)
        assert all(torch.equal(tensor, tensors[0]) for tensor in tensors)
        assert {(result.bytes_sent, result.attempts) for result in results} == {(0, 1)}
        gathered = await all_of([peer.all_gather(tensor) for peer, tensor in zip(peers, given, strict=True)])
        for rank, peer in enumerate(peers):
            assert all(torch.equal(one.tensors[peer.id][0], given[rank]) for one in gathered)
        sent = [tensor.clone() for tensor in given]
        await all_of([p.broadcast(t, root=peers[-1].id) for p, t in zip(peers, sent, strict=True)])
        assert all(torch.equal(tensor, given[-1]) for tensor in sent)


@shares_memory
async def test_nan_counts_as_nothing_in_one_memory_too(swarm: Swarm) -> None:
    peers = await swarm(3)
    await on_a_board(peers)
    tensors = [torch.ones(100_000), torch.full((100_000,), float("nan")), torch.full((100_000,), 3.0)]
    results = await all_of([peer.all_reduce(t) for peer, t in zip(peers, tensors, strict=True)])
    assert all(torch.equal(tensor, torch.full((100_000,), 2.0)) for tensor in tensors)
    assert {(result.bytes_sent, result.refused) for result in results} == {(0, (peers[1].id,))}


@shares_memory
@pytest.mark.parametrize("other", [5, 99_999, 100_001])
async def test_other_shapes_on_the_board_change_nothing_anywhere(swarm: Swarm, other: int) -> None:
    peers = await swarm(3)
    await on_a_board(peers)
    tensors = [torch.ones(100_000), torch.ones(other), torch.ones(100_000)]
    outcomes = await asyncio.gather(
        *(peer.all_reduce(t, op="sum") for peer, t in zip(peers, tensors, strict=True)), return_exceptions=True
    )
    assert all(isinstance(outcome, lp.SchemaMismatch) for outcome in outcomes), outcomes
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in tensors)
    for peer in peers:
        assert not peer.parts[0].rounds.pool._idle.get((400_000, False)), "a board is not one's own to use again"
    await on_a_board(peers)


@shares_memory
async def test_without_the_consent_of_one_there_is_no_common_memory(swarm: Swarm) -> None:
    async with Peer() as first, Peer(join=[first.address], share_memory=False) as second:
        await all_of([peer.wait_for_members(2, timeout=20) for peer in (first, second)])
        for _ in range(5):
            results = await all_of([peer.all_reduce(torch.ones(100_000), op="sum") for peer in (first, second)])
            assert all(result.bytes_sent > 0 for result in results)


async def test_collectives_are_called_one_at_a_time(swarm: Swarm) -> None:
    first, second = await swarm(2)
    tensor = torch.ones(10)
    waiting = asyncio.ensure_future(first.all_reduce(tensor, op="sum"))
    await asyncio.sleep(0)
    for call in (first.barrier(), first.all_reduce(torch.ones(3)), first.all_gather(tensor)):
        with pytest.raises(RuntimeError, match="await it before starting the next"):
            await call
    await second.all_reduce(torch.ones(10), op="sum")
    await waiting
    assert torch.equal(tensor, torch.full((10,), 2.0))
    await all_of([peer.barrier() for peer in (first, second)])


@pytest.mark.parametrize("op", ["sum", "max", "min"])
async def test_many_tensors_of_mixed_dtypes_in_one_round(swarm: Swarm, op: str) -> None:
    peers = await swarm(3)
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8)
    rows = [[torch.full((2, 3), rank + 1, dtype=dtype) for dtype in dtypes] for rank in range(3)]
    await all_of([peer.all_reduce(row, op=op) for peer, row in zip(peers, rows, strict=True)])  # type: ignore[arg-type]
    expected = {"sum": 6, "max": 3, "min": 1}[op]
    for row in rows:
        assert all(torch.equal(tensor, torch.full((2, 3), expected, dtype=tensor.dtype)) for tensor in row)


async def test_something_robust_may_take_the_place_of_the_mean(swarm: Swarm) -> None:
    peers = await swarm(4)
    for aggregation, expected in (
        ("median", 2.5),
        (lp.Aggregation("trimmed_mean", trim=1), 2.5),
        (lp.Aggregation("clip", norm=1.0), 1.0),
        ("mean", (1 * 1 + 2 * 2 + 3 * 3 + 4000.0 * 4) / 10),
    ):
        tensors = [torch.tensor([value]) for value in (1.0, 2.0, 3.0, 4000.0)]
        calls = [
            p.all_reduce(t, weight=1.0 + i, aggregation=aggregation)  # type: ignore[arg-type]
            for i, (p, t) in enumerate(zip(peers, tensors, strict=True))
        ]
        results = await all_of(calls)
        assert tensors[0].item() == pytest.approx(expected)
        assert len({(tensor.item(), result.digest) for tensor, result in zip(tensors, results, strict=True)}) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"aggregation": "krum"}, "not 'krum'"),
        ({"aggregation": "median", "op": "sum"}, "median takes the place of a mean"),
        ({"aggregation": lp.Aggregation("median", votes=2)}, "2 votes among 1 tensors"),
    ],
)
async def test_an_aggregation_that_makes_no_sense_is_refused(swarm: Swarm, options: dict[str, Any], told: str) -> None:
    (peer,) = await swarm(1)
    with pytest.raises(ValueError, match=told):
        await peer.all_reduce(torch.ones(3), **options)


async def test_a_mean_of_integers_is_refused_before_anything_is_sent(swarm: Swarm) -> None:
    (peer,) = await swarm(1)
    with pytest.raises(TypeError, match=r"the mean of torch\.int64 is not an integer"):
        await peer.all_reduce(torch.ones(3, dtype=torch.int64))


async def test_nan_counts_with_weight_zero_and_its_owner_gets_the_result(swarm: Swarm) -> None:
    peers = await swarm(3)
    tensors = [torch.ones(4), torch.tensor([1.0, float("nan"), 1.0, 1.0]), torch.full((4,), 3.0)]
    results = await all_of([peer.all_reduce(t) for peer, t in zip(peers, tensors, strict=True)])
    for tensor, result in zip(tensors, results, strict=True):
        assert torch.equal(tensor, torch.full((4,), 2.0))
        assert result.refused == (peers[1].id,)
        assert set(result.contributors) == {peers[0].id, peers[2].id}
        assert result.total_weight == 2.0


async def test_other_shapes_on_one_peer_change_nothing_anywhere_and_the_next_round_works(swarm: Swarm) -> None:
    peers = await swarm(3)
    tensors = [torch.ones(4), torch.ones(4), torch.ones(5)]
    outcomes = await asyncio.gather(
        *(peer.all_reduce(t, op="sum") for peer, t in zip(peers, tensors, strict=True)), return_exceptions=True
    )
    assert all(isinstance(outcome, lp.SchemaMismatch) for outcome in outcomes), outcomes
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in tensors)
    again = [torch.ones(4) for _ in peers]
    await all_of([peer.all_reduce(t, op="sum") for peer, t in zip(peers, again, strict=True)])
    assert all(torch.equal(tensor, torch.full((4,), 3.0)) for tensor in again)


async def test_broadcast_copies_the_bits_of_the_root(swarm: Swarm) -> None:
    peers = await swarm(3)
    odd = torch.tensor([float("nan"), -0.0, float("inf"), 1e-45])
    tensors = [torch.zeros(4), odd.clone(), torch.ones(4)]
    await all_of([p.broadcast(t, root=peers[1].id) for p, t in zip(peers, tensors, strict=True)])
    assert all(torch.equal(t.view(torch.int32), odd.view(torch.int32)) for t in tensors)


async def test_a_broadcast_from_nobody_is_rejected_for_all(swarm: Swarm) -> None:
    peers = await swarm(2)
    stranger = lp.PeerId("f" * 32)
    outcomes = await asyncio.gather(
        *(peer.broadcast(torch.ones(3), root=stranger) for peer in peers), return_exceptions=True
    )
    assert all(isinstance(outcome, lp.RoundRejected) for outcome in outcomes)
    await all_of([peer.barrier() for peer in peers])


def inference_tensor() -> torch.Tensor:
    with torch.inference_mode():
        return torch.ones(3)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (torch.ones(3, 1).expand(3, 4), "share memory"),
        (inference_tensor(), "inference tensor"),
        (torch.ones(3, device="meta"), "meta device"),
        ("tensor", "not str"),
    ],
)
async def test_what_cannot_take_a_result_is_refused_before_there_is_one(swarm: Swarm, bad: Any, said: str) -> None:
    (peer,) = await swarm(1)
    good = torch.ones(2)
    for call in (peer.all_reduce([good, bad], op="sum"), peer.broadcast([good, bad], root=peer.id)):
        with pytest.raises(TypeError, match=said):
            await call
    assert (await peer.status()).rounds_done == 0


async def test_an_expanded_tensor_can_be_gathered(swarm: Swarm) -> None:
    (peer,) = await swarm(1)
    gathered = await peer.all_gather(torch.ones(3, 1).expand(3, 4))
    assert torch.equal(gathered.tensors[peer.id][0], torch.ones(3, 4))


async def test_all_gather_returns_every_members_tensors(swarm: Swarm) -> None:
    peers = await swarm(3)
    rows = await all_of(
        [peer.all_gather([torch.tensor([rank]), torch.ones(2, 2) * rank]) for rank, peer in enumerate(peers)]
    )
    for gathered in rows:
        for rank, peer in enumerate(peers):
            first, second = gathered.tensors[peer.id]
            assert torch.equal(first, torch.tensor([rank]))
            assert torch.equal(second, torch.ones(2, 2) * rank)


async def test_those_who_stay_do_not_wait_for_one_that_leaves_and_are_told(swarm: Swarm) -> None:
    peers = await swarm(3)
    leaver, *rest = (peer.id for peer in peers)
    waiting = [asyncio.ensure_future(peer.all_reduce(torch.ones(2), op="sum")) for peer in peers[1:]]
    await peers[0].leave()
    for result in await asyncio.gather(*waiting):
        assert set(result.members) == set(rest)
        assert [lost.peer for lost in result.lost] == [leaver]


async def test_cancelling_a_round_takes_the_input_back_and_the_others_go_on(swarm: Swarm) -> None:
    peers = await swarm(3)
    mine = torch.ones(2)
    call = asyncio.ensure_future(peers[2].all_reduce(mine, op="sum"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert torch.equal(mine, torch.ones(2))
    tensors = [torch.ones(2), torch.ones(2)]
    await all_of([peer.all_reduce(t, op="sum") for peer, t in zip(peers, tensors, strict=False)])
    assert torch.equal(tensors[0], torch.full((2,), 2.0))
    await asyncio.gather(*(peer.wait_for_members(3, timeout=20) for peer in peers))


async def test_waiting_for_members_that_do_not_come_says_how_many_there_are(swarm: Swarm) -> None:
    (peer,) = await swarm(1)
    with pytest.raises(lp.WaitTimeout, match="1 of 2 members"):
        await peer.wait_for_members(2, timeout=0.05)


async def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(lp.PortInUse, match=str(port)):
            async with Peer(listen=f"127.0.0.1:{port}"):
                pass


async def test_a_peer_of_another_swarm_is_turned_away_when_it_starts(swarm: Swarm) -> None:
    (peer,) = await swarm(1)
    with pytest.raises(lp.WrongSwarm, match="other"):
        async with Peer(preset="local", swarm="other", join=[peer.address]):
            pass


async def test_an_unknown_host_among_no_other_seeds_is_an_error() -> None:
    with pytest.raises(lp.AddressError, match=r"no-such-host\.invalid"):
        async with Peer(preset="local", join=["no-such-host.invalid:7700"]):
            pass


@pytest.mark.parametrize("advertise", ["a name:1", "x/y:1"])
async def test_an_address_that_nobody_could_call_is_an_error(advertise: str) -> None:
    with pytest.raises(lp.AddressError, match="--advertise"):
        async with Peer(preset="local", advertise=advertise):
            pass


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_data_port_that_is_no_port_is_an_error(port: int) -> None:
    with pytest.raises(lp.ConfigError, match="data_port"):
        Peer(data_port=port)


async def test_strangers_could_reach_it_so_insecure_must_be_said() -> None:
    with pytest.raises(lp.InsecureRefused, match="--insecure"):
        async with Peer(listen="0.0.0.0:0"):
            pass


async def test_a_closed_peer_says_so() -> None:
    peer = Peer(preset="local")
    async with peer:
        pass
    with pytest.raises(lp.Closed):
        await peer.barrier()


async def test_two_swarms_that_started_apart_become_one(swarm: Swarm) -> None:
    async with Peer(preset="local") as one, Peer(preset="local") as two:
        await all_of([one.barrier(), two.barrier()])
        async with Peer(preset="local", join=[one.address, two.address]) as bridge:
            await asyncio.gather(*(peer.wait_for_members(3, timeout=30) for peer in (one, two, bridge)))


BIG = 600_000
"""Elements of a tensor that is not dealt with at one go."""


async def test_what_takes_long_and_cannot_be_cut_is_not_done_on_the_loop(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def unpacking(self: Packed, *args: Any, **options: Any) -> Iterator[None]:
        threads.append(threading.current_thread())
        yield

    monkeypatch.setattr(Packed, "unpacking", unpacking)
    (peer,) = await swarm(1)
    tensor = torch.zeros(BIG, dtype=torch.bfloat16)
    await peer.all_reduce(tensor)
    await peer.broadcast(tensor, root=peer.id)
    await peer.all_gather(tensor)
    assert len(threads) == 3
    assert threading.current_thread() not in threads


async def test_what_takes_long_lets_the_loop_work_between_its_steps(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []

    def unpacking(self: Packed, *args: Any, **options: Any) -> Iterator[None]:
        for _ in range(3):
            turns.append("step")
            asyncio.get_running_loop().call_soon(turns.append, "others")
            yield

    monkeypatch.setattr(Packed, "unpacking", unpacking)
    (peer,) = await swarm(1)
    await peer.all_reduce(torch.zeros(BIG))
    assert turns == ["step", "others"] * 3


async def test_large_tensors_are_looked_at_and_filled_to_the_last_element(swarm: Swarm) -> None:
    (peer,) = await swarm(1)
    tensor = torch.randn(12 * BIG + 17)
    expected = tensor.clone()
    assert (await peer.all_reduce(tensor)).contributors == (peer.id,)
    assert torch.equal(tensor, expected)
    tensor[-1] = math.nan
    assert (await peer.all_reduce(tensor)).refused == (peer.id,)
    assert not tensor.any(), "the mean of nothing"


async def test_who_is_cancelled_finds_its_tensors_whole(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[asyncio.Future[Any]] = []
    steps: list[int] = []

    def unpacking(self: Packed, *args: Any, **options: Any) -> Iterator[None]:
        for number in range(3):
            steps.append(number)
            calls[0].cancel()
            yield

    monkeypatch.setattr(Packed, "unpacking", unpacking)
    (peer,) = await swarm(1)
    calls.append(asyncio.ensure_future(peer.all_reduce(torch.zeros(BIG))))
    with pytest.raises(asyncio.CancelledError):
        await calls[0]
    assert steps == [0, 1, 2]


async def test_who_is_cancelled_has_its_tensors_to_itself_again(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go, ended = threading.Event(), threading.Event(), threading.Event()

    def unpacking(self: Packed, *args: Any, **options: Any) -> Iterator[None]:
        began.set()
        go.wait(20)
        yield
        ended.set()

    monkeypatch.setattr(Packed, "unpacking", unpacking)
    (peer,) = await swarm(1)
    call = asyncio.ensure_future(peer.all_reduce(torch.zeros(BIG, dtype=torch.bfloat16)))
    await asyncio.to_thread(began.wait, 20)
    call.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()


async def test_a_peer_that_is_closed_while_it_looks_for_its_swarm_reports_no_bug(closed_port: str) -> None:
    what = job_from_table(
        {
            "model": {"name": "linear", "inputs": 8},
            "data": {"name": "synthetic_linear", "samples": 8},
            "optimizer": {"name": "sgd", "lr": 0.1},
            "schedule": {"steps": 1},
        }
    )
    with structlog.testing.capture_logs() as logs:
        async with Peer(preset="local", join=[closed_port], job=what) as peer:
            events = peer.events()
            training = asyncio.ensure_future(peer.run_job())
            while (await anext(events)).kind != "job":
                pass
            await asyncio.sleep(0)  # now it waits for an epoch
        with pytest.raises(Closed):
            await training
    assert not [line for line in logs if line["log_level"] == "error"]
