"""States to write and read."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from lepton_p2p.identity import PeerId
from lepton_p2p.replication.cursor import Cursor
from lepton_p2p.training.checkpoints import Place, Record
from lepton_p2p.training.manifest import DTYPES, lay_out
from lepton_p2p.training.snapshots import Snapshot, capture
from lepton_p2p.training.state import raw

JOB = "ab" * 32
CURSOR = Cursor(100, 1, 10, position=10, used=10, step=3, work=5, samples=10, claimants=(PeerId("a" * 32),))


def trained(steps: int = 3, width: int = 7) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and an optimizer that have done something, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.Linear(width, 2))
        x = torch.randn(16, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model, optimizer


def snapshot(steps: int = 3, width: int = 7) -> Snapshot:
    return capture(*trained(steps, width), CURSOR, round=7, extra={"shuffle": True})


def place(step: int = 3) -> Place:
    return Place(step=step, samples=10 * step, pass_number=step // 10, work=2 * step)


names = st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
metas = st.dictionaries(st.text(max_size=9), values, max_size=4)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Any tensors: all dtypes, scalars, empty ones, any bytes in them."""
    named: list[tuple[str, Tensor]] = []
    for name in draw(st.lists(names, max_size=5, unique=True)):
        dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
        tensor = torch.zeros(draw(shapes), dtype=dtype)
        if dtype is torch.bool:
            tensor.fill_(draw(st.booleans()))
        elif tensor.numel():
            size = tensor.numel() * tensor.element_size()
            data = bytearray(draw(st.binary(min_size=size, max_size=size)))
            tensor = torch.frombuffer(data, dtype=dtype).reshape(tensor.shape)
        named.append((name, tensor))
    table, total = lay_out(named)
    image = torch.zeros(total, dtype=torch.uint8)
    for spec, (_, tensor) in zip(table, named, strict=True):
        image[spec.offset : spec.offset + spec.nbytes].copy_(raw(tensor))
    meta = Record.model_construct(meta=draw(metas)).meta_json
    return Snapshot(draw(st.integers(0, 2**62)), table, meta, image)


places = st.builds(Place, *[st.integers(0, 2**62)] * 4)
