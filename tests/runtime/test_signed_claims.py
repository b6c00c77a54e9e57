"""Signed membership claims in a peer with credentials: whose certificates it knows, and what that proves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarm_keys import Family, node_of

from lepton_p2p.credentials.bearer import to_der, to_pem
from lepton_p2p.credentials.certificates import Holder, make_invite, make_process, now
from lepton_p2p.credentials.revocations import Revocations, revoke
from lepton_p2p.errors import Revoked
from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import Rumour, Status, Verdict
from lepton_p2p.membership.notary import ACCUSATIONS
from lepton_p2p.runtime.acquaintances import Acquaintances
from lepton_p2p.runtime.claims import SignedClaims
from lepton_p2p.transport.guard import NEW_PROCESSES
from lepton_p2p.transport.security import Security

FAMILY = Family()
OTHER = node_of(FAMILY.issuer, "other")


class Party:
    """A process that judges, and what it knows; ``time``: of its monotonic clock."""

    def __init__(self, holder: Holder | None = None) -> None:
        self.holder = holder or make_process(FAMILY.member)
        self.time = 0.0
        self.security = Security(self.holder, Revocations(self.holder.authority))
        self.acquaintances = Acquaintances(self.security, lambda: self.time)
        self.claims = SignedClaims(self.holder, self.acquaintances)
        self.info = PeerInfo(PeerId(self.holder.id), "127.0.0.1:7700")

    def says(self, status: Status, incarnation: int = 0, of: Rumour | None = None) -> Rumour:
        """A claim of its own, of itself or (suspect, dead) of the subject of another."""
        about = of if of is not None else Rumour(self.info, status, incarnation)
        return self.claims.sign(replace(about, status=status, origin=self.info.id))

    def meets(self, *others: Party) -> None:
        chains = [to_der(other.holder.chain) for other in others]
        self.acquaintances.introduce(self.acquaintances.verify(chains), frozenset(other.holder.id for other in others))

    def judges(self, rumour: Rumour) -> tuple[Verdict, ...]:
        word = self.claims.judge_word(rumour)
        return (word, self.claims.judge_accusation(rumour)) if rumour.status in ACCUSATIONS else (word,)


ME, SUBJECT, ACCUSER = Party(), Party(), Party(make_process(OTHER))
ME.meets(SUBJECT, ACCUSER)
HOLDS = Verdict.HOLDS


def told(status: Status, incarnation: int = 0) -> Rumour:
    if status in ACCUSATIONS:
        return ACCUSER.says(status, of=SUBJECT.says(Status.ALIVE, incarnation))
    return SUBJECT.says(status, incarnation)


@given(st.sampled_from(Status), st.integers(0, 2**48))
def test_what_members_sign_holds_for_everyone_who_knows_them(status: Status, incarnation: int) -> None:
    assert set(ME.judges(told(status, incarnation))) == {HOLDS}


CHANGES: dict[str, Callable[[Rumour], Rumour]] = {
    "a higher incarnation": lambda r: replace(r, incarnation=r.incarnation + 1),
    "a lower one": lambda r: replace(r, incarnation=r.incarnation - 1),
    "another address": lambda r: replace(r, peer=replace(r.peer, address="127.0.0.1:7701")),
    "another subject": lambda r: replace(r, peer=replace(r.peer, id=ACCUSER.info.id)),
    "alive for left and the reverse": lambda r: replace(
        r, status={Status.ALIVE: Status.LEFT, Status.LEFT: Status.ALIVE}.get(r.status, Status.LEFT)
    ),
    "no word": lambda r: replace(r, word=b""),
    "a bit of the word": lambda r: replace(r, word=bytes([*r.word[:-1], r.word[-1] ^ 1])),
    "noise": lambda r: replace(r, word=bytes(72)),
}
ON_ACCUSATIONS: dict[str, Callable[[Rumour], Rumour]] = {
    "another accuser": lambda r: replace(r, origin=SUBJECT.info.id),
    "no accusation": lambda r: replace(r, accusation=b""),
    "the other kind": lambda r: replace(r, accusation=bytes([3 - r.accusation[0]]) + r.accusation[1:]),
    "no kind": lambda r: replace(r, accusation=b"\0" + r.accusation[1:]),
    "a bit of it": lambda r: replace(r, accusation=bytes([*r.accusation[:-1], r.accusation[-1] ^ 1])),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("status", Status)
def test_a_claim_of_which_anything_is_changed_is_forged(status: Status, change: str) -> None:
    assert Verdict.FORGED in ME.judges(CHANGES[change](told(status, 5)))


@pytest.mark.parametrize("change", ON_ACCUSATIONS)
@pytest.mark.parametrize("status", ACCUSATIONS)
def test_an_accusation_of_which_anything_is_changed_is_forged(status: Status, change: str) -> None:
    assert ME.judges(ON_ACCUSATIONS[change](told(status, 5))) == (HOLDS, Verdict.FORGED)


def test_who_says_dead_says_suspect_but_not_the_reverse() -> None:
    assert ME.judges(replace(told(Status.DEAD), status=Status.SUSPECT)) == (HOLDS, HOLDS)
    assert ME.judges(replace(told(Status.SUSPECT), status=Status.DEAD)) == (HOLDS, Verdict.FORGED)


def test_the_same_keys_in_another_swarm_say_nothing_here() -> None:
    """Only a signature over this swarm's own authority counts."""
    foreign = Holder(SUBJECT.holder.key, SUBJECT.holder.chain, Family().authority.authority)
    elsewhere = SignedClaims(foreign, SUBJECT.acquaintances)
    said = elsewhere.sign(replace(SUBJECT.says(Status.ALIVE), word=b""))
    assert ME.judges(said) == (Verdict.FORGED,)


class TestWhoIsKnown:
    def test_strangers_are_not(self) -> None:
        stranger = Party()
        assert ME.judges(stranger.says(Status.ALIVE)) == (Verdict.UNKNOWN,)
        assert not ME.acquaintances.knows(stranger.info.id)

    def test_this_peer_is(self) -> None:
        assert ME.judges(ME.says(Status.ALIVE)) == (HOLDS,)

    def test_one_that_called_is(self) -> None:
        me, caller = Party(), Party()
        me.security.judge(to_pem(caller.holder.chain[:1]), to_pem(caller.holder.chain[1:]))
        assert me.judges(caller.says(Status.ALIVE)) == (HOLDS,)

    def test_what_is_known_can_be_shown_to_others(self) -> None:
        [chain] = ME.acquaintances.chains([SUBJECT.info.id, "0" * 32])
        assert chain == to_der(SUBJECT.holder.chain)

    @pytest.mark.parametrize("what", ["another swarm", "an invite", "a node", "not asked for", "noise", "nothing"])
    def test_chains_that_prove_nothing_are_not_kept(self, what: str) -> None:
        me = Party()
        holder = {
            "another swarm": Family().process,
            "an invite": make_invite(FAMILY.issuer, hours=1, may_issue=False),
            "a node": OTHER,
        }.get(what, make_process(OTHER))
        chain = {"noise": (bytes(50),), "nothing": ()}.get(what, to_der(holder.chain))
        me.acquaintances.introduce(
            me.acquaintances.verify([chain]), frozenset() if what == "not asked for" else frozenset({holder.id})
        )
        assert not me.acquaintances.knows(holder.id)

    def test_an_expired_one_is_a_stranger_again_until_it_shows_a_new_certificate(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        me, other = Party(), Party(make_process(node_of(FAMILY.issuer, days=1)))
        me.meets(other)
        assert me.judges(other.says(Status.ALIVE)) == (HOLDS,)
        monkeypatch.setattr("lepton_p2p.runtime.acquaintances.now", lambda: now() + timedelta(days=2))
        assert me.judges(other.says(Status.ALIVE)) == (Verdict.UNKNOWN,)
        assert not me.acquaintances.knows(other.info.id)

    def test_of_one_node_a_bounded_number_is_introduced(self) -> None:
        me = Party()
        crowd = [Party(make_process(OTHER)) for _ in range(NEW_PROCESSES + 5)]
        me.meets(*crowd)
        assert sum(me.acquaintances.knows(one.info.id) for one in crowd) == NEW_PROCESSES
        me.time += 3
        me.meets(*crowd)
        assert sum(me.acquaintances.knows(one.info.id) for one in crowd) == NEW_PROCESSES + 3


def test_a_revoked_nodes_claims_are_worth_nothing_from_that_moment() -> None:
    me, revoked = Party(), Party(make_process(OTHER))
    me.meets(revoked, SUBJECT)
    before, accusation = revoked.says(Status.ALIVE), revoked.says(Status.SUSPECT, of=SUBJECT.says(Status.ALIVE))
    assert me.judges(before) == (HOLDS,)
    me.security.revocations.add([revoke(FAMILY.authority, None, OTHER.id, "stolen").encoded])
    assert me.judges(before) == (Verdict.UNKNOWN,), "although it was judged before"
    assert me.judges(accusation) == (HOLDS, Verdict.UNKNOWN)
    assert me.acquaintances.processes_of(OTHER.id) == {revoked.info.id}
    with pytest.raises(Revoked):
        me.security.check(me.acquaintances.verify([to_der(revoked.holder.chain)])[0])


def test_nothing_is_verified_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    me = Party()
    me.meets(SUBJECT, ACCUSER)
    verified: list[bytes] = []

    def count(key: object, written: bytes, signature: bytes) -> bool:
        verified.append(written)
        return True

    monkeypatch.setattr("lepton_p2p.runtime.claims.claim_holds", count)
    claims: Sequence[Rumour] = [told(status) for status in Status]
    for _ in range(3):
        for rumour in claims:
            me.judges(rumour)
    words = {rumour.word for rumour in claims}
    assert len(verified) == len(words) + 2, "each word, and two accusations"
    assert all(me.claims.judged(check) for check in me.claims.checks(claims))
