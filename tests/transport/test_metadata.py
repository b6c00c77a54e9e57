"""Which two sides may talk: pure rules, both directions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import lines

from lepton_p2p.errors import ConfigError, ProtocolMismatch, WrongSwarm
from lepton_p2p.transport.metadata import MIN_PROTOCOL, PROTOCOL_VERSION, Hello, mismatch

versions = st.integers(0, 5)
hellos = st.builds(Hello, st.sampled_from(["s", "t"]), versions, versions).filter(lambda h: h.oldest <= h.protocol)


@given(lines, st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
def test_a_hello_comes_back_as_it_went_and_is_ascii(swarm: str, protocol: int, oldest: int) -> None:
    hello = Hello(swarm, protocol, oldest)
    metadata = hello.to_metadata()
    assert all(value.isascii() and value.isprintable() for _, value in metadata)
    assert Hello.from_metadata(metadata) == hello


def test_this_version_understands_itself() -> None:
    assert MIN_PROTOCOL <= PROTOCOL_VERSION
    assert mismatch(Hello("s"), Hello("s"), "this peer") is None


@given(hellos, hellos)
def test_both_sides_judge_alike(one: Hello, other: Hello) -> None:
    here, there = mismatch(one, other, "x"), mismatch(other, one, "x")
    assert type(here) is type(there)


@given(hellos, hellos)
def test_two_sides_work_together_if_their_versions_overlap_and_the_swarm_is_one(one: Hello, other: Hello) -> None:
    overlap = max(one.oldest, other.oldest) <= min(one.protocol, other.protocol)
    error = mismatch(one, other, "x")
    if not overlap:
        assert isinstance(error, ProtocolMismatch)
    elif one.swarm != other.swarm:
        assert isinstance(error, WrongSwarm)
    else:
        assert error is None


def test_a_caller_that_does_not_know_of_oldest_speaks_one_version() -> None:
    assert Hello.from_metadata((("lepton-swarm", "s"), ("lepton-protocol", "3"))) == Hello("s", 3, 3)


@pytest.mark.parametrize("swarm", ["x" * 257, "a\nb"])
def test_a_swarm_id_that_others_could_not_read_is_not_taken(swarm: str) -> None:
    with pytest.raises(ConfigError, match="swarm's id"):
        Hello(swarm)


GOOD = dict(Hello("s").to_metadata())


@pytest.mark.parametrize(
    "change",
    [
        {"lepton-swarm": None},
        {"lepton-protocol": None},
        {"lepton-swarm": b"s"},
        {"lepton-swarm": "x" * 4000},
        {"lepton-swarm": "%0a"},
        {"lepton-swarm": "y" * 257},
        {"lepton-protocol": "one"},
        {"lepton-protocol": "-1"},
        {"lepton-protocol": "1" * 10},
        {"lepton-protocol-min": "²"},
    ],
)
def test_malformed_metadata_is_refused(change: dict[str, str | bytes | None]) -> None:
    spoilt = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=r"lepton|swarm"):
        Hello.from_metadata(spoilt.items())
