"""The proof that a certain peer answers: bound to the question, to who asks, and to who answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarm_keys import Family

from lepton_p2p.credentials.certificates import make_process
from lepton_p2p.errors import SwarmUnreachable
from lepton_p2p.identity import PeerId
from lepton_p2p.transport.proof import NONCE_BYTES, NONCE_KEY, PROOF_KEY, check_proof, new_nonce, prove

MEMBER = Family().member
ASKER, ANSWERER, OTHER = (make_process(MEMBER) for _ in range(3))
WHERE = "192.0.2.1:7700"
NONCE = new_nonce()
ID = PeerId(ANSWERER.id)
PROOF = prove(ANSWERER, ASKER.id, [(NONCE_KEY, NONCE)])


def refused(metadata: object, *, nonce: bytes = NONCE, caller: str = ASKER.id, expected: PeerId = ID) -> str:
    with pytest.raises(SwarmUnreachable) as caught:
        check_proof(metadata, nonce, caller, expected, WHERE)  # type: ignore[arg-type]
    return str(caught.value)


def test_the_peer_that_is_meant_proves_it() -> None:
    check_proof(PROOF, NONCE, ASKER.id, ID, WHERE)


def test_another_peer_is_named() -> None:
    assert f"peer {ANSWERER.id[:8]} answers, not {OTHER.id[:8]}" in refused(PROOF, expected=PeerId(OTHER.id))


def test_a_proof_is_good_for_one_question_of_one_caller() -> None:
    refused(PROOF, nonce=new_nonce())
    # the same question, passed on by the peer OTHER in its own name
    refused(prove(ANSWERER, OTHER.id, [(NONCE_KEY, NONCE)]))


def test_who_does_not_ask_gets_none_and_a_strange_question_is_not_signed() -> None:
    assert prove(ANSWERER, ASKER.id, []) == ()
    assert prove(ANSWERER, ASKER.id, [(NONCE_KEY, b"")]) == ()
    assert prove(ANSWERER, ASKER.id, [(NONCE_KEY, bytes(NONCE_BYTES + 1))]) == ()


def test_no_answer_proves_nothing() -> None:
    assert "proves nothing" in refused(())
    assert "proves nothing" in refused([(PROOF_KEY, "text")])


@given(at=st.integers(0, len(PROOF[0][1]) - 1), bit=st.integers(0, 7))
def test_any_changed_bit_is_noticed(at: int, bit: int) -> None:
    changed = bytearray(PROOF[0][1])  # type: ignore[arg-type]
    changed[at] ^= 1 << bit
    refused([(PROOF_KEY, bytes(changed))])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_prove_nothing(data: bytes) -> None:
    refused([(PROOF_KEY, data)])
