"""How a swarm is found, for the first time and again."""

from __future__ import annotations

import random

import pytest
from keyed_claims import Register
from swim_bench import ME, Bench, alive, events, fact, sent, signed, timers
from swim_network import info

from lepton_p2p.identity import PeerId, PeerInfo
from lepton_p2p.membership import (
    Ack,
    Body,
    Effect,
    Gossip,
    Joined,
    Packet,
    Ping,
    Rumour,
    SeedAnswered,
    SeedSilent,
    Status,
    Swim,
    SwimConfig,
    Sync,
)
from lepton_p2p.rounds.agreement import Agreement
from lepton_p2p.rounds.config import AgreementConfig
from lepton_p2p.rounds.messages import AdmitReply
from lepton_p2p.sansio import Send

SEED = "seed.example:7700"
CONFIG = SwimConfig.lan()


def begin(seeds: list[str], known: list[PeerInfo] | None = None) -> tuple[Swim, list[Effect]]:
    machine = Swim(ME, CONFIG, random.Random(3))
    return machine, machine.start(0.0, seeds, known or [])


def attempt(effects: list[Effect]) -> tuple[str, Sync]:
    [(to, packet)] = sent(effects, Sync)
    assert isinstance(packet.body, Sync)
    return to, packet.body


def test_seeds_and_known_members_are_contacted_at_once_each_address_once() -> None:
    _, effects = begin([SEED, info(1).address, SEED], [info(1), info(2), PeerInfo(PeerId("x"), "rubbish")])
    assert [to for to, _ in sent(effects, Sync)] == [SEED, info(1).address, info(2).address]


def test_oneself_among_the_seeds_is_skipped() -> None:
    assert sent(begin([ME.address], [ME])[1]) == []


def test_oneself_under_another_name_is_recognised() -> None:
    machine, effects = begin([SEED])
    _, body = attempt(effects)
    after = machine.receive(0.1, Packet(ME, body))
    assert events(after) == []
    assert machine.timer(1.0, ("seed", SEED)) == []


def test_an_answer_from_another_address_is_recognised() -> None:
    machine, effects = begin([SEED])
    _, body = attempt(effects)
    after = machine.receive(0.1, Packet(info(1), Sync((alive(1),), reply=False, sequence=body.sequence)))
    assert SeedAnswered(SEED) in events(after)


def test_a_packet_from_the_address_is_an_answer_too() -> None:
    machine, _ = begin([info(1).address])
    after = machine.receive(0.1, Packet(info(1), Sync((), reply=True)))
    assert SeedAnswered(info(1).address) in events(after)


@pytest.mark.parametrize("first", [Gossip(), Ping(0, ME.id), Sync((), reply=False, sequence=1)])
def test_a_seed_has_answered_when_it_is_a_member_and_not_before(first: Body) -> None:
    """Who founds a swarm as soon as all have answered must not overlook one whose word has yet to be proven."""
    register = Register()
    machine = Swim(ME, CONFIG, random.Random(3), notary=register.notary(ME.id))
    machine.start(0.0, [info(1).address], [])
    assert events(machine.receive(0.1, Packet(info(1), first))) == []
    word = signed(register, alive(1))
    proven = machine.receive(0.2, Packet(info(1), Ack(0), (word,)))
    assert events(proven) == [Joined(info(1)), SeedAnswered(info(1).address)]


def test_a_newcomer_with_a_checkpoint_does_not_found_beside_a_survivor_whose_word_is_not_proven_yet() -> None:
    """As a peer wires them.  1 lives on in its epoch; 2 is another newcomer, without a checkpoint."""
    register = Register()
    machine = Swim(ME, CONFIG, random.Random(3), notary=register.notary(ME.id))
    agreement = Agreement(ME, AgreementConfig.lan(), random.Random(3))
    agreement.held, agreement.unanswered = 18, {info(1).address, info(2).address}

    def hear(number: int, *words: Rumour) -> None:
        for event in events(machine.receive(0.1, Packet(info(number), Gossip(), words))):
            match event:
                case Joined(peer=peer):
                    agreement.alive(0.1, peer)
                case SeedAnswered(address=address):
                    agreement.unanswered.discard(address)

    def asked() -> set[str]:
        """To whom the other newcomer's "I have no epoch either" makes it turn."""
        told = agreement.receive(0.1, AdmitReply(info(2), queued=False, reason="", seeking=True))
        return {effect.to for effect in (*told, *agreement.timer(0.6, "seek")) if isinstance(effect, Send)}

    machine.start(0.0, [info(1).address, info(2).address], [])
    agreement.begin(0.0, found=False)
    hear(2, signed(register, alive(2)))
    hear(1)
    assert asked() == {info(2).address}
    assert agreement.epoch is None
    hear(1, signed(register, alive(1)))
    assert info(1).address in asked()
    assert agreement.epoch is None


def test_one_that_is_believed_dead_has_not_answered_before_it_has_refuted_that() -> None:
    machine, _ = begin([info(1).address])
    machine.receive(0.1, Packet(info(2), Gossip(), (alive(1),)))
    machine.receive(0.2, Packet(info(2), Gossip(), (fact(1, Status.DEAD, origin=2),)))
    assert events(machine.receive(0.3, Packet(info(1), Gossip()))) == []
    back = machine.receive(0.4, Packet(info(1), Gossip(), (alive(1, 1),)))
    assert events(back) == [Joined(info(1)), SeedAnswered(info(1).address)]


def test_retries_back_off_up_to_the_maximum_and_never_end() -> None:
    machine, effects = begin([SEED])
    now, pauses = 0.0, []
    for _ in range(200):
        at = timers(effects)[("seed", SEED)]
        pauses.append(at - now)
        now = at
        effects = machine.timer(now, ("seed", SEED))
        assert attempt(effects)[0] == SEED
    for number, pause in enumerate(pauses):
        usual = min(CONFIG.seed_retry_max, CONFIG.seed_retry_min * 2**number)
        assert 0.75 * usual <= pause <= 1.25 * usual
    assert len(set(pauses[10:])) > 100, "jittered, so that joiners do not come in waves"


def test_silence_is_said_once_until_it_answers() -> None:
    machine, effects = begin([SEED])
    [(to, packet)] = sent(effects, Sync)
    assert events(machine.send_failed(0.01, to, packet)) == [SeedSilent(SEED)]
    assert events(machine.send_failed(0.01, to, packet)) == []
    retry = machine.timer(0.6, ("seed", SEED))
    assert events(retry) == []
    _, body = attempt(retry)
    back = machine.receive(0.7, Packet(info(1), Sync((), reply=False, sequence=body.sequence)))
    assert SeedAnswered(SEED) in events(back)
    again = machine.timer(40.0, ("seed", SEED))
    [(to, packet)] = sent(again, Sync)
    assert events(machine.send_failed(40.0, to, packet)) == [SeedSilent(SEED)]


def test_a_seed_among_the_live_members_is_left_alone_and_tried_again_soon_after_it_went() -> None:
    machine, _ = begin([info(1).address])
    machine.receive(0.1, Packet(info(1), Sync((), reply=False)))
    assert sent(machine.timer(0.2, ("seed", info(1).address)), Sync) == []
    gone = machine.receive(0.3, Packet(info(2), Gossip(), (fact(1, Status.LEFT),)))
    at = timers(gone)[("seed", info(1).address)]
    assert at <= 0.3 + 1.25 * CONFIG.seed_retry_min
    assert attempt(machine.timer(at, ("seed", info(1).address)))[0] == info(1).address


def test_known_members_are_not_called_silent_and_are_let_go_once_the_swarm_is_found() -> None:
    machine, effects = begin([], [info(1), info(2)])
    [(to, packet), _] = sent(effects, Sync)
    assert events(machine.send_failed(0.1, to, packet)) == []
    machine.receive(0.2, Packet(info(2), Sync((), reply=False)))
    assert machine.timer(0.6, ("seed", info(1).address)) == []
    assert machine.timer(5.0, ("seed", info(1).address)) == []


@pytest.mark.parametrize("sequence", [0, 12345])
def test_an_answer_to_nothing_changes_nothing(sequence: int) -> None:
    bench = Bench(1)
    assert events(bench.hear(1, Sync((), reply=False, sequence=sequence))) == []
