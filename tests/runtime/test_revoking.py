"""Revocations in a running peer: when it merges with others, what it believes, what it does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from swarm_keys import Family, node_of

from lepton_p2p.credentials.bearer import to_der, to_pem
from lepton_p2p.credentials.certificates import Holder, make_process
from lepton_p2p.credentials.revocations import Revocations, Statement, revoke
from lepton_p2p.errors import Revoked, SwarmUnreachable
from lepton_p2p.identity import PeerId
from lepton_p2p.runtime.node_credentials import NodeCredentials
from lepton_p2p.runtime.revoking import Revoker
from lepton_p2p.tasks import OwnedTasks
from lepton_p2p.transport.faults import Busy

FAMILY = Family()
AUTHORITY = FAMILY.authority.authority
OTHER = node_of(FAMILY.issuer, "other")
HERE = "192.0.2.1:7700"


def against(node: Holder) -> Statement:
    return revoke(FAMILY.authority, None, node.id, "stolen")


class Bench:
    """The revoker of a peer of FAMILY.member, and a peer at the other end with a set of its own."""

    def __init__(self, folder: Path | None = None, *theirs: Statement) -> None:
        self.credentials = NodeCredentials(FAMILY.member, folder)
        self.theirs = Revocations(AUTHORITY, [statement.encoded for statement in theirs])
        self.tasks = OwnedTasks()
        self.calls: list[str] = []
        self.expelled: list[PeerId | None] = []
        self.failed: list[BaseException] = []
        self.unreachable = False
        self.revoker = Revoker(
            self.credentials,
            exchange=self._exchange,
            expel=lambda peer, reason: self.expelled.append(peer),
            fail=self.failed.append,
            tasks=self.tasks,
        )

    async def _exchange(self, address: str, statements: Sequence[bytes]) -> Sequence[bytes]:
        self.calls.append(address)
        if self.unreachable:
            raise SwarmUnreachable("nobody answers")
        self.theirs.add(statements)
        return self.theirs.encoded()

    @property
    def mine(self) -> Revocations:
        return self.credentials.security.revocations

    def hears_of(self, process: Holder) -> None:
        """``process`` has called here."""
        self.credentials.security.judge(to_pem(process.chain[:1]), to_pem(process.chain[1:]))

    async def settle(self) -> None:
        while tasks := list(self.tasks._tasks):
            await asyncio.wait(tasks)


async def test_another_digest_leads_to_one_merge_and_then_both_know_the_same() -> None:
    bench = Bench(None, against(OTHER))
    for _ in range(3):
        bench.revoker.differs(HERE, bench.theirs.digest)
    await bench.settle()
    assert bench.calls == [HERE]
    assert bench.mine.digest == bench.theirs.digest
    bench.revoker.differs(HERE, bench.theirs.digest)
    await bench.settle()
    assert bench.calls == [HERE]


async def test_what_only_this_side_knows_is_told() -> None:
    bench = Bench()
    bench.mine.add([against(OTHER).encoded])
    bench.revoker.differs(HERE, bench.theirs.digest)
    await bench.settle()
    assert [statement.node for statement in bench.theirs] == [OTHER.id]


async def test_a_peer_that_cannot_be_reached_is_asked_again_and_one_that_keeps_differing_is_not() -> None:
    bench = Bench(None, against(OTHER))
    bench.unreachable = True
    bench.revoker.differs(HERE, bench.theirs.digest)
    await bench.settle()
    bench.unreachable = False
    bench.revoker.differs(HERE, bench.theirs.digest)
    await bench.settle()
    assert len(bench.calls) == 2
    for _ in range(3):
        bench.revoker.differs(HERE, "00" * 8)
        await bench.settle()
    assert len(bench.calls) == 3


async def test_processes_of_a_revoked_node_are_cut_off_and_those_of_nodes_that_it_certified() -> None:
    bench = Bench()
    processes = [make_process(OTHER), make_process(OTHER), make_process(node_of(FAMILY.authority))]
    for process in processes:
        bench.hears_of(process)
    await bench.revoker.take([against(OTHER).encoded])
    assert set(bench.expelled) == {processes[0].id, processes[1].id, None}
    assert not bench.failed, "this peer goes on"
    with pytest.raises(Revoked):
        bench.hears_of(processes[0])


async def test_processes_that_were_only_heard_of_are_cut_off_as_well() -> None:
    bench, heard_of = Bench(), make_process(OTHER)
    known = bench.credentials.acquaintances
    known.introduce(known.verify([to_der(heard_of.chain)]), frozenset({heard_of.id}))
    await bench.revoker.take([against(OTHER).encoded])
    assert heard_of.id in bench.expelled
    assert known.key_of(heard_of.id) is None, "and what it signed counts no more"


async def test_whose_machine_a_peer_is_is_known_when_it_has_called() -> None:
    bench, process = Bench(), make_process(OTHER)
    assert bench.credentials.machine_of(PeerId(process.id)) == ("", "")
    bench.hears_of(process)
    assert bench.credentials.machine_of(PeerId(process.id)) == (OTHER.id, "other")
    assert bench.credentials.machine_of(bench.credentials.id) == (FAMILY.member.id, "member")


async def test_a_process_that_shows_up_later_is_cut_off_when_it_calls() -> None:
    bench = Bench()
    await bench.revoker.take([against(OTHER).encoded])
    bench.expelled.clear()
    late = make_process(OTHER)
    with pytest.raises(Revoked):
        bench.hears_of(late)
    assert bench.expelled == [late.id]


@pytest.mark.parametrize("node", [FAMILY.member, FAMILY.issuer], ids=["this node", "the one that certified it"])
async def test_this_peer_ends_when_its_own_node_is_revoked(node: Holder) -> None:
    bench = Bench()
    bench.revoker.shown(against(node).encoded)
    await bench.settle()
    (error,) = bench.failed
    assert isinstance(error, Revoked)
    assert "stolen" in str(error)


async def test_a_refusal_without_a_valid_statement_ends_nobody() -> None:
    bench = Bench()
    foreign = revoke(Family().authority, None, FAMILY.member.id, "envy").encoded
    own_word = b'{"body":"","signature":"","signer":[],"certificate":[]}'
    for statement in (b"", foreign, own_word, bytes(10_000)):
        bench.revoker.shown(statement)
    await bench.settle()
    assert not bench.failed
    assert not bench.mine
    assert not bench.credentials.revoked_by(foreign)
    assert bench.credentials.revoked_by(against(FAMILY.member).encoded)


async def test_it_is_remembered_over_a_restart(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.revoker.take([against(OTHER).encoded])
    assert [statement.node for statement in Bench(tmp_path).mine] == [OTHER.id]
    (tmp_path / "revoked.jsonl").write_bytes(b"nonsense\n" + against(FAMILY.member).encoded + b"\n")
    with pytest.raises(Revoked):
        Bench(tmp_path)


async def test_a_flood_of_exchanges_is_refused_for_a_while() -> None:
    bench = Bench()
    refused = 0
    for _ in range(100):
        try:
            await bench.revoker.answer([])
        except Busy:
            refused += 1
    assert 20 <= refused <= 60
