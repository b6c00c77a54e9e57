"""Push-sum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lepton_p2p.gossip import account, push_sum
from mutants.catalogue import mutant_of_gossip


@mutant_of_gossip
def what_came_back_is_not_given() -> None:
    """Who asks for a share gets a yes, also after it came back to its sender."""

    def give(self: Any, partner: Any, number: int, hold: int) -> bool:
        return original(self, partner, number, hold) or number not in self._given

    original = push_sum.Ledger.give
    push_sum.Ledger.give = give  # type: ignore[method-assign]


@mutant_of_gossip
def copies_of_a_share() -> None:
    """Who asks again for what it has been given gets a yes, also for a copy that came later."""

    def give(self: Any, partner: Any, number: int, hold: int) -> bool:
        return original(self, partner, number, hold) or number in self._given

    original = push_sum.Ledger.give
    push_sum.Ledger.give = give  # type: ignore[method-assign]


@mutant_of_gossip
def asking_for_a_share() -> None:
    """What has arrived is the receiver's at once; what failed is the sender's as before."""

    def answered(self: Any, now: float, number: int, answer: bool | None) -> bool:
        return original(self, now, number, True)

    original = account.Account.answered
    account.Account.answered = answered  # type: ignore[method-assign]


@mutant_of_gossip
def the_same_answer_to_the_same_question() -> None:
    """A sender forgets to whom it gave a share: who asks again, because it did not hear the yes, gets a no."""

    def give(self: Any, partner: Any, number: int, hold: int) -> bool:
        self._given.clear()
        return original(self, partner, number, hold)

    original = push_sum.Ledger.give
    push_sum.Ledger.give = give  # type: ignore[method-assign]


@mutant_of_gossip
def taking_back() -> None:
    """The weight of what did not get through is gone."""

    def take_back(self: Any, number: int) -> float:
        weight = original(self, number)
        self.waiting -= weight
        return weight

    original = push_sum.Ledger.take_back
    push_sum.Ledger.take_back = take_back  # type: ignore[method-assign]


@mutant_of_gossip
def halves() -> None:
    """The weight is halved, and a quarter is sent."""

    def offer(self: Any, partner: Any, founding: int) -> Any:
        transfer = original(self, partner, founding)
        if transfer is None:
            return None
        self.in_flight[transfer.id] = (partner, transfer.weight / 2)
        return replace(transfer, weight=transfer.weight / 2)

    original = push_sum.Ledger.offer
    push_sum.Ledger.offer = offer  # type: ignore[method-assign]


@mutant_of_gossip
def whole_quanta() -> None:
    """Weights are halved as floating-point numbers are, and sums of them rounded."""
    push_sum.math = type("", (), {"floor": staticmethod(lambda number: number)})  # type: ignore[assignment]


@mutant_of_gossip
def telling_what_is_lost() -> None:
    """A share whose sender is gone is lost without a word."""

    def release(self: Any, sender: Any = None) -> Any:
        return [replace(hold, asked=False) for hold in original(self, sender)]

    original = account.Account.release
    account.Account.release = release  # type: ignore[method-assign]


@mutant_of_gossip
def weight_of_who_is_believed_dead() -> None:
    """Who is believed dead by somebody loses its weight."""

    def gone(self: Any, peer: Any) -> Any:
        self.ledger.weight = 0.0
        return original(self, peer)

    original = account.Account.gone
    account.Account.gone = gone  # type: ignore[method-assign]


@mutant_of_gossip
def the_last_weights() -> None:
    """Who was dropped has no say, also where nobody has any weight."""

    def nobody_has_any(self: Any, alive: Any, times: int) -> bool:
        answers = [self._answers.get(peer, 0) for peer in alive]
        return bool(answers) and min(answers) >= times

    account.Account.nobody_has_any = nobody_has_any  # type: ignore[method-assign]
