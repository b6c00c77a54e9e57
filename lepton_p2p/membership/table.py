"""What is believed of every other peer, and which of two facts wins."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lepton_p2p.errors import AddressError
from lepton_p2p.identity import PeerId, PeerInfo, peer_id, split_address
from lepton_p2p.membership.messages import Rumour, Status

MAX_INCARNATION = 2**48
"""No owner ever counts this far; higher numbers are made up (and could not be refuted for ever)."""
MAX_ADDRESS = 300
"""Characters of an address: 253 of a host name, a port, brackets, and room."""


@dataclass(frozen=True, slots=True)
class MemberView:
    """What is believed of ``peer``: ``status`` at ``incarnation``, ``since`` (seconds on the driver's clock)."""

    peer: PeerInfo
    status: Status
    incarnation: int
    since: float

    @property
    def live(self) -> bool:
        """Alive as far as anybody knows: not dead and not gone."""
        return self.status < Status.DEAD


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
        self._origins: dict[PeerId, str] = {}
        self._gone: dict[PeerId, None] = {}
        self._at: dict[str, dict[PeerId, None]] = {}
        self._live: list[MemberView] | None = None

    def __len__(self) -> int:
        return len(self._views)

    def get(self, peer: PeerId) -> MemberView | None:
        return self._views.get(peer)

    @property
    def live_count(self) -> int:
        return len(self._views) - len(self._gone)

    def live(self) -> list[MemberView]:
        """Those alive or suspected, oldest acquaintance first; not to be changed."""
        if self._live is None:
            self._live = [view for view in self._views.values() if view.live]
        return self._live

    def live_at(self, address: str) -> list[MemberView]:
        """The live peers that are believed to listen at ``address``."""
        return [self._views[peer] for peer in self._at.get(address, ())]

    def dead(self) -> list[MemberView]:
        """Those believed dead (not those that left), longest first."""
        return [view for peer in self._gone if (view := self._views[peer]).status is Status.DEAD]

    def all(self) -> list[MemberView]:
        return list(self._views.values())

    def fact(self, view: MemberView) -> Rumour:
        """``view`` as one tells it to others."""
        return Rumour(view.peer, view.status, view.incarnation, self._origins[view.peer.id])

    def facts(self) -> list[Rumour]:
        """Everything believed, as one tells it to others."""
        return [self.fact(view) for view in self._views.values()]

    def apply(self, rumour: Rumour, now: float) -> Change | None:
        """Believe ``rumour`` if it is well formed and news; None if it changed nothing.

        A peer's address changes only by its own word, which is what a higher incarnation is.
        """
        peer = rumour.peer
        known = self._views.get(peer.id)
        if not self.credible(rumour):
            return None
        if known is None:
            if not self._make_room(rumour):
                return None
        else:
            moved = peer.address != known.peer.address
            if not supersedes(rumour, known) or (moved and rumour.incarnation <= known.incarnation):
                return None
        after = MemberView(peer, rumour.status, rumour.incarnation, now)
        if known is not None and known.status is after.status:
            after = replace(after, since=known.since)
        self._store(known, after, rumour.origin)
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

    def _store(self, before: MemberView | None, after: MemberView, origin: str) -> None:
        peer = after.peer.id
        if before is not None and before.live:
            self._unlist(before)
        self._views[peer] = after
        self._origins[peer] = origin
        self._live = None
        # A dead one that turns out to have left keeps its place: ``_gone`` stays sorted by time well enough.
        if after.live:
            self._gone.pop(peer, None)
            self._at.setdefault(after.peer.address, {})[peer] = None
        else:
            self._gone.setdefault(peer)

    def _remove(self, peer: PeerId) -> None:
        del self._views[peer], self._origins[peer], self._gone[peer]

    def _unlist(self, view: MemberView) -> None:
        here = self._at[view.peer.address]
        del here[view.peer.id]
        if not here:
            del self._at[view.peer.address]


def _is_peer_id(text: str) -> bool:
    try:
        peer_id(text)
    except ValueError:
        return False
    return True
