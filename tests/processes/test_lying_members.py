"""Real peers with credentials, one of which lies about another: rounds go on with everyone, nobody believes it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from process_swarm import DEADLINE, Nursery, ProcessSwarm, Worker

from lepton_p2p.credentials.folder import KeysFolder

TIMES = 40
"""Every lie is told so often, to everyone."""
FORGERIES_SAID = "a member tells forged claims about others"


async def views(swarm: ProcessSwarm, workers: list[Worker]) -> list[dict[str, list[object]]]:
    return [(await swarm.call(worker, "view"))["view"] for worker in workers]


async def test_a_certified_member_that_floods_forged_claims_about_another_changes_nothing(
    nursery: Nursery, tmp_path: Path
) -> None:
    KeysFolder(tmp_path / "keys").init("lepton", "first")
    async with ProcessSwarm(nursery) as swarm:
        await swarm.grow(4, keys=str(tmp_path / "keys"))
        *honest, liar = swarm.workers
        victim = honest[1]
        everyone = {worker.peer for worker in swarm.workers}
        flood = liar.ask("flood", victim=victim.peer, times=TIMES)
        rounds = 0
        async with asyncio.timeout(DEADLINE):
            while not flood.done():
                for reply in await swarm.round():
                    assert reply["attempts"] == 1
                rounds += 1
        assert "error" not in flood.result(), flood.result()
        assert rounds > 3, "they went on meanwhile"
        async with asyncio.timeout(DEADLINE):  # until the last accusation, which was in order, has been refuted
            while not all(
                {peer for peer, (status, _) in view.items() if status == "ALIVE"} == everyone
                for view in await views(swarm, honest)
            ):
                await swarm.round()
        for worker in honest:
            reply = await swarm.call(worker, "view")
            assert set(reply["view"]) == everyone, "nobody was invented"
            assert reply["view"][victim.peer][1] <= TIMES, "raised by refuting true accusations, and by nothing else"
            assert reply["refused"] >= 7 * TIMES
            log = nursery.log(worker)
            assert log.count(FORGERIES_SAID) == 1, "said once"
            assert liar.peer[:8] in log.split(FORGERIES_SAID)[1].splitlines()[0]
            assert "a peer is gone" not in log
        for reply in await swarm.round():
            assert set(reply["members"]) == everyone
