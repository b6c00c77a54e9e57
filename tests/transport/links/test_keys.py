"""Keys of links: the same on both sides if they agree on everything, and known to nobody else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lepton_p2p.identity import PeerId
from lepton_p2p.transport.links.keys import Bond, KeyShare, LinkKeys
from lepton_p2p.transport.links.purpose import Purpose
from lepton_p2p.transport.links.seal import Opener, Sealer, SealError

ALICE, BOB, EVE = (PeerId(letter * 32) for letter in "abe")
BOND = Bond("swarm", ALICE, BOB, Purpose.RING, b"t" * 32)
bonds = st.builds(
    Bond,
    st.text(max_size=5),
    st.one_of(st.none(), st.sampled_from((ALICE, BOB, EVE))),
    st.sampled_from((ALICE, BOB, EVE)),
    st.sampled_from(Purpose),
    st.binary(min_size=32, max_size=32),
)


def agreed(connectors: Bond = BOND, acceptors: Bond = BOND) -> tuple[LinkKeys, LinkKeys]:
    one, other = KeyShare(), KeyShare()
    return one.as_connector(other.public, connectors), other.as_acceptor(one.public, acceptors)


def understand(sender: tuple[Sealer, Opener], receiver: tuple[Sealer, Opener]) -> bool:
    try:
        return receiver[1].open(sender[0].seal(b"hello", b"x"), b"x") == b"hello"
    except SealError:
        return False


def test_both_sides_have_the_keys_of_both_directions() -> None:
    one, other = agreed()
    connector, acceptor = one.connector(), other.acceptor()
    assert understand(connector, acceptor)
    assert understand(acceptor, connector)


def test_what_one_side_sealed_does_not_open_when_it_is_sent_back_to_it() -> None:
    one, _ = agreed()
    connector = one.connector()
    assert not understand(connector, connector)


def test_every_link_has_other_keys_though_its_ends_are_the_same() -> None:
    (first, _), (_, second) = agreed(), agreed()
    assert not understand(first.connector(), second.acceptor())


@pytest.mark.parametrize(
    "change",
    [
        {"swarm": "other"},
        {"connector": EVE},
        {"connector": None},
        {"acceptor": EVE},
        {"purpose": Purpose.PUSH},
        {"token": b"u" * 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_two_who_differ_in_anything_share_no_key(change: dict[str, Any]) -> None:
    one, other = agreed(BOND, replace(BOND, **change))
    assert not understand(one.connector(), other.acceptor())


@given(bonds, bonds)
def test_no_two_bonds_are_encoded_alike(one: Bond, other: Bond) -> None:
    assume(one != other)
    assert one.encode() != other.encode()


def test_one_who_changes_a_share_on_its_way_shares_keys_with_one_side_at_most() -> None:
    one, other, eve = KeyShare(), KeyShare(), KeyShare()
    ones, others = one.as_connector(eve.public, BOND), other.as_acceptor(one.public, BOND)
    assert not understand(ones.connector(), others.acceptor())


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_shares_that_would_make_a_known_secret_are_refused(point: bytes) -> None:
    with pytest.raises(ValueError, match="no secret"):
        KeyShare().as_acceptor(point, BOND)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_what_is_no_share_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        KeyShare().as_connector(b"x" * length, BOND)


def test_a_share_is_good_once() -> None:
    one, other = KeyShare(), KeyShare()
    one.as_connector(other.public, BOND)
    with pytest.raises(ValueError, match="one link"):
        one.as_connector(other.public, BOND)
