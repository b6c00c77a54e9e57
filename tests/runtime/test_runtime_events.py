"""Events: bounded, never blocking, everyone gets what happens after subscribing."""

from __future__ import annotations

import asyncio
import gc

from lepton_p2p.runtime.events import EventHub
from lepton_p2p.transport.values import SwarmEvent


async def collect(hub: EventHub) -> list[SwarmEvent]:
    return [event async for event in hub.subscribe()]


async def test_every_subscriber_gets_every_event_until_the_end() -> None:
    hub = EventHub()
    readers = [asyncio.ensure_future(collect(hub)) for _ in range(2)]
    await asyncio.sleep(0)
    hub.publish("joined", "a peer", peer="a" * 32)
    hub.publish("step", "step 1", values={"loss": 0.5})
    hub.close()
    for events in await asyncio.gather(*readers):
        assert [(event.kind, event.text) for event in events] == [("joined", "a peer"), ("step", "step 1")]
        assert events[1].values["loss"] == 0.5


async def test_a_slow_reader_loses_the_oldest_and_costs_a_bounded_amount() -> None:
    hub = EventHub()
    reader = asyncio.ensure_future(collect(hub))
    await asyncio.sleep(0)
    for number in range(5000):
        hub.publish("step", str(number))
    hub.close()
    events = await reader
    assert len(events) == 1000
    assert events[-1].text == "4999"


async def test_a_reader_that_goes_away_is_forgotten() -> None:
    hub = EventHub()
    reader = asyncio.ensure_future(collect(hub))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    del reader
    await asyncio.sleep(0)
    gc.collect()
    hub.publish("step", "nobody listens")
    assert not hub._subscribers


async def test_what_happens_between_subscribing_and_reading_is_not_missed() -> None:
    hub = EventHub()
    events = hub.subscribe()
    hub.publish("step", "1")
    assert (await anext(events)).text == "1"


async def test_a_closed_subscription_ends_for_whoever_waits_and_takes_nothing_more() -> None:
    hub = EventHub()
    events = hub.subscribe()
    reading = asyncio.ensure_future(anext(events, None))
    await asyncio.sleep(0)
    await events.aclose()
    hub.publish("step", "too late")
    assert await reading is None
    assert await anext(events, None) is None


async def test_who_subscribes_when_all_is_over_is_told_so() -> None:
    hub = EventHub()
    hub.close()
    assert await collect(hub) == []
