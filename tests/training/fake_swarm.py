"""A swarm in one process: threads for peers, a real reducing barrier for rounds.

It keeps the contract of ``Collective`` and ``StateSource``: rounds are atomic, newcomers enter at a boundary, the
dead are left out of the round that they died in, non-finite input counts with weight 0.  ``digests``
is what the members said about their state before each round.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from lepton_p2p.collectives.aggregators import aggregate
from lepton_p2p.errors import Closed, Dropped, RoundRejected, StateLost
from lepton_p2p.identity import PeerId
from lepton_p2p.jobs import Job
from lepton_p2p.models import Built
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.assembler import Assembler
from lepton_p2p.training.checkpoints import Upkeep
from lepton_p2p.training.collective import PairExchange
from lepton_p2p.training.loop import Progress, Trainer
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.state import Schema
from lepton_p2p.training.store import SnapshotStore

DEADLINE = 30.0


@dataclass
class Input:
    """What a member brought into the round."""

    tensors: list[Tensor]
    weight: float
    note: bytes
    digest: int
    aggregation: Aggregation | None = None


@dataclass
class Outcome:
    """A decided round: a result with the reduced tensors, or a rejection."""

    result: RoundResult | None
    tensors: list[Tensor] = field(default_factory=list)


class FakeSwarm:
    """Shared by all peers of a test; every method may be called from any thread."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.round = 0
        self.results: list[RoundResult] = []
        self.stores: dict[PeerId, WatchedStore] = {}
        self.digests: dict[int, set[int]] = {}
        self.before_round: Callable[[int], None] = lambda _: None
        """Called with each round's number when all its inputs are there, before it is decided; the lock is held."""
        self.fetch_allowed = threading.Event()
        self.fetch_allowed.set()
        self.fetch_fails = False
        self.fetched = 0
        """How often somebody has got the state."""
        self.begins: dict[PeerId, list[int]] = {}
        self.holds: dict[PeerId, list[int]] = {}
        self.reject: set[int] = set()
        self.aggregations: list[Aggregation | None] = []
        """What members asked for in their rounds."""
        self._members: list[PeerId] = []
        self._since: dict[PeerId, int] = {}
        self._waiting: list[PeerId] = []
        self._inputs: dict[PeerId, Input] = {}
        self._outcomes: dict[PeerId, Outcome] = {}
        self._gone: set[PeerId] = set()
        self._dropped: set[PeerId] = set()
        self._announced: set[int] = set()
        self._deciding = False

    @property
    def members(self) -> tuple[PeerId, ...]:
        with self.changed:
            return tuple(self._members)

    def found(self, peers: Iterable[PeerId]) -> None:
        """The first epoch."""
        with self.changed:
            self._members = list(peers)
            self._since = dict.fromkeys(self._members, 1)

    def kill(self, peer: PeerId) -> None:
        """It answers no more, not even for the snapshots that it kept."""
        with self.changed:
            self._gone.add(peer)
            self.stores.pop(peer, None)
            self._leave_out(peer)

    def drop(self, peer: PeerId) -> None:
        """The others go on without it; it learns of that in its round, and asks to be admitted."""
        with self.changed:
            self._dropped.add(peer)
            self._leave_out(peer)

    def withdraw(self, peer: PeerId) -> None:
        """It takes its input back and is outside until its next round; alone it stays where it is."""
        with self.changed:
            if self._members != [peer]:
                self._leave_out(peer)

    def _leave_out(self, peer: PeerId) -> None:
        self._inputs.pop(peer, None)
        if peer in self._members:
            self._members.remove(peer)
        if peer in self._waiting:
            self._waiting.remove(peer)
        self._decide()
        self.changed.notify_all()

    def all_reduce(self, me: PeerId, given: Input, into: Sequence[Tensor]) -> RoundResult:
        with self.changed:
            self._raise_if_left_out(me)
            self._enter(me)
            self._inputs[me] = given
            self._decide()
            arrived = self.changed.wait_for(lambda: me in self._outcomes or me in self._gone | self._dropped, DEADLINE)
            assert arrived, f"round {self.round + 1} hangs: members {self._members}, there {list(self._inputs)}"
            if me not in self._outcomes:
                self._raise_if_left_out(me)
            outcome = self._outcomes.pop(me)
        if outcome.result is None:
            raise RoundRejected("by order of the test")
        for tensor, value in zip(into, outcome.tensors, strict=True):
            tensor.copy_(value)
        return outcome.result

    def _raise_if_left_out(self, me: PeerId) -> None:
        if me in self._gone:
            raise Closed("killed")
        if me in self._dropped:
            self._dropped.discard(me)
            raise Dropped("the swarm went on without this peer")

    def _enter(self, me: PeerId) -> None:
        if me not in self._members and me not in self._waiting and me not in self._gone:
            self._waiting.append(me)
            if not self._members:
                self._admit()
            self.changed.notify_all()

    def _admit(self) -> None:
        for peer in self._waiting:
            self._members.append(peer)
            self._since[peer] = self.round + 1
        self._waiting.clear()

    def _decide(self) -> None:
        """Decide the round if all members are there.  The hook may kill or drop some, which comes back here."""
        if self._deciding:
            return
        self._deciding = True
        try:
            while self._members and all(peer in self._inputs for peer in self._members):
                if self.round + 1 not in self._announced:
                    self._announced.add(self.round + 1)
                    self.before_round(self.round + 1)
                else:
                    self._close_round()
        finally:
            self._deciding = False

    def _close_round(self) -> None:
        self.round += 1
        inputs = {peer: self._inputs[peer] for peer in self._members}
        outcome = Outcome(None) if self.round in self.reject else self._reduce(self.round, inputs)
        if outcome.result is not None:
            self.results.append(outcome.result)
        self._outcomes.update(dict.fromkeys(self._members, outcome))
        for peer in inputs:
            del self._inputs[peer]
        self._admit()
        self.changed.notify_all()

    def _reduce(self, number: int, inputs: dict[PeerId, Input]) -> Outcome:
        said = {given.digest for given in inputs.values() if given.digest}
        self.digests[number] = said
        refused = tuple(p for p, g in inputs.items() if not all(bool(torch.isfinite(t).all()) for t in g.tensors))
        contributors = tuple(p for p, g in inputs.items() if p not in refused and g.weight > 0)
        total = sum(inputs[peer].weight for peer in contributors)
        sums = [torch.full_like(tensor, float("nan")) for tensor in next(iter(inputs.values())).tensors]
        if contributors:
            columns = zip(*(inputs[peer].tensors for peer in contributors), strict=True)
            weights = [inputs[peer].weight for peer in contributors]
            how = inputs[contributors[0]].aggregation
            if how is None:
                sums = [sum(w * t for w, t in zip(weights, column, strict=True)) / total for column in columns]  # type: ignore[misc]
            else:
                sums = _aggregated([torch.stack(column) for column in columns], how)
        result = RoundResult(
            epoch=1,
            round=number,
            attempts=1,
            members=tuple(inputs),
            contributors=contributors,
            refused=refused,
            newcomers=tuple(peer for peer in inputs if self._since[peer] == number),
            lost=(),
            total_weight=total,
            digest=number,
            notes=MappingProxyType({peer: given.note for peer, given in inputs.items()}),
        )
        return Outcome(result, sums)

    def fetch(self, round: int, schema: Schema, cancelled: threading.Event) -> Snapshot:
        """From all holders in turn, as soon as there is one."""
        while not self.fetch_allowed.wait(0.01):
            if cancelled.is_set():
                raise Closed("cancelled")
        with self.changed:
            self.changed.wait_for(
                lambda: self._holders(round) or self._nobody_will(round) or cancelled.is_set(), DEADLINE
            )
            holders = self._holders(round)
        if not holders or self.fetch_fails:
            raise StateLost(f"nobody has the state after round {round}")
        assert len({snapshot.manifest.digest for snapshot in holders}) == 1, "donors disagree"
        assembler = Assembler(holders[0].manifest, schema)
        for index in assembler.missing:
            donor = holders[index % len(holders)]
            assembler.add(index, donor.read(*donor.manifest.span(index)))
        with self.changed:
            self.fetched += 1
            self.changed.notify_all()
        return assembler.snapshot()

    def _holders(self, round: int) -> list[Snapshot]:
        found = [store.get(round) for store in self.stores.values()]
        return [snapshot for snapshot in found if snapshot is not None]

    def _nobody_will(self, round: int) -> bool:
        """Two rounds later every member has applied that one: who has not captured then, never will."""
        return self.round > round + 2


def _aggregated(stacks: list[Tensor], how: Aggregation) -> list[Tensor]:
    """What the owners would make of the contributions (rows), if there were but one."""
    first_vote = len(stacks) - how.votes
    rows = [stack.reshape(len(stack), -1) for stack in stacks]
    made = aggregate(rows[:first_vote], how) + aggregate(rows[first_vote:], Aggregation("median"))
    return [one.view(stack.shape[1:]) for one, stack in zip(made, stacks, strict=True)]


class WatchedStore(SnapshotStore):
    """Wakes those who wait for a snapshot."""

    def __init__(self, swarm: FakeSwarm) -> None:
        super().__init__()
        self.swarm = swarm

    def hold(self, snapshot: Snapshot, peers: Iterable[PeerId]) -> None:
        super().hold(snapshot, peers)
        with self.swarm.changed:
            self.swarm.changed.notify_all()


class FakeCollective:
    """The face of the swarm that one peer sees."""

    def __init__(self, swarm: FakeSwarm, me: PeerId) -> None:
        self.me = me
        self.swarm = swarm

    def members(self) -> tuple[PeerId, ...]:
        return self.swarm.members

    def state_begins(self, work: int) -> None:
        self.swarm.begins.setdefault(self.me, []).append(work)

    def state_holds(self, work: int) -> None:
        self.swarm.holds.setdefault(self.me, []).append(work)

    def all_reduce(
        self,
        tensors: Sequence[Tensor],
        *,
        op: str = "mean",
        weight: float = 1.0,
        note: bytes = b"",
        state_digest: int = 0,
        aggregation: Aggregation | None = None,
    ) -> RoundResult:
        assert op == "mean"
        self.swarm.aggregations.append(aggregation)
        given = Input([tensor.clone() for tensor in tensors], weight, note, state_digest, aggregation)
        return self.swarm.all_reduce(self.me, given, tensors)


class FakePeer:
    """A trainer in its own thread."""

    def __init__(
        self,
        swarm: FakeSwarm,
        me: PeerId,
        job: Job,
        built: Built,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        exchange: PairExchange | None = None,
        founder: bool = False,
        upkeep: Upkeep | None = None,
    ) -> None:
        self.me = me
        self.built = built
        self.swarm = swarm
        self._store = store = WatchedStore(swarm)
        self._collective = FakeCollective(swarm, me)
        swarm.stores[me] = store
        self.trainer = Trainer(
            job,
            built,
            collective=self._collective,
            state_source=self,
            store=store,
            on_progress=on_progress,
            exchange=exchange,
            founder=founder,
            upkeep=upkeep,
        )
        self.error: BaseException | None = None
        self.final: Progress | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"peer-{me[-2:]}")

    def start(self) -> FakePeer:
        self._thread.start()
        self._started.set()
        return self

    def go_over(self, other: FakeSwarm) -> None:
        """Its swarm becomes part of ``other``: this round of its own is none, the next one is there."""
        own, self.swarm = self.swarm, other
        del own.stores[self.me]
        other.stores[self.me] = self._store
        self._store.swarm = self._collective.swarm = other
        own.drop(self.me)

    def fetch(self, round: int, schema: Schema, cancelled: threading.Event) -> Snapshot:
        """Where it is now."""
        return self.swarm.fetch(round, schema, cancelled)

    def _run(self) -> None:
        try:
            self.final = self.trainer.run()
        except BaseException as error:
            self.error = error
        finally:
            self.swarm.kill(self.me)  # whoever ended, well or not, must not make the others wait

    def join(self) -> FakePeer:
        assert self._started.wait(DEADLINE), f"{self._thread.name} was never started"
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), f"{self._thread.name} hangs"
        return self

    def result_or_none(self) -> Progress | None:
        """Where it ended, if it ended well."""
        self.join()
        return self.final if self.error is None else None

    def result(self) -> Progress:
        """Where it ended; raises what it raised."""
        self.join()
        if self.error is not None:
            raise self.error
        assert self.final is not None
        return self.final
