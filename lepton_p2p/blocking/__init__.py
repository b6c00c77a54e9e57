"""The blocking face, for programs with a plain training loop: at most four changed lines.

::

    swarm = lp.init_distributed(join=["peer1:7700"])
    optimizer = swarm.optimizer(optimizer, model)      # step(): one atomic round, then the optimizer's own step
    loader = swarm.dataloader(dataset, batch_size=32)  # this peer's share, follows joins and failures
    for epoch in loader.passes(3):                     # range(3) would do too, see SwarmLoader.passes
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()

The peer runs on an event loop in a background thread; nothing here needs, or minds, a loop of the program's own.
"""

from lepton_p2p.blocking.start import init_distributed, initdistributed
from lepton_p2p.blocking.swarm import Swarm

__all__ = ["Swarm", "init_distributed", "initdistributed"]
