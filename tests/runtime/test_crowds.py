"""A packet may name thousands of peers, real or made up: a peer takes it in without standing still."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership.messages import Gossip, Packet, Rumour, Status
from lepton_p2p.peer import Peer
from lepton_p2p.runtime.address_book import AddressBook

CROWD = 2000


async def test_the_address_book_is_saved_once_for_a_crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    save = AddressBook.save

    def counted(book: AddressBook, peers: Iterable[PeerInfo]) -> None:
        peers = list(peers)
        save(book, peers)
        saved.append(len(peers))
        loop.call_soon_threadsafe(done.set)

    monkeypatch.setattr(AddressBook, "save", counted)
    crowd = [PeerInfo(PeerId(f"{number:032x}"), f"127.0.0.1:{1 + number}") for number in range(CROWD)]
    rumours = tuple(Rumour(peer, Status.ALIVE, 0, "") for peer in crowd)
    async with Peer(preset="local", state_dir=tmp_path) as peer:
        node, _ = peer.parts
        node.deliver_packet(Packet(crowd[0], Gossip(), rumours))
        assert len(peer.members()) == CROWD + 1
        assert not saved, "a disk is slow: not while the packet is read"
        await done.wait()
        assert saved[0] == CROWD
    assert len(AddressBook(tmp_path).load()) == CROWD
