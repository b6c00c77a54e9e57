"""What peers say to each other to agree on epochs: plain values, one-way.

The dialogue is one prepare/promise exchange with *all* candidates and one install (see ``agreement.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.rounds.electorate import Electorate
from lepton_p2p.rounds.epoch import Ballot, Epoch

MAX_PASSED = 64
"""Epochs that a report names."""


class Passed(NamedTuple):
    """An epoch that a lineage has come through, and the last round before it."""

    tag: int
    base: int


@dataclass(frozen=True, slots=True, order=True)
class Standing:
    """How far a lineage has come; lineages that meet are compared by this.

    ``size`` members in its epoch, ``work`` contributions applied since the training started (sum over rounds of
    the number of contributors), then the epoch's number and tag to break ties.  ``origin``: the work that was in the
    checkpoint from which the lineage was founded (0: none, it began anew).  ``paused``: it waits for the majority.
    """

    size: int
    work: int
    number: int
    tag: int
    origin: int = 0
    paused: bool = False

    def hollow_beside(self, other: Standing) -> bool:
        """Whether there is nothing in this lineage that would be worth bringing into the other.

        Nothing was done in it, or nobody holds any more what was done; or it has not even come to where the other
        began: its peers had an old disk, or none.
        """
        return bool(other.work) and (not self.work or self.work < other.origin)

    def yields_to(self, other: Standing) -> bool:
        """Whether this lineage is the one to give up: a hollow one before all others, a paused one, the smaller.

        (Comparing ``work`` with ``work`` would not do: of two lineages that run, both or neither might yield.  If both
        are paused it does not change, and tells who went on longer.)
        """
        if self.hollow_beside(other) != other.hollow_beside(self):
            return self.hollow_beside(other)
        if self.paused and other.paused:
            return self.lighter_than(other)
        return (not self.paused, self) < (not other.paused, other)

    def lighter_than(self, other: Standing) -> bool:
        """Whether the other one prevails when both stand still and become one: the one with more work does."""
        if self.hollow_beside(other) != other.hollow_beside(self):
            return self.hollow_beside(other)
        return (self.work, self.size, self.number, self.tag) < (other.work, other.size, other.number, other.tag)


@dataclass(frozen=True, slots=True)
class Report:
    """A member's frozen status, given with its promise: true until the promise is superseded.

    ``epoch`` is None for a newcomer.  ``completed`` is the last round that is decided for it, ``digest`` the
    digest of that round's result if it holds the result (0: it does not), ``rejected`` why the round has none.
    ``pending`` is the round it has started and kept the input of (0: none), ``schema`` the hash of names,
    shapes, dtypes and operation of that input, ``attempts`` how often it has run it, ``broken`` why the last
    attempt broke.  ``origin`` as in :class:`Standing`.  ``passed``: epochs that the reporter's lineage has come
    through, as far as it was there, the newest last.  ``electorates``: who has to agree that the swarm goes on (see
    ``electorate.py``; with policy majority only); ``number``: of the last epoch that a newcomer was in before.
    """

    peer: PeerId
    epoch: Epoch | None
    completed: int = 0
    digest: int = 0
    rejected: str = ""
    work: int = 0
    pending: int = 0
    schema: int = 0
    state: int = 0
    attempts: int = 0
    broken: str = ""
    origin: int = 0
    passed: tuple[Passed, ...] = ()
    electorates: tuple[Electorate, ...] = ()
    number: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What an epoch starts from, computed by ``decide`` from the reports of all its members.

    ``base``: the last decided round.  ``holders`` have its result with ``digest``; the others fetch it from
    them.  ``rejected``: why round ``base`` has no result, if it has none.  ``lost``: who was left behind and
    why.  ``work``, ``origin`` as in :class:`Standing`.  ``brought``: members of lighter lineages, which become one with
    this: what they hold counts for nothing here until they bring it into a round.  ``electorates`` as in
    :class:`Report`.
    """

    base: int
    digest: int
    holders: tuple[PeerId, ...]
    work: int
    rejected: str = ""
    lost: tuple[tuple[PeerId, str], ...] = ()
    origin: int = 0
    brought: tuple[PeerId, ...] = ()
    electorates: tuple[Electorate, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepare:
    """Stop, promise ``ballot`` to ``sender`` and report: an epoch of ``candidates`` is being formed.

    ``unites``: the candidates are of two lineages, one of which asked for it.
    """

    sender: PeerInfo
    ballot: Ballot
    candidates: tuple[PeerInfo, ...]
    reason: str
    unites: bool = False


@dataclass(frozen=True, slots=True)
class Promise:
    """I have stopped; this is how far I came; I listen to no lower ballot."""

    sender: PeerInfo
    ballot: Ballot
    report: Report


@dataclass(frozen=True, slots=True)
class Refusal:
    """No promise for ``ballot``.

    Either ``promised`` is higher, or ``stranger`` is set: the asked peer is in an epoch (``epoch``) that does
    not include the proposer, and the two lineages must compare their standings.
    """

    sender: PeerInfo
    ballot: Ballot
    promised: Ballot
    stranger: bool
    standing: Standing | None


@dataclass(frozen=True, slots=True)
class Install:
    """All candidates promised ``ballot``: this is the epoch and what it starts from."""

    sender: PeerInfo
    epoch: Epoch
    decision: Decision


@dataclass(frozen=True, slots=True)
class Admit:
    """Please take me in at your next round boundary (from a peer without an epoch, or one that yields).

    ``held``: the work in the sender's checkpoint (0: it has none).
    """

    sender: PeerInfo
    job: str
    held: int = 0


@dataclass(frozen=True, slots=True)
class AdmitReply:
    """``queued``: I will propose you.  Else ``reason`` says why you are refused ("": I have no epoch myself).

    ``seeking``: I have no epoch and look for one too; if nobody has one, who holds the most founds it.  ``held``: the
    work in my checkpoint while I seek.  ``behind``: I am in an epoch that has not come as far as your checkpoint;
    ``held`` is its work.
    """

    sender: PeerInfo
    queued: bool
    reason: str
    seeking: bool
    held: int = 0
    behind: bool = False


@dataclass(frozen=True, slots=True)
class Announce:
    """My lineage stands here: sent to live peers that are not in my epoch, so that split swarms meet.

    ``promised``: the highest ballot that I have promised, if I say so.
    """

    sender: PeerInfo
    standing: Standing
    job: str
    promised: Ballot | None = None


@dataclass(frozen=True, slots=True)
class Unite:
    """We met: propose an epoch of all your members and ours.  ``counter``: of the highest ballot that I know."""

    sender: PeerInfo
    members: tuple[PeerInfo, ...]
    job: str
    counter: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """I am going: form the next epoch without me, do not wait to find out.

    ``epoch``: number of the epoch that the sender leaves (0: all, for good).  It may be in a later one again before
    this arrives.
    """

    sender: PeerInfo
    reason: str
    epoch: int = 0


RoundMessage = Prepare | Promise | Refusal | Install | Admit | AdmitReply | Announce | Unite | Leaving
