"""What a process signs means one thing, in one swarm."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from swarm_keys import Family

from lepton_p2p.credentials.claims import MAX_SIGNATURE, Kind, claim, claim_holds, fingerprint, sign_claim
from lepton_p2p.credentials.keys import new_key

KEY = Family().process.key
PUBLIC = KEY.public_key()
texts = st.text(max_size=40)
parts = st.tuples(texts, st.sampled_from(Kind), texts, texts, st.integers(0, 2**63), texts)


@given(parts, parts)
def test_no_two_claims_have_the_same_bytes(
    one: tuple[str, Kind, str, str, int, str], other: tuple[str, Kind, str, str, int, str]
) -> None:
    assert (claim(*one) == claim(*other)) == (one == other)


@given(parts, st.integers(0, 5), st.data())
def test_a_signature_holds_for_what_was_signed_and_for_nothing_of_which_a_part_differs(
    said: tuple[str, Kind, str, str, int, str], which: int, data: st.DataObject
) -> None:
    signature = sign_claim(KEY, claim(*said))
    assert claim_holds(PUBLIC, claim(*said), signature)
    strategies = (texts, st.sampled_from(Kind), texts, texts, st.integers(0, 2**63), texts)
    another = data.draw(strategies[which].filter(lambda value: value != said[which]))
    changed = (*said[:which], another, *said[which + 1 :])
    assert not claim_holds(PUBLIC, claim(*changed), signature)  # type: ignore[arg-type]


@given(st.integers(0, MAX_SIGNATURE * 8 - 1), st.binary(max_size=80))
def test_a_signature_of_which_a_bit_differs_holds_for_nothing(bit: int, noise: bytes) -> None:
    written = claim("swarm", Kind.ALIVE, "a" * 32, "127.0.0.1:7700", 3)
    signature = bytearray(sign_claim(KEY, written))
    signature[bit // 8 % len(signature)] ^= 1 << bit % 8
    assert not claim_holds(PUBLIC, written, bytes(signature))
    assert not claim_holds(PUBLIC, written, noise)
    assert not claim_holds(new_key().public_key(), written, sign_claim(KEY, written))


def test_a_signature_fits_where_it_travels() -> None:
    written = claim("swarm", Kind.DEAD, "a" * 32, "h" * 300, 2**48, "b" * 32)
    assert all(len(sign_claim(KEY, written)) <= MAX_SIGNATURE for _ in range(200))


def test_judgements_are_remembered_under_names_of_their_own() -> None:
    assert len({fingerprint(a, b, c) for a in ("x", "xy") for b in (b"z", b"yz") for c in (b"", b"z")}) == 8
