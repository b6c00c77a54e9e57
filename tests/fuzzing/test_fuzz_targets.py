"""The fuzz targets hold for arbitrary bytes, and find what they are there to find."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fuzzing.targets import TARGETS

from lepton_p2p.rounds.records import Record
from lepton_p2p.transport.links.seal import Opener

NAMES = sorted(TARGETS)


@pytest.mark.parametrize("name", NAMES)
async def test_every_seed_is_taken(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_arbitrary_bytes_are_taken(name: str, data: st.DataObject) -> None:
    seeds = [seed for seed in TARGETS[name].seeds if seed] or [b"\0"]
    mutated = st.tuples(st.sampled_from(seeds), st.integers(0, 200), st.binary(max_size=40)).map(
        lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + len(drawn[2]) :]
    )
    TARGETS[name].run(data.draw(st.one_of(st.binary(max_size=600), mutated)))


async def test_a_parser_that_fails_in_another_way_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(data: bytes) -> Record:
        raise IndexError("past the end")

    monkeypatch.setattr(Record, "decode", careless)
    with pytest.raises(IndexError):
        TARGETS["documents.record"].run(b"")


async def test_a_reader_that_takes_what_does_not_open_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Opener, "open", lambda self, sealed, about: bytes(sealed[:-16]))
    with pytest.raises(AssertionError):
        TARGETS["links.opener"].run(b"\x00abc\x20" + bytes(32))
