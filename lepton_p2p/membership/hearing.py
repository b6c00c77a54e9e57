"""What of a packet's claims may touch the table, in a swarm where claims are signed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from lepton_p2p.identity import PeerId, PeerInfo, short
from lepton_p2p.membership.events import Refused
from lepton_p2p.membership.messages import Packet, Rumour, Status, Sync
from lepton_p2p.membership.notary import ACCUSATIONS, Notary, Verdict
from lepton_p2p.membership.outbox import Outbox
from lepton_p2p.membership.table import Table


class Hearing:
    """Judges claims before they are believed; where nothing is signed, all are heard.

    refused: how many claims were dropped because a signature did not hold or the signer was nobody.
    """

    def __init__(self, me: PeerInfo, notary: Notary, table: Table, outbox: Outbox) -> None:
        self._me = me
        self._notary = notary
        self._table = table
        self._outbox = outbox
        self.refused = 0

    def heard(self, sender: PeerInfo, rumours: Iterable[Rumour]) -> Iterable[Rumour]:
        """Those of ``rumours`` that ``sender`` told that may be believed.

        Lazily, the living first, so that who was introduced by one of them counts as a member for the next.
        """
        return self._proven(sender, rumours) if self._notary.secured else rumours

    def introduction(self, packet: Packet) -> Iterable[Rumour]:
        """What the sender says of itself in ``packet``, if it is not known yet."""
        if not self._notary.secured or self._table.get(packet.sender.id) is not None:
            return ()
        told = packet.body.members[:1] if isinstance(packet.body, Sync) else ()
        return self._proven(packet.sender, [r for r in (*packet.rumours, *told) if r.peer == packet.sender])

    def _proven(self, sender: PeerInfo, rumours: Iterable[Rumour]) -> Iterator[Rumour]:
        for rumour in sorted(rumours, key=lambda rumour: rumour.status):
            if self._superfluous(rumour):
                continue
            accused = rumour.status in ACCUSATIONS
            verdict = self._word(rumour)
            if verdict is Verdict.HOLDS and accused:
                verdict = self._accusation(rumour)
            if verdict is not Verdict.HOLDS:
                self._refuse(sender, rumour, verdict)
            if verdict is Verdict.FORGED:
                return  # nothing else that a liar says is worth the time to check it
            if verdict is Verdict.HOLDS:
                yield rumour
            elif accused and self._word(rumour) is Verdict.HOLDS:
                # What the subject said of itself stands, whoever accuses it.
                yield replace(rumour, status=Status.ALIVE, origin=rumour.peer.id, accusation=b"")

    def _superfluous(self, rumour: Rumour) -> bool:
        """Whether it is believed word for word already, or says that somebody unknown is dead."""
        view = self._table.get(rumour.peer.id)
        if view is None:
            return rumour.status is Status.DEAD and rumour.peer.id != self._me.id
        return view.fact == rumour

    def _word(self, rumour: Rumour) -> Verdict:
        another = rumour.status not in ACCUSATIONS and rumour.origin != rumour.peer.id
        if another or not self._table.credible(rumour):
            return Verdict.FORGED
        return self._notary.judge_word(rumour)

    def _accusation(self, rumour: Rumour) -> Verdict:
        """Members accuse.  What is said of this peer itself it refutes, whether it knows the accuser or not."""
        view = self._table.get(PeerId(rumour.origin))
        about_me = rumour.peer.id == self._me.id
        if not about_me and rumour.origin != self._me.id and (view is None or not view.live):
            return Verdict.UNKNOWN
        return self._notary.judge_accusation(rumour)

    def _refuse(self, sender: PeerInfo, rumour: Rumour, verdict: Verdict) -> None:
        self.refused += 1
        said = f"{short(rumour.peer.id)} is {rumour.status.name.lower()}"
        self._outbox.emit(Refused(sender, said, verdict is Verdict.FORGED))
