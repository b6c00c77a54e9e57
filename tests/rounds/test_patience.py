"""How long silence may last: derived from what a neighbour usually does, between two bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_p2p.rounds.patience import Patience, PatienceConfig

MIB = 1 << 20
presets = st.sampled_from([PatienceConfig.local(), PatienceConfig.lan(), PatienceConfig.wan()])


@given(presets, st.lists(st.floats(0, 1e4), max_size=50))
def test_silence_is_always_between_floor_and_ceiling(config: PatienceConfig, gaps: list[float]) -> None:
    patience = Patience(config)
    for gap in gaps:
        patience.arrived(gap)
    assert config.floor <= patience.silence() <= config.ceiling
    assert patience.silence() >= min(4 * config.heartbeat, config.ceiling)


def test_a_steady_neighbour_is_given_the_floor() -> None:
    patience = Patience(PatienceConfig.local())
    for _ in range(100):
        patience.arrived(0.01)
    assert patience.silence() == PatienceConfig.local().floor


def test_an_irregular_neighbour_is_given_more_and_forgiven_in_time() -> None:
    patience = Patience(PatienceConfig.local())
    for number in range(40):
        patience.arrived(0.8 if number % 4 == 0 else 0.05)
    assert patience.silence() > 2 * PatienceConfig.local().floor
    for _ in range(200):
        patience.arrived(0.01)
    assert patience.silence() == PatienceConfig.local().floor


def test_the_estimator_is_that_of_rfc_6298() -> None:
    config = PatienceConfig(heartbeat=0.001, floor=0.001, ceiling=1e6, deviations=8)
    patience = Patience(config)
    patience.arrived(2.0)
    assert patience.silence() == pytest.approx(2.0 + 8 * 1.0)
    patience.arrived(4.0)
    deviation = 0.75 * 1.0 + 0.25 * abs(2.0 - 4.0)
    mean = 0.875 * 2.0 + 0.125 * 4.0
    assert patience.silence() == pytest.approx(mean + 8 * deviation)


def test_throughput_is_unknown_until_a_payload_that_says_something() -> None:
    patience = Patience(PatienceConfig.lan())
    patience.transferred(100, 1.0)
    assert patience.throughput is None
    patience.transferred(MIB, 0.5)
    assert patience.throughput == pytest.approx(2 * MIB)


def test_a_chunk_may_take_the_silence_and_some_multiple_of_its_usual_time() -> None:
    config = PatienceConfig.lan()
    patience = Patience(config)
    assert patience.chunk(MIB) == config.floor + config.ceiling
    for _ in range(100):
        patience.transferred(MIB, 1.0)
    assert patience.chunk(MIB) == pytest.approx(config.floor + 4 * 1.0, rel=0.01)
    assert patience.chunk(4 * MIB) == pytest.approx(config.floor + 16 * 1.0, rel=0.01)


@given(presets, st.lists(st.tuples(st.integers(0, 4 * MIB), st.floats(0, 1e3)), max_size=30), st.integers(0, MIB))
def test_a_chunk_is_never_given_less_than_silence(
    config: PatienceConfig, transfers: list[tuple[int, float]], nbytes: int
) -> None:
    patience = Patience(config)
    for size, seconds in transfers:
        patience.transferred(size, seconds)
    assert patience.chunk(nbytes) >= patience.silence()


@pytest.mark.parametrize(
    "knobs",
    [{"heartbeat": 0.0}, {"floor": 0.1, "heartbeat": 0.2}, {"ceiling": 1.0, "floor": 2.0}, {"connect": 0.0}],
)
def test_knobs_that_contradict_each_other_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="patience needs"):
        PatienceConfig(**knobs)


def test_presets_grow_with_distance() -> None:
    local, lan, wan = PatienceConfig.local(), PatienceConfig.lan(), PatienceConfig.wan()
    for knob in ("heartbeat", "floor", "ceiling", "connect"):
        assert getattr(local, knob) < getattr(lan, knob) < getattr(wan, knob)
