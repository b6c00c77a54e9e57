"""A model that fails on some of its data, or an optimizer that cannot step: the job's fault, told in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from all_reduce_steps import IDS, job
from fake_swarm import FakePeer, FakeSwarm

from lepton_p2p.errors import JobError
from lepton_p2p.models import Built, build
from lepton_p2p.training import train_alone


class Broken(torch.optim.SGD):
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        raise RuntimeError("no step\ntoday")


def with_failing_loss(built: Built) -> Built:
    def fail(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise IndexError("Target 5 is\nout of bounds.")

    return replace(built, loss_fn=fail)


def with_failing_step(built: Built) -> Built:
    return replace(built, make_optimizer=lambda parameters: Broken(parameters, lr=0.1))


FAILURES = [
    (with_failing_loss, "forward and backward pass failed: IndexError: Target 5 is out of bounds"),
    (with_failing_step, "optimizer's step failed: RuntimeError: no step today"),
]


@pytest.mark.parametrize(("broken", "said"), FAILURES)
def test_training_ends_with_one_line(broken: Callable[[Built], Built], said: str) -> None:
    swarm = FakeSwarm()
    swarm.found(IDS[:1])
    peer = FakePeer(swarm, IDS[0], job(), broken(build(job()))).start()
    with pytest.raises(JobError, match=said) as caught:
        peer.result()
    assert "\n" not in str(caught.value)


def test_one_process_alone_says_the_same() -> None:
    with pytest.raises(JobError, match="IndexError"):
        train_alone(job(), with_failing_loss(build(job())))
