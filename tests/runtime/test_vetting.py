"""Packets on their way to the failure detector: what passes at once, what waits, what is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from structlog.testing import capture_logs
from swarm_keys import Family, node_of

from lepton_p2p.credentials.bearer import to_der
from lepton_p2p.credentials.certificates import Holder
from lepton_p2p.errors import SwarmUnreachable
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Ack, Gossip, Packet, Refused, Rumour, Status, Sync, Verdict
from lepton_p2p.runtime.node_credentials import NodeCredentials
from lepton_p2p.runtime.vetting import LIGHT, Vetting
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.wire_credentials import MAX_CHAINS

FAMILY = Family()
NODES = [node_of(FAMILY.issuer, f"node-{number}") for number in range(12)]


class Member:
    """Another process, which signs."""

    def __init__(self, number: int) -> None:
        self.credentials = NodeCredentials(NODES[number % len(NODES)], None)
        self.info = PeerInfo(self.credentials.id, f"192.0.2.{number % 200}:7700")

    @property
    def holder(self) -> Holder:
        return self.credentials.security.holder

    def alive(self, incarnation: int = 0) -> Rumour:
        return self.credentials.claims.sign(Rumour(self.info, Status.ALIVE, incarnation, self.info.id))

    def accuses(self, other: Rumour) -> Rumour:
        return self.credentials.claims.sign(replace(other, status=Status.SUSPECT, origin=self.info.id))


TELLER, A, B = Member(0), Member(1), Member(2)


class Desk:
    """A vetting; ``fed`` is what came out of it.  Whoever is asked shows what is in ``shown`` when ``open``."""

    def __init__(self, *shown: Member) -> None:
        self.credentials = NodeCredentials(FAMILY.member, None)
        self.tasks = OwnedTasks()
        self.fed: list[Packet] = []
        self.asked: list[tuple[str, list[str]]] = []
        self.shown = {member.info.id: member for member in shown}
        self.open = asyncio.Event()
        self.open.set()
        self.unreachable = False
        self.believed: set[Rumour] = set()
        self.vetting = Vetting(
            self.credentials, show=self._show, news=self._news, feed=self.fed.append, tasks=self.tasks
        )

    def _news(self, rumours: Sequence[Rumour]) -> Sequence[Rumour]:
        return [rumour for rumour in rumours if rumour not in self.believed]

    async def _show(self, address: str, ids: Sequence[str]) -> Sequence[tuple[bytes, ...]]:
        self.asked.append((address, list(ids)))
        await self.open.wait()
        if self.unreachable:
            raise SwarmUnreachable("nobody answers")
        return [to_der(self.shown[PeerId(one)].holder.chain) for one in ids if one in self.shown]

    def tells(self, *rumours: Rumour, body: Gossip | Ack | Sync | None = None) -> None:
        self.vetting.deliver(Packet(TELLER.info, body or Gossip(), rumours))

    async def settle(self) -> None:
        while tasks := list(self.tasks._tasks):
            await asyncio.wait(tasks)

    def judge(self, rumour: Rumour) -> Verdict:
        return self.credentials.claims.judge_word(rumour)


async def test_an_ack_does_not_wait_for_the_certificates_that_its_gossip_needs() -> None:
    desk = Desk(A)
    desk.open.clear()
    desk.tells(A.alive(), body=Ack(7))
    assert [(packet.body, packet.rumours) for packet in desk.fed] == [(Ack(7), ())]
    desk.open.set()
    await desk.settle()
    assert [packet.body for packet in desk.fed] == [Ack(7), Gossip()]
    [rumour] = desk.fed[1].rumours
    assert desk.judge(rumour) is Verdict.HOLDS


async def test_whose_certificate_is_known_is_heard_at_once() -> None:
    desk = Desk(A)
    desk.tells(A.alive())
    await desk.settle()
    desk.fed.clear()
    desk.tells(A.alive(1), body=Ack(8))
    assert [len(packet.rumours) for packet in desk.fed] == [1]
    assert len(desk.asked) == 1, "nobody is asked twice"


async def test_of_an_accusation_both_signers_are_asked_for() -> None:
    desk = Desk(A, B)
    desk.tells(B.accuses(A.alive()))
    await desk.settle()
    assert desk.asked == [(TELLER.info.address, [A.info.id, B.info.id])]
    assert desk.credentials.claims.judge_accusation(desk.fed[-1].rumours[0]) is Verdict.HOLDS


async def test_nobody_is_asked_about_the_unknown_dead() -> None:
    desk = Desk(A, B)
    dead = B.credentials.claims.sign(replace(A.alive(), status=Status.DEAD, origin=B.info.id))
    desk.tells(dead)
    await desk.settle()
    assert not desk.asked


async def test_a_full_exchange_is_verified_before_it_is_heard() -> None:
    members = [Member(number) for number in range(30)]
    desk = Desk(*members)
    sync = Sync(tuple(member.alive() for member in members), reply=True, sequence=4)
    desk.tells(body=sync)
    await desk.settle()
    [packet] = desk.fed
    assert packet.body == sync
    claims = desk.credentials.claims
    assert all(claims.judged(check) for check in claims.checks(sync.members)), "nothing is left to verify on the loop"


async def test_of_a_full_exchange_only_the_news_is_looked_at() -> None:
    desk = Desk(A, B)
    known = A.alive()
    desk.believed = {known}
    desk.tells(body=Sync((known, B.alive()), reply=False))
    await desk.settle()
    assert desk.asked == [(TELLER.info.address, [B.info.id])]


async def test_certificates_are_asked_for_in_bounded_numbers() -> None:
    desk = Desk()
    strangers = [replace(A.alive(), peer=PeerInfo(PeerId(f"{n:032x}"), "192.0.2.1:1")) for n in range(MAX_CHAINS + 3)]
    desk.tells(body=Sync(tuple(strangers), reply=False))
    await desk.settle()
    assert [len(ids) for _, ids in desk.asked] == [MAX_CHAINS, 3]


async def test_a_teller_that_shows_nothing_is_heard_without_it() -> None:
    desk = Desk()
    desk.unreachable = True
    desk.tells(A.alive(), body=Ack(1))
    desk.tells(body=Sync((TELLER.alive(), A.alive()), reply=True))
    await desk.settle()
    assert len(desk.fed) == 3
    assert desk.judge(A.alive()) is Verdict.UNKNOWN


async def test_one_sender_does_not_crowd_out_the_others() -> None:
    desk = Desk(A, B)
    desk.open.clear()
    for _ in range(50):
        desk.tells(body=Sync((A.alive(),), reply=False))
    other = Packet(B.info, Sync((A.alive(),), reply=False))
    desk.vetting.deliver(other)
    desk.open.set()
    await desk.settle()
    assert other in desk.fed
    assert len(desk.fed) <= 10
    desk.tells(body=Sync((A.alive(),), reply=False))
    await desk.settle()
    assert len(desk.fed) <= 11, "and when it is done, there is room again"


async def test_of_a_heap_with_a_forgery_in_it_only_the_forgery_is_handed_on() -> None:
    members = [Member(number) for number in range(5)]
    desk = Desk(*members)
    forged = replace(members[0].alive(), incarnation=9)
    heap = (forged, *(member.alive() for member in members), *(members[1].alive(n) for n in range(LIGHT)))
    desk.tells(*heap)
    desk.tells(body=Sync(heap, reply=True))
    await desk.settle()
    assert [(packet.body, packet.rumours) for packet in desk.fed] == [(Gossip(), (forged,))] * 2


async def test_a_heap_with_a_forgery_is_not_believed_more_when_it_comes_again() -> None:
    members = [Member(number) for number in range(5)]
    desk = Desk(*members)
    forged = replace(members[0].alive(), incarnation=9)
    heap = Sync((*(member.alive() for member in members), forged), reply=True)
    for _ in range(3):
        desk.tells(body=heap)
        await desk.settle()
    assert [(packet.body, packet.rumours) for packet in desk.fed] == [(Gossip(), (forged,))] * 3


async def test_a_liar_is_named_once_in_words_that_say_what_to_do() -> None:
    desk = Desk()
    with capture_logs() as logs:
        for _ in range(5):
            desk.vetting.refused(Refused(TELLER.info, "0123abcd is left", True))
            desk.vetting.refused(Refused(B.info, "0123abcd is alive", False))
    [warning] = [row for row in logs if row["log_level"] == "warning"]
    assert warning["sender"] == TELLER.info.id[:8]
    assert "keys revoke" in warning["event"]
