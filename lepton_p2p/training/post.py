"""A gossiping peer's post office: what goes out, what comes in, and whose weight it is; never makes anybody wait.

The training thread pushes and collects; the exchange's threads deliver.  One lock guards the account; tensors are
copied outside of it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from functools import partial

import structlog
from torch import nn

from lepton_p2p.identity import PeerId, short
from lepton_p2p.training.collective import PairExchange
from lepton_p2p.training.gossip_wire import Counter, Header, Kind
from lepton_p2p.training.mailbox import Image, Images
from lepton_p2p.training.push_sum import Ledger, Transfer, Verdict

OUTGOING = 2
"""Pushes on their way at a time; one more is left out, since the link is slower than the training."""
INCOMING = 4
"""Pushes that wait to be mixed in; more are refused, and their weight goes back to the sender."""

log = structlog.get_logger()


class Post:
    """The account of ``me`` and its mail.  ``target``: samples after which the swarm's training ends."""

    def __init__(self, me: PeerId, exchange: PairExchange, model: nn.Module, *, weight: float, target: int) -> None:
        self.counter = Counter(me)
        self.changed = threading.Condition()
        self._me = me
        self._exchange = exchange
        self._target = target
        self._ledger = Ledger(me, weight)
        self._outgoing = Images(model, OUTGOING)
        self._incoming = Images(model, INCOMING)
        self._inbox: deque[tuple[Image, float]] = deque()
        self._owed: dict[PeerId, None] = {}
        self._answers: dict[PeerId, int] = {}
        self._uncertain: set[int] = set()
        self._asked_about: set[int] = set()
        self._closing = False
        self.disagreement: float | None = None
        """How far the partner of the last exchange was from the own model, relative to it; None before the first."""
        exchange.on_push(self._receive)
        exchange.on_gone(self._gone)
        exchange.on_declared_dead(self._declared_dead)

    @property
    def weight(self) -> float:
        with self.changed:
            return self._ledger.weight

    @property
    def total(self) -> int:
        """Samples that the swarm has used, as far as this peer knows."""
        with self.changed:
            return self.counter.total

    def count(self, samples: int) -> None:
        """This peer has used so many more."""
        with self.changed:
            self.counter.add(samples)

    @property
    def counts(self) -> dict[PeerId, int]:
        """The samples behind ``total``, by peer."""
        with self.changed:
            return self.counter.snapshot()

    def merge(self, counts: Mapping[PeerId, int]) -> None:
        """Samples that peers are known to have used, from a checkpoint."""
        with self.changed:
            self.counter.merge(counts, self._target)

    # -- out ----------------------------------------------------------------------------------------------------

    def owed(self, alive: Collection[PeerId]) -> PeerId | None:
        """Somebody who asked for weight and has not been pushed to since."""
        with self.changed:
            for peer in list(self._owed):
                del self._owed[peer]
                if peer in alive:
                    return peer
        return None

    def push_half(self, partner: PeerId) -> bool:
        """Send half of the weight, with the model as it is now, to ``partner``; False if nothing could be sent."""
        with self.changed:
            image = self._outgoing.take()
            if image is None:
                return False
            transfer = self._ledger.offer(partner)
            if transfer is None:
                self._outgoing.give_back(image)
                return False
            header = Header(
                Kind.TRANSFER, transfer.id, transfer.settled, transfer.weight, self.counter.snapshot()
            ).encode()
        self._outgoing.copy_model(image)
        future = self._exchange.push(partner, header, image.memory)
        future.add_done_callback(partial(self._pushed, transfer.id, image))
        return True

    def _pushed(self, number: int, image: Image, future: Future[bool]) -> None:
        with self.changed:
            self._outgoing.give_back(image)
            self._learn(number, future)

    def _learn(self, number: int, future: Future[bool]) -> None:
        self._asked_about.discard(number)
        if future.cancelled() or future.exception() is not None:
            if number in self._ledger.in_flight:
                self._uncertain.add(number)
        else:
            self._uncertain.discard(number)
            _ = self._ledger.acknowledged(number) if future.result() else self._ledger.reclaim(number)
        self.changed.notify_all()

    def clear_up(self) -> None:
        """Ask about transfers of unknown fate; take back those to peers that are gone."""
        alive = set(self._exchange.alive())
        with self.changed:
            in_flight = self._ledger.in_flight
            self._uncertain &= set(in_flight)
            for number in self._uncertain:
                if in_flight[number][0] not in alive:
                    self._ledger.reclaim(number)
            due = {n: in_flight[n][0] for n in self._uncertain - self._asked_about if in_flight[n][0] in alive}
            self._asked_about |= set(due)
        for number, partner in due.items():
            future = self._exchange.push(partner, Header(Kind.QUERY, number).encode(), memoryview(b""))
            future.add_done_callback(partial(self._answered_query, number))

    def _answered_query(self, number: int, future: Future[bool]) -> None:
        with self.changed:
            self._learn(number, future)

    def ask(self, partner: PeerId) -> None:
        """Tell ``partner`` that this peer has no weight; see ``nobody_has_any``."""
        future = self._exchange.push(partner, Header(Kind.ASK).encode(), memoryview(b""))
        future.add_done_callback(partial(self._answered_ask, partner))

    def _answered_ask(self, partner: PeerId, future: Future[bool]) -> None:
        with self.changed:
            if not future.cancelled() and future.exception() is None:
                self._answers[partner] = 0 if future.result() else self._answers.get(partner, 0) + 1
            self.changed.notify_all()

    def nobody_has_any(self, alive: Iterable[PeerId], times: int) -> bool:
        """Whether every one of ``alive`` (at least one) has answered, ``times`` times in a row, to have no weight."""
        with self.changed:
            answers = [self._answers.get(peer, 0) for peer in alive]
        return bool(answers) and min(answers) >= times

    def tell_counts(self, peers: Iterable[PeerId]) -> list[Future[bool]]:
        """Send the counter alone."""
        with self.changed:
            header = Header(Kind.COUNTS, counts=self.counter.snapshot()).encode()
        return [self._exchange.push(peer, header, memoryview(b"")) for peer in peers]

    # -- in -----------------------------------------------------------------------------------------------------

    def collect(self) -> int:
        """Mix what has come in into the model; how many pushes that were."""
        mixed = 0
        while True:
            with self.changed:
                if not self._inbox:
                    return mixed
                image, weight = self._inbox.popleft()
                share = self._ledger.mix(weight)
            if share < 1.0:  # a newcomer's own values are nobody's opinion
                self.disagreement = self._incoming.distance(image)
            self._incoming.mix_into_model(image, share)
            with self.changed:
                self._incoming.give_back(image)
            mixed += 1

    def wait(self, seconds: float) -> None:
        """Until something came in, or ``seconds`` have passed."""
        with self.changed:
            if not self._inbox:
                self.changed.wait(seconds)

    def close(self) -> None:
        """Take nothing any more: senders keep what they offer."""
        with self.changed:
            self._closing = True

    @property
    def settled(self) -> bool:
        """Whether the fate of everything that went out is known."""
        with self.changed:
            return not self._ledger.in_flight

    def _receive(self, sender: PeerId, data: bytes, payload: memoryview) -> bool:
        try:
            header = Header.decode(data)
        except ValueError as error:
            log.warning("refused a gossip message", sender=short(sender), reason=str(error))
            return False
        with self.changed:
            self.counter.merge(header.counts, self._target)
            closing = self._closing
        if header.kind is Kind.TRANSFER:
            return self._take(Transfer(sender, header.id, header.weight, header.settled), payload)
        with self.changed:
            if header.kind is Kind.QUERY:
                return self._ledger.query(sender, header.id)
            if header.kind is Kind.ASK and self._ledger.weight > 0 and not closing:
                self._owed[sender] = None
        if header.kind is Kind.ASK and closing:
            # Too late for a push: the asker learns that the training is over and takes part in the last round.
            self.tell_counts([sender])
        return header.kind is Kind.COUNTS or self.weight > 0

    def _take(self, transfer: Transfer, payload: memoryview) -> bool:
        with self.changed:
            image = None if self._closing else self._incoming.take()
        good = image is not None and self._fill(image, transfer.sender, payload)
        with self.changed:
            verdict = self._ledger.accept(transfer, room=good and not self._closing)
            if image is not None and verdict is Verdict.NEW:
                self._inbox.append((image, transfer.weight))
            elif image is not None:
                self._incoming.give_back(image)
            self.changed.notify_all()
        return verdict is not Verdict.REFUSED

    def _fill(self, image: Image, sender: PeerId, payload: memoryview) -> bool:
        if payload.nbytes != len(image.data):
            log.warning(
                "refused a push of another size; use the same job everywhere",
                sender=short(sender),
                bytes=payload.nbytes,
                expected=len(image.data),
            )
            return False
        if payload.nbytes:
            image.memory[:] = payload.cast("B")
        if not image.finite():
            log.warning("refused a push with NaN or Inf", sender=short(sender))
            return False
        return True

    def _gone(self, peer: PeerId) -> None:
        with self.changed:
            taken = self._ledger.gone(peer)
            self._uncertain -= set(taken)
            self._answers.pop(peer, None)
            self._owed.pop(peer, None)
            self.changed.notify_all()
        if taken:
            log.info("took back weight from a peer that is gone", peer=short(peer), transfers=len(taken))

    def _declared_dead(self) -> None:
        log.warning("the others went on without this peer: its weight is void, it asks for new")
        self.void()

    def void(self) -> None:
        """The swarm went on without this peer: it has no weight any more."""
        with self.changed:
            self._ledger.reset()
            self._uncertain.clear()
            while self._inbox:
                self._incoming.give_back(self._inbox.popleft()[0])
            self.changed.notify_all()
