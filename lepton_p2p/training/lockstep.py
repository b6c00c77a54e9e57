"""What keeps one replica in step with all others, round by round: founding, donating, catching up, applying."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog
from torch import Tensor

from lepton_p2p.errors import Dropped, IntegrityError, RoundRejected, SchemaMismatch, StateLost
from lepton_p2p.identity import short
from lepton_p2p.replication.branch import Branch
from lepton_p2p.replication.branches import Branches, Load
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.replication.footing import Deed, Footing, Turn, founders_of
from lepton_p2p.replication.notes import Note
from lepton_p2p.replication.ranges import Range
from lepton_p2p.replication.vigil import Vigil
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.result import RoundResult
from lepton_p2p.training.catch_up import CatchUp
from lepton_p2p.training.collective import Collective, StateSource, Withdrawn
from lepton_p2p.training.replica import Replica
from lepton_p2p.training.snapshots import Snapshot
from lepton_p2p.training.store import SnapshotStore

PAUSE = 0.2
"""Seconds between two rounds in which there is nothing to do but to look whether somebody has come."""

MAX_REJECTIONS = 3
"""Rounds in a row without a result, with nothing changed in between: the next one will not have one either."""

log = structlog.get_logger()


class Lockstep:
    """Does to the replica what its ``Footing`` says.

    ``seen``: how many rounds the swarm has done, if this peer took part in all of them; only asked while it is fresh.
    ``quorum``: how many members must hold the state before the training starts.  ``aggregation``: what stands in the
    place of the mean.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        collective: Collective,
        state_source: StateSource,
        store: SnapshotStore,
        seen: Callable[[], int | None],
        quorum: int = 1,
        aggregation: Aggregation | None = None,
    ) -> None:
        self._aggregation = aggregation
        self._footing = Footing(quorum)
        self._replica = replica
        self._collective, self._source, self._store = collective, state_source, store
        self._seen = seen
        self._catching: CatchUp | None = None
        self._vigil = Vigil()
        self._branches: Branches[Snapshot] = Branches(_given_up)

    @property
    def established(self) -> bool:
        """Whether the replica holds the swarm's state."""
        return self._footing.established

    @property
    def all_ready(self) -> bool:
        """Whether all members of the last round did, so that nobody needs more rounds to catch up."""
        return self._footing.all_ready

    @property
    def founded(self) -> bool:
        """Whether what it holds goes back to what it held itself, and was not fetched from others."""
        return self._footing.founded

    @property
    def rejections(self) -> int:
        """Rounds in a row that had no result."""
        return self._footing.rejections

    def expect_newcomers(self) -> None:
        """Somebody came late: more rounds are needed until all are ready."""
        self._footing.all_ready = False

    def catch_up(self) -> None:
        """Become established if the state has arrived: restore and replay.  Call it before filling the tensors."""
        catching = self._catching
        if catching is None or not catching.done:
            return
        try:
            catching.finish(self._replica.restore, lambda kept: self._apply(kept.result, kept.tensors))
            self._footing.caught_up()
            self._collective.state_holds(self._replica.cursor.work)
            log.info("caught up", rounds=len(catching.kept))
        except (StateLost, IntegrityError) as error:
            self._footing.fetch_failed()
            log.warning("the state could not be fetched; asking for a newer one", reason=str(error))
        finally:
            catching.close()
            self._catching = None

    def round(self, claim: Sequence[Range] = (), *, loss_sum: float = 0.0, weight: float = 0.0) -> RoundResult | None:
        """One round with what the replica's tensors hold, applied; ``weight`` counts once this peer is established.

        None: nothing was applied, since the members agreed on no result (still established: the tensors are what they
        were) or the swarm went on without this peer (no longer established).  Raises ``RoundRejected`` and
        ``SchemaMismatch`` when that happens again and again, ``StateLost``, ``Closed``, ``Withdrawn``.
        """
        load = self._branches.load(self._replica.cursor) if self.established else None
        branch = None
        if self.established and self._replica.cursor.bearer is not None:
            claim, weight, branch = (), 0.0, self._bear(load)
        note = self._note(claim, loss_sum, load, branch)
        try:
            result = self._collective.all_reduce(
                self._replica.tensors,
                op="mean",
                weight=1.0 if branch else weight if self.established else 0.0,
                note=note.encode(),
                state_digest=self._replica.digest() if self.established else 0,
                aggregation=self._aggregation,
            )
        except Dropped as dropped:
            log.warning("dropped by the swarm; entering again", reason=str(dropped))
            self.enter_again()
            return None
        except Withdrawn:
            self.step_out()
            raise
        except (RoundRejected, SchemaMismatch) as rejected:
            self._footing.rejected()
            # Whose model is another one finds out at once and goes; those that hold the state let it go.
            hopeless = isinstance(rejected, SchemaMismatch) and not self.established
            if hopeless or self.rejections >= MAX_REJECTIONS:
                raise
            return None
        self._take(result)
        return result

    def _note(
        self, claim: Sequence[Range], loss_sum: float, load: Load[Snapshot] | None, branch: Branch | None
    ) -> Note:
        return self._footing.note(
            claim,
            loss_sum,
            seen=self._seen,
            seed=self._replica.seed,
            work=self._replica.cursor.work,
            waited=self._vigil.waited(time.monotonic()),
            carries=load.branch.end.chain if load else 0 if self.established else self._branches.chain,
            branch=branch,
        )

    def _bear(self, load: Load[Snapshot] | None) -> Branch | None:
        """If this peer is to: put the way to the mean of both sides into the tensors; what it tells of that."""
        if self._replica.cursor.bearer != self._collective.me or load is None:
            return None
        self._replica.displace(load.state, load.share)
        return load.branch

    def enter_again(self) -> None:
        """The swarm goes on from another state: ask for that in the next round, and keep what is held until it is there
        and shows whether all that is in this one is in it.
        """
        if self.established:
            self._branches.keep(self._replica.capture(0), self._replica.cursor)
        self.close()
        self._vigil.end()
        self._footing.enter_again()

    def step_out(self) -> None:
        """This peer took its round back, and the others go on (see ``Footing.step_out``)."""
        self.close()
        self._footing.step_out()

    def close(self) -> None:
        """End the fetch and keep nothing for others; idempotent."""
        if self._catching is not None:
            self._catching.close()
            self._catching = None
        self._store.clear()

    def _take(self, result: RoundResult) -> None:
        turn = self._footing.take(result, self._collective.me)
        if turn.begins is not None:
            self._collective.state_begins(turn.begins)
        match turn.deed:
            case Deed.APPLY:
                self._vigil.end()
                self._donate(result, turn)
                self._apply(result, self._replica.tensors)
            case Deed.KEEP:
                assert self._catching is not None, "a peer that catches up fetches the state"
                self._catching.kept.append(result, self._replica.tensors)
            case Deed.FETCH:
                self._vigil.end()
                self._start_catching_up(result)
            case Deed.LOST:
                self._wait_for_holders(turn)
            case Deed.WAIT:
                pass

    def _wait_for_holders(self, turn: Turn) -> None:
        """Nobody in the epoch holds the state; members that do may only be cut off for a while.

        If they do not come back, the training goes on from what was trained apart from them, if there is such a thing.
        """
        if not self._vigil.begun:
            log.warning("no member holds the training's state; waiting for those that may hold it")
        if self._vigil.keep(time.monotonic(), turn.waited):
            kept = self._branches.newest()
            if kept is not None:
                log.warning("those that hold the training's state did not come back; going on from what is held here")
                self._replica.resume(kept)
                self._footing.rescue()
            elif not turn.carried:
                raise StateLost(
                    "all members that held the training state are gone and none of the others had all of it: "
                    "start the swarm again, with the job or from a checkpoint"
                )
        time.sleep(PAUSE)

    def _donate(self, result: RoundResult, turn: Turn) -> None:
        """Keep the state from before this round for those that want it, until they have it or are gone."""
        self._store.settle(members=result.members, done=turn.settled)
        if turn.wanting:
            self._store.hold(self._replica.capture(result.round - 1), turn.wanting)

    def _apply(self, result: RoundResult, tensors: Sequence[Tensor]) -> None:
        before = self._replica.cursor
        after = before.advance(
            members=result.members,
            contributors=result.contributors,
            refused=result.refused,
            notes=result.notes,
            founders=founders_of(result),
        )
        self._replica.apply(tensors, after)
        self._after_bearing(before, after, result)
        if after.pass_number > before.pass_number and before.samples - before.used == after.samples:
            raise RoundRejected(
                f"not one sample of pass {before.pass_number + 1} gave finite numbers: the training has diverged; "
                "lower the learning rate"
            )

    def _after_bearing(self, before: Cursor, after: Cursor, result: RoundResult) -> None:
        bearer = before.bearer
        note = Note.read(result.notes[bearer]) if bearer is not None and bearer in result.notes else None
        if after.unions > before.unions:
            self._collective.state_holds(after.work)
            log.warning(
                "two sides of a split swarm are one again",
                brought_in=after.samples - before.samples,
                used_twice=after.doubled - before.doubled,
            )
        elif bearer in result.refused and note is not None:
            self._branches.refuse(note.carries)

    def _start_catching_up(self, result: RoundResult) -> None:
        base = result.round - 1
        log.info("fetching the state", round=base, members=[short(peer) for peer in result.members])
        self._catching = CatchUp(self._source, self._replica.schema, base, self._replica.tensors)
        self._catching.kept.append(result, self._replica.tensors)


def _given_up(why: str, samples: int) -> None:
    log.warning("what this peer has trained apart from the swarm is given up", why=why, samples=samples)
