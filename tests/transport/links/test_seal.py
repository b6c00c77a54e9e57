"""The seal: what was sealed opens once, in order, at the other end of its direction, and nothing else does."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_p2p.transport.links.seal import TAG_BYTES, Opener, Sealer, SealError, _Chain

SECRET = bytes(range(32))
pieces = st.tuples(st.binary(max_size=200), st.binary(max_size=70))
streams = st.lists(pieces, min_size=1, max_size=8)


def sealer(secret: bytes = SECRET, **bounds: int) -> Sealer:
    return Sealer(bytearray(secret), **bounds)


def opener(secret: bytes = SECRET, **bounds: int) -> Opener:
    return Opener(bytearray(secret), **bounds)


def sealed(stream: list[tuple[bytes, bytes]], **options: int) -> list[bytes]:
    end = sealer(**options)
    return [end.seal(piece, about) for piece, about in stream]


def refuses(end: Opener, piece: bytes, about: bytes) -> None:
    """``piece`` does not open, nothing of it becomes visible, and no second try is given."""
    into = memoryview(bytearray(b"\xaa" * max(0, len(piece) - TAG_BYTES)))
    with pytest.raises(SealError, match="do not open"):
        end.open_into(memoryview(piece), about, into)
    assert bytes(into) == bytes(len(into))
    with pytest.raises(SealError, match="closed"):
        end.open(piece, about)


@given(streams, st.integers(1, 4), st.integers(1, 400))
def test_what_was_sealed_opens_in_its_order_under_however_many_keys(
    stream: list[tuple[bytes, bytes]], count: int, volume: int
) -> None:
    bounds = {"pieces": count, "volume": volume}
    end = opener(**bounds)
    for (piece, about), one in zip(stream, sealed(stream, **bounds), strict=True):
        assert len(one) == len(piece) + TAG_BYTES
        assert end.open(one, about) == piece


@given(streams)
def test_sealing_and_opening_in_given_memory_is_the_same(stream: list[tuple[bytes, bytes]]) -> None:
    one, end = sealer(), opener()
    for (piece, about), expected in zip(stream, sealed(stream), strict=True):
        into = memoryview(bytearray(len(piece) + TAG_BYTES))
        one.seal_into(memoryview(piece), about, into)
        assert bytes(into) == expected
        end.open_into(into, about, into[: len(piece)])  # also in place
        assert bytes(into[: len(piece)]) == piece


@given(streams, st.data())
def test_a_flipped_bit_anywhere_is_refused(stream: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    all_sealed, end = sealed(stream), opener()
    bad = data.draw(st.integers(0, len(stream) - 1))
    for index in range(bad):
        end.open(all_sealed[index], stream[index][1])
    piece, about = bytearray(all_sealed[bad]), bytearray(stream[bad][1])
    changed = data.draw(st.sampled_from([part for part in (piece, about) if part]))
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refuses(end, bytes(piece), bytes(about))


@given(pieces, st.data())
def test_a_piece_cut_off_or_made_longer_is_refused(one: tuple[bytes, bytes], data: st.DataObject) -> None:
    about, (whole,) = one[1], sealed([one])
    length = data.draw(st.integers(TAG_BYTES, len(whole) + 40).filter(lambda n: n != len(whole)))
    refuses(opener(), (whole + bytes(40))[:length], about)


@pytest.mark.parametrize("length", range(TAG_BYTES))
def test_what_is_shorter_than_a_tag_is_refused(length: int) -> None:
    with pytest.raises(SealError):
        opener().open(bytes(length), b"")


@given(streams.filter(lambda stream: len(stream) > 1), st.data())
def test_pieces_replayed_left_out_or_in_another_order_are_refused(
    stream: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    all_sealed, end = sealed(stream), opener()
    expected = data.draw(st.integers(0, len(stream) - 1))
    came = data.draw(st.integers(0, len(stream) - 1).filter(lambda n: n != expected))
    for index in range(expected):
        end.open(all_sealed[index], stream[index][1])
    refuses(end, all_sealed[came], stream[came][1])


@given(streams, st.data())
def test_a_piece_sealed_under_another_key_of_the_chain_is_refused(
    stream: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    """Also if the count under that key is the same."""
    piece, about = data.draw(pieces)
    many = [(piece, about)] * 4
    refuses(opener(pieces=2), sealed(many, pieces=2)[2], about)


@given(pieces, st.binary(min_size=32, max_size=32).filter(lambda other: other != SECRET))
def test_what_another_link_or_the_other_direction_sealed_is_refused(one: tuple[bytes, bytes], other: bytes) -> None:
    refuses(opener(other), sealed([one])[0], one[1])


@given(pieces, st.binary(max_size=70))
def test_a_piece_said_to_be_about_something_else_is_refused(one: tuple[bytes, bytes], about: bytes) -> None:
    if about != one[1]:
        refuses(opener(), sealed([one])[0], about)


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 5), st.integers(1, 100))
@settings(max_examples=60)
def test_no_key_meets_a_nonce_twice_and_none_seals_more_than_it_may(sizes: list[int], count: int, volume: int) -> None:
    chain = _Chain(bytearray(SECRET), count, volume)
    used: dict[int, list[tuple[bytes, int]]] = {}
    keep = []
    for size in sizes:
        cipher, nonce = chain.next(size)
        keep.append(cipher)
        used.setdefault(id(cipher), []).append((nonce, size))
    nonces = [nonce for under in used.values() for nonce, _ in under]
    assert len(set(nonces)) == len(nonces) == len(sizes)
    for under in used.values():
        assert len(under) <= count
        assert sum(size for _, size in under) <= volume or len(under) == 1


def test_the_keys_of_a_chain_differ_and_do_not_repeat() -> None:
    pairs = sealed([(b"the same", b"")] * 50, pieces=1)
    assert len(set(pairs)) == 50
    assert all(a != b for a, b in pairwise(pairs))


def test_the_secret_that_made_the_present_key_cannot_make_the_last_one() -> None:
    """What a chain holds after it has gone on: neither the first secret nor the first key's."""
    secret = bytearray(SECRET)
    chain = _Chain(secret, 1, 100)
    first, nonce = chain.next(0)
    token = first.encrypt(nonce, b"x", b"")
    chain.next(0)
    assert secret != SECRET
    refuses(Opener(bytearray(secret)), token, b"")


def test_who_was_wiped_seals_and_opens_nothing_and_keeps_no_secret() -> None:
    secrets = [bytearray(SECRET), bytearray(SECRET)]
    one, end = Sealer(secrets[0]), Opener(secrets[1])
    whole = one.seal(b"x", b"")
    one.wipe()
    end.wipe()
    end.wipe()
    assert secrets == [bytes(32)] * 2
    with pytest.raises(SealError, match="closed"):
        one.seal(b"x", b"")
    with pytest.raises(SealError, match="closed"):
        end.open(whole, b"")


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_secret_of_another_length_is_an_error(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(bytearray(length))
