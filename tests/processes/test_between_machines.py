"""Peers on addresses that are not loopback: three machines, as far as a network can tell, one of which has no token."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from network_namespaces import Network, Place, impossible
from process_swarm import Nursery, ProcessSwarm, Worker

from lepton_p2p.credentials.certificates import make_invite
from lepton_p2p.credentials.folder import KeysFolder
from lepton_p2p.credentials.tokens import write_token
from lepton_p2p.transport.links.handshake import PREAMBLE, SEALED_PREAMBLE

pytestmark = pytest.mark.skipif(bool(why := impossible()), reason=f"no network namespaces: {why}")

SIZES = [100_000, 3]
ALL_PROTOCOLS = 0x0003
SO_RCVBUFFORCE = 33


@pytest.fixture(scope="module")
async def three() -> AsyncIterator[list[Place]]:
    with contextlib.closing(Network("10.83.7", here=False)) as network:
        await network.build(3)
        yield network.places


def at(machine: Place) -> dict[str, object]:
    """Where a peer on ``machine`` runs and listens."""
    return {"namespace": machine.path, "listen": f"{machine.host}:0"}


async def refused(nursery: Nursery, error: str, words: str, **options: object) -> None:
    """A peer started with ``options`` says no to its user."""
    worker = await nursery.fork()
    reply = await worker.call("start", **options)
    assert reply.get("error") == error, reply
    assert words in reply["message"]


def tap(machine: Place) -> socket.socket:
    """A socket that receives everything that passes its eth0 from now on, both ways."""

    def listen() -> socket.socket:
        tapping = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
        tapping.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        tapping.bind(("eth0", 0))
        tapping.setblocking(False)
        return tapping

    return machine.inside(listen)


def drained(tapping: socket.socket) -> bytes:
    """Everything that has passed."""
    heard = bytearray()
    with contextlib.suppress(BlockingIOError):
        while True:
            heard += tapping.recv(1 << 17)
    return bytes(heard)


def looks_like_numbers(heard: bytes) -> bool:
    """Whole numbers below a thousand have twelve zero bits at the end in float32: zeros by the thousand if open."""
    assert len(heard) > 2 * SIZES[0] * 4, "the tensors went this way"
    return heard.count(b"\0\0") > len(heard) / 1000


async def test_without_credentials_an_address_that_others_reach_is_refused(
    nursery: Nursery, three: list[Place]
) -> None:
    await refused(nursery, "InsecureRefused", "keys init", **at(three[0]))
    await refused(nursery, "InsecureRefused", "keys init", namespace=three[0].path, listen="0.0.0.0:0")


async def test_insecure_says_that_they_may_and_then_everything_is_to_be_read(
    nursery: Nursery, three: list[Place]
) -> None:
    with tap(three[0]) as tapping:
        async with ProcessSwarm(nursery, SIZES, insecure=True) as swarm:
            for machine in three[:2]:
                await swarm.grow(len(swarm.workers) + 1, **at(machine))
            await swarm.round()
        heard = drained(tapping)
    assert looks_like_numbers(heard)
    assert PREAMBLE in heard


@contextlib.asynccontextmanager
async def secured(nursery: Nursery, three: list[Place], folder: Path) -> AsyncIterator[ProcessSwarm]:
    """The first machine made the swarm, the second has joined with a token."""
    keys = KeysFolder(folder)
    keys.init("lepton", "first")
    token = write_token(make_invite(keys.issuer(), hours=1, may_issue=False))
    async with ProcessSwarm(nursery, SIZES) as swarm:
        await swarm.grow(1, keys=str(keys.path), **at(three[0]))
        await swarm.grow(2, token=token, **at(three[1]))
        yield swarm


async def test_with_credentials_two_machines_train_and_nothing_is_to_be_read(
    nursery: Nursery, three: list[Place], tmp_path: Path
) -> None:
    with tap(three[1]) as tapping:
        async with secured(nursery, three, tmp_path / "keys") as swarm:
            for _ in range(3):
                await swarm.round()
        heard = drained(tapping)
    assert not looks_like_numbers(heard)
    assert SEALED_PREAMBLE in heard
    assert PREAMBLE not in heard


async def test_the_third_machine_has_no_token_and_gets_nothing(
    nursery: Nursery, three: list[Place], tmp_path: Path
) -> None:
    async with secured(nursery, three, tmp_path / "keys") as swarm:
        first = swarm.workers[0]
        here, there = at(three[2]), [first.address]
        await refused(nursery, "CredentialsRefused", "join with a token", join=there, insecure=True, **here)
        foreign = KeysFolder(tmp_path / "foreign")
        foreign.init("lepton", "stranger")
        await refused(nursery, "CredentialsRefused", "another swarm", join=there, keys=str(foreign.path), **here)
        for port in (first.link_port, int(first.address.rpartition(":")[2])):
            for greeting in (PREAMBLE + bytes(32), SEALED_PREAMBLE + bytes(48), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
                answer = await asyncio.to_thread(knock, three[2], first, port, greeting)
                assert not any(secret.encode() in answer for secret in (first.peer, "lepton.v1"))
        await swarm.round()
        for worker in swarm.workers:
            assert (await swarm.call(worker, "members"))["members"] == sorted(w.peer for w in swarm.workers)


def knock(machine: Place, worker: Worker, port: int, greeting: bytes) -> bytes:
    """What a plain connection from ``machine`` gets in answer to ``greeting`` before it is closed."""

    def dial() -> bytes:
        answer = b""
        with socket.create_connection((worker.address.rpartition(":")[0], port), timeout=20) as connection:
            connection.sendall(greeting)
            with contextlib.suppress(ConnectionError):
                while data := connection.recv(4096):
                    answer += data
        return answer

    return machine.inside(dial)
