"""Where jobs come from: submitted to an idle swarm, or a Python file that every peer must have."""

from __future__ import annotations

import hashlib

from jobs_for_peers import small_job, tally_job
from peer_processes import TrainingSwarm

from lepton_p2p.errors import JobMismatch


async def test_a_job_that_is_submitted_to_an_idle_swarm_is_trained_by_all(swarm: TrainingSwarm) -> None:
    first = await swarm.start()
    others = [await swarm.start("--join", first.address) for _ in range(2)]
    submitted = await swarm.command("submit", others[0].address, str(small_job(swarm.folder, steps=200)))
    assert submitted.status == 0, submitted
    assert submitted.out.startswith("the swarm trains small (job ")
    await swarm.done([first, *others])
    for peer in swarm.peers:
        assert peer.final is not None
        assert peer.final["step"] == 200

    again = await swarm.command("submit", first.address, str(small_job(swarm.folder, steps=200)))
    assert again.status == 0, "the same job is not another one"
    different = await swarm.command("submit", first.address, str(small_job(swarm.folder, steps=10, name="other")))
    assert different.status == JobMismatch.exit_code
    assert different.out == ""
    assert "this swarm runs job small" in different.error_line


async def test_a_python_file_must_be_the_same_everywhere(swarm: TrainingSwarm) -> None:
    file = tally_job(swarm.folder, steps=1_000_000)
    (swarm.folder / "other").mkdir()
    changed = tally_job(swarm.folder / "other", steps=1_000_000)
    changed.write_text(changed.read_text() + "\n# not the same\n")
    copy = swarm.folder / "other" / "copy" / file.name
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    first = await swarm.start("--job", str(file))

    refused = await swarm.command("--listen", "127.0.0.1:0", "--join", first.address, "--job", str(changed))
    assert refused.status == JobMismatch.exit_code
    for known in (file, changed):
        assert hashlib.sha256(known.read_bytes()).hexdigest() in refused.error_line

    without = await swarm.command("--listen", "127.0.0.1:0", "--join", first.address)
    assert without.status != 0
    assert "--job" in without.error_line
    assert file.name in without.error_line

    same = await swarm.start("--join", first.address, "--job", str(copy))
    await swarm.together([first, same])
    await swarm.trained([first, same], 3)
