"""What to advertise, and what may be listened on."""

from __future__ import annotations

import asyncio
import socket

import pytest

from lepton_p2p.errors import AddressError, InsecureRefused
from lepton_p2p.transport.addresses import check_exposure, expand, is_loopback, is_wildcard, resolve_advertised

LOOPBACK = ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LOCALHOST", "localhost.", "::ffff:127.0.0.1"]
PUBLIC = ["0.0.0.0", "::", "10.0.0.1", "192.168.1.5", "seed", "example.org", "localhost.example.org", "2001:db8::1", ""]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_needs_no_permission(host: str) -> None:
    assert is_loopback(host)
    check_exposure(host, insecure=False)


@pytest.mark.parametrize("host", PUBLIC)
def test_everything_else_needs_insecure(host: str) -> None:
    assert not is_loopback(host)
    check_exposure(host, insecure=True)
    with pytest.raises(InsecureRefused, match="--insecure") as caught:
        check_exposure(host, insecure=False)
    assert "\n" not in str(caught.value)


def test_wildcards() -> None:
    assert is_wildcard("0.0.0.0")
    assert is_wildcard("::")
    assert not is_wildcard("127.0.0.1")
    assert not is_wildcard("host")


async def test_a_concrete_address_is_advertised_as_it_is() -> None:
    assert await resolve_advertised("127.0.0.1:7700", seeds=["10.0.0.1:7700"]) == "127.0.0.1:7700"
    assert await resolve_advertised("myhost:7700") == "myhost:7700"


async def test_what_the_user_says_comes_first_and_may_lack_the_port() -> None:
    assert await resolve_advertised("0.0.0.0:7700", advertise="peer1:80") == "peer1:80"
    assert await resolve_advertised("0.0.0.0:7700", advertise="peer1") == "peer1:7700"
    assert await resolve_advertised("127.0.0.1:7700", advertise="[2001:db8::5]:80") == "[2001:db8::5]:80"


@pytest.mark.parametrize("advertise", ["0.0.0.0:7700", "[::]:7700", "peer1:0", "peer1:x"])
async def test_what_cannot_be_called_is_not_advertised(advertise: str) -> None:
    with pytest.raises(AddressError):
        await resolve_advertised("0.0.0.0:7700", advertise=advertise)


async def test_a_wildcard_becomes_the_address_that_routes_to_the_first_usable_seed() -> None:
    seeds = ["no-such-host.invalid:1", "127.0.0.1:7700"]
    assert await resolve_advertised("0.0.0.0:7701", seeds=seeds) == "127.0.0.1:7701"


async def test_a_wildcard_without_seeds_becomes_a_name_or_address_that_is_no_wildcard() -> None:
    told = await resolve_advertised("0.0.0.0:7701")
    assert told.endswith(":7701")
    assert not told.startswith("0.0.0.0")


async def test_a_host_name_that_means_this_machine_only_is_not_advertised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    monkeypatch.setattr("lepton_p2p.transport.addresses._ANYWHERE", ("127.0.0.2:9",))
    assert await resolve_advertised("0.0.0.0:7701") == "127.0.0.1:7701"


async def test_a_name_with_several_addresses_is_all_of_them_but_the_own(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    table = {"peer": ["10.0.0.1", "10.0.0.2", "10.0.0.3"], "seed": ["10.0.0.9"]}

    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host not in table:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in table[host]]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo, raising=False)
    assert await expand(["seed:7700", "peer:7700", "later:1"], mine="10.0.0.2:7700") == (
        "seed:7700",
        "10.0.0.1:7700",
        "10.0.0.3:7700",
        "later:1",
    )
