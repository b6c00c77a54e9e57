"""The knobs."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from lepton_p2p.errors import ConfigError
from lepton_p2p.membership import SwimConfig


def test_presets() -> None:
    def column(config: SwimConfig) -> tuple[float, ...]:
        return (
            config.probe_interval,
            config.probe_timeout,
            config.indirect_probes,
            config.retransmit_multiplier,
            config.suspicion_multiplier,
            config.suspicion_max_multiplier,
            config.sync_interval,
            config.gossip_interval,
            config.gossip_fanout,
        )

    assert column(SwimConfig.lan()) == (1.0, 0.5, 3, 4, 4, 6, 30.0, 0.2, 3)
    assert column(SwimConfig.wan()) == (5.0, 3.0, 3, 4, 6, 6, 60.0, 0.5, 4)
    assert column(SwimConfig.local()) == (1.0, 0.2, 1, 2, 3, 6, 15.0, 0.1, 3)
    assert SwimConfig() == SwimConfig.lan()


def test_every_knob_is_documented() -> None:
    assert SwimConfig.__doc__
    for field in fields(SwimConfig):
        assert field.name in SwimConfig.__doc__


@pytest.mark.parametrize("field", [field.name for field in fields(SwimConfig)])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_impossible_values_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"membership option {field} must be"):
        replace(SwimConfig(), **{field: value})


def test_values_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be below probe_interval"):
        replace(SwimConfig(), probe_timeout=1.0)
    with pytest.raises(ConfigError, match="is below seed_retry_min"):
        replace(SwimConfig(), seed_retry_max=0.1)


@pytest.mark.parametrize(("members", "times"), [(1, 4), (9, 4), (10, 8), (99, 8), (100, 12), (1000, 16)])
def test_retransmissions_grow_with_the_logarithm(members: int, times: int) -> None:
    assert SwimConfig.lan().retransmissions(members) == times


@pytest.mark.parametrize(("members", "seconds"), [(1, 30.0), (32, 30.0), (64, 60.0), (1024, 180.0)])
def test_full_exchanges_become_rarer_in_large_swarms(members: int, seconds: float) -> None:
    assert SwimConfig.lan().sync_every(members) == seconds
