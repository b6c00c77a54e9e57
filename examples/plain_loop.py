"""A plain PyTorch loop that trains in a swarm: four changed lines, marked with (1) to (4).

Start it in one terminal, and again (as often as you like) in others::

    python examples/plain_loop.py
    python examples/plain_loop.py 127.0.0.1:7700

Stop any of them at any time; the others go on, and end with the same parameters, bit by bit.
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.utils.data import TensorDataset

import lepton_p2p as lp


def main() -> None:
    swarm = lp.init_distributed(join=sys.argv[1:])  # (1)
    print(f"this peer listens on {swarm.address}")

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 32, generator=generator)
    y = (x @ torch.randn(32, 10, generator=generator)).argmax(dim=1)
    dataset = TensorDataset(x, y)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = swarm.optimizer(optimizer, model)  # (2)
    loader = swarm.dataloader(dataset, batch_size=32)  # (3)

    for epoch in loader.passes(20):  # (4): for epoch in range(20)
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
        print(f"pass {epoch + 1}: {len(swarm.members())} peers, loss of the last batch {loss.item():.3f}")

    checksum = sum(parameter.double().sum().item() for parameter in model.parameters())
    print(f"sum of all parameters {checksum!r}")


if __name__ == "__main__":
    main()
