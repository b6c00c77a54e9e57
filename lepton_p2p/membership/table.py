"""What is believed of every other peer, and which of two facts wins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lepton_p2p.errors import AddressError
from lepton_p2p.identity import PeerId, PeerInfo, peer_id, split_address
from lepton_p2p.membership.messages import Rumour, Status

MAX_INCARNATION = 2**48
"""No owner ever counts this far; higher numbers are made up (and could not be refuted for ever)."""
MAX_ADDRESS = 300
"""Characters of an address: 253 of a host name, a port, brackets, and room."""


@dataclass(frozen=True, slots=True)
class MemberView:
    """The ``fact`` that is believed of a peer, ``since`` when it has this status (seconds on the driver's clock).

    The fact is kept as it was heard, so that telling it to others makes nothing new.
    """

    fact: Rumour
    since: float

    @property
    def peer(self) -> PeerInfo:
        return self.fact.peer

    @property
    def status(self) -> Status:
        return self.fact.status

    @property
    def incarnation(self) -> int:
        return self.fact.incarnation

    @property
    def live(self) -> bool:
        """Alive as far as anybody knows: not dead and not gone."""
        return self.fact.status < Status.DEAD


@dataclass(frozen=True, slots=True)
class Change:
    """A belief that changed: the view ``before`` (None: never heard of) and ``after``."""

    before: MemberView | None
    after: MemberView


def well_formed(peer: PeerInfo) -> bool:
    """Whether ``peer`` (from the network) has a possible id and an address that can be dialled."""
    if len(peer.address) > MAX_ADDRESS:
        return False
    try:
        peer_id(peer.id)
        return split_address(peer.address)[1] != 0
    except (ValueError, AddressError):
        return False


def supersedes(rumour: Rumour, known: MemberView) -> bool:
    """Whether ``rumour`` replaces what is ``known`` of its subject.

    Facts are ordered by (incarnation, status), LEFT above all that is not newer, so the order in which they
    arrive does not matter: all who heard the same facts believe the same (a join semilattice).
    """
    if known.status is Status.LEFT:
        return False
    if rumour.status is Status.LEFT:
        return rumour.incarnation >= known.incarnation
    return (rumour.incarnation, rumour.status) > (known.incarnation, known.status)


class Table:
    """Everyone else: at most ``capacity`` peers, the gone ones oldest first, the live ones by address."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._views: dict[PeerId, MemberView] = {}
        self._gone: dict[PeerId, None] = {}
        self._at: dict[str, tuple[PeerId, ...]] = {}
        self._live: list[PeerId] | None = None

    def without(self, peer: PeerId) -> Table:
        """What one of its peers, ``peer``, would believe: a copy, of which everything that cannot change is shared."""
        copy = Table(self._capacity)
        copy._views, copy._gone, copy._at = self._views.copy(), self._gone.copy(), self._at.copy()
        view = copy._views.pop(peer)
        if view.live:
            copy._unlist(view)
        else:
            del copy._gone[peer]
        return copy

    def __len__(self) -> int:
        return len(self._views)

    def get(self, peer: PeerId) -> MemberView | None:
        return self._views.get(peer)

    @property
    def live_count(self) -> int:
        return len(self._views) - len(self._gone)

    def live_ids(self) -> list[PeerId]:
        """Those alive or suspected, oldest acquaintance first; not to be changed."""
        if self._live is None:
            self._live = [peer for peer in self._views if peer not in self._gone]
        return self._live

    def live_at(self, address: str) -> list[MemberView]:
        """The live peers that are believed to listen at ``address``."""
        return [self._views[peer] for peer in self._at.get(address, ())]

    def dead(self) -> list[MemberView]:
        """Those believed dead (not those that left), longest first."""
        return [view for peer in self._gone if (view := self._views[peer]).status is Status.DEAD]

    def all(self) -> list[MemberView]:
        return list(self._views.values())

    def facts(self) -> list[Rumour]:
        """Everything believed, as one tells it to others."""
        return [view.fact for view in self._views.values()]

    def unlike(self, rumours: Iterable[Rumour]) -> list[Rumour]:
        """Those of ``rumours`` that are not word for word what is believed: hardly any of a full exchange."""
        views = self._views
        return [r for r in rumours if (view := views.get(r.peer.id)) is None or view.fact != r]

    def apply(self, rumour: Rumour, now: float) -> Change | None:
        """Believe ``rumour`` if it is well formed and news; None if it changed nothing.

        A peer's address changes only by its own word, which is what a higher incarnation is.
        """
        peer = rumour.peer
        known = self._views.get(peer.id)
        if known is not None and not supersedes(rumour, known):
            return None  # most of what is heard is no news: the cheapest question first
        if not self.credible(rumour):
            return None
        if known is None:
            if not self._make_room(rumour):
                return None
        elif peer.address != known.peer.address and rumour.incarnation <= known.incarnation:
            return None
        since = known.since if known is not None and known.status is rumour.status else now
        after = MemberView(rumour, since)
        self._store(known, after)
        return Change(known, after)

    def credible(self, rumour: Rumour) -> bool:
        """Whether ``rumour`` (from the network) could be true at all."""
        if not 0 <= rumour.incarnation <= MAX_INCARNATION:
            return False
        if rumour.status is Status.LEFT and rumour.origin != rumour.peer.id:
            return False  # nobody else can say goodbye for a peer
        known = self._views.get(rumour.peer.id)
        if (known is None or known.peer != rumour.peer) and not well_formed(rumour.peer):
            return False
        return rumour.origin in ("", rumour.peer.id) or _is_peer_id(rumour.origin)

    def forget(self, before: float) -> None:
        """Drop the dead and the gone that were so before the time ``before``."""
        while self._gone:
            oldest = next(iter(self._gone))
            if self._views[oldest].since >= before:
                return
            self._remove(oldest)

    def _make_room(self, rumour: Rumour) -> bool:
        if len(self._views) < self._capacity:
            return True
        if not self._gone or rumour.status >= Status.DEAD:
            return False
        self._remove(next(iter(self._gone)))
        return True

    def _store(self, before: MemberView | None, after: MemberView) -> None:
        peer, was_live = after.peer.id, before is not None and before.live
        if before is not None and was_live:
            self._unlist(before)
        self._views[peer] = after
        if after.live:
            self._at[after.peer.address] = (*self._at.get(after.peer.address, ()), peer)
            self._gone.pop(peer, None)
        else:
            # A dead one that turns out to have left keeps its place: ``_gone`` stays sorted by time well enough.
            self._gone.setdefault(peer)
        if was_live != after.live:
            self._live = None  # not with every suspicion: making it looks at everybody

    def _remove(self, peer: PeerId) -> None:
        del self._views[peer], self._gone[peer]

    def _unlist(self, view: MemberView) -> None:
        here = self._at[view.peer.address]
        place = here.index(view.peer.id)
        if len(here) == 1:
            del self._at[view.peer.address]
        else:
            self._at[view.peer.address] = here[:place] + here[place + 1 :]


def _is_peer_id(text: str) -> bool:
    try:
        peer_id(text)
    except ValueError:
        return False
    return True
