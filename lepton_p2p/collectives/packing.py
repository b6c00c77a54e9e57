"""Tensors to one flat buffer and back.

For operations that reduce, elements lie grouped by the dtype in which they are accumulated: float16 and bfloat16 as
float32 (a sum of many in 8 or 11 bits of precision would lose the small ones), everything else as it is.  That costs
twice the bytes for half-precision tensors; codecs are the place to save them.  For broadcast and gather the bytes
travel as they are.  Groups, and in the latter case tensors, start at multiples of 64 bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import xxhash

from lepton_p2p.collectives.buffers import BufferPool
from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.sources import FlatSource, IdentitySource, Piece, PiecesSource, Source
from lepton_p2p.rounds.aggregation import Aggregation
from lepton_p2p.rounds.layout import CHUNK_BYTES, Group, Layout
from lepton_p2p.steps import Steps, finish

_ALIGN = 64
_STEP = 4 << 20
"""Bytes that are looked at or copied in one step: about half a millisecond."""
_ACCUMULATE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.int8: torch.int8,
    torch.int16: torch.int16,
    torch.int32: torch.int32,
    torch.int64: torch.int64,
    torch.uint8: torch.uint8,
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where tensor number ``tensor`` lies in the flat buffer, as elements of ``dtype``."""

    tensor: int
    dtype: torch.dtype
    start: int
    stop: int


def schema_hash(
    tensors: Sequence[torch.Tensor],
    op: Op,
    names: Sequence[str] | None = None,
    aggregation: Aggregation | None = None,
) -> int:
    """XXH3-64 of operation, names, dtypes and shapes: equal on two peers if their inputs fit together."""
    labels = names if names is not None else [""] * len(tensors)
    if len(labels) != len(tensors):
        raise ValueError(f"{len(labels)} names for {len(tensors)} tensors")
    rows = [f"{name!r} {tensor.dtype} {list(tensor.shape)}" for name, tensor in zip(labels, tensors, strict=True)]
    how = op.value if aggregation is None else f"{op.value} {aggregation.schema}"
    return xxhash.xxh3_64_intdigest("\n".join([f"1 {how}", *rows]).encode())


@dataclass(frozen=True, slots=True)
class Packed:
    """One peer's contribution to a round.

    groups: what lies where in the flat buffer (see ``Layout``), total: its size in bytes.  finite: False if the
    tensors held NaN or Inf (max and min: NaN); the contribution is then the operation's identity, so that it adds
    nothing.  schema: see :func:`schema_hash`.  aggregation: what stands in the place of a mean, None if nothing does.
    """

    op: Op
    total: int
    groups: tuple[Group, ...]
    finite: bool
    schema: int
    _places: tuple[_Place, ...]
    _own: Source
    _flat: torch.Tensor | None
    _pool: BufferPool
    aggregation: Aggregation | None = None

    @classmethod
    def pack(
        cls,
        tensors: Sequence[torch.Tensor],
        op: Op,
        *,
        pool: BufferPool,
        weight: float = 1.0,
        names: Sequence[str] | None = None,
        copy: bool = False,
        aggregation: Aggregation | None = None,
    ) -> Packed:
        """Prepare ``tensors`` (any device, any strides) as input of a round; they are only read.

        Contiguous CPU tensors that are accumulated in their own dtype are read in place, while the round runs: they
        must not change until it is decided.  Others, or all with ``copy``, are copied into a buffer of ``pool``
        (CUDA tensors through pinned memory).  ``weight`` (finite, at least 0) multiplies a mean's contribution here,
        the division comes with the result; with weight 0 every operation that reduces gets its identity and the
        tensors are not looked at.  With an ``aggregation`` instead of the mean every weight above 0 is the same, and
        contributions are what they are.  Raises ``TypeError`` for dtypes that the operation cannot take,
        ``ValueError`` for the weight, and for an aggregation of anything but a mean.
        """
        return finish(
            cls.packing(tensors, op, pool=pool, weight=weight, names=names, copy=copy, aggregation=aggregation)
        )

    @classmethod
    def packing(
        cls,
        tensors: Sequence[torch.Tensor],
        op: Op,
        *,
        pool: BufferPool,
        weight: float = 1.0,
        names: Sequence[str] | None = None,
        copy: bool = False,
        aggregation: Aggregation | None = None,
    ) -> Steps[Packed]:
        """:meth:`pack` step by step; the steps are short if the tensors are read in place (see :func:`in_place`)."""
        if not 0.0 <= weight < math.inf:
            raise ValueError(f"a weight is finite and at least 0, not {weight}")
        if aggregation is not None and op is not Op.MEAN:
            raise ValueError(f"{aggregation.rule} takes the place of a mean, there is none in op={op.value!r}")
        votes = 0 if aggregation is None else aggregation.votes
        if votes > len(tensors):
            raise ValueError(f"{votes} votes among {len(tensors)} tensors")
        places, groups = _plan(tensors, op, votes)
        total = max((group.stop for group in groups), default=0)
        schema = schema_hash(tensors, op, names, aggregation)
        nothing = IdentitySource(op, total)
        if op.reduces and weight == 0.0:
            return cls(op, total, groups, True, schema, places, nothing, None, pool, aggregation)
        factor = weight if op is Op.MEAN and aggregation is None else 1.0
        if op.reduces and not copy and all(_readable(tensors[place.tensor], place) for place in places):
            values = [tensors[place.tensor].detach().view(-1) for place in places]
            for part in itertools.chain.from_iterable(map(_parts, values)):
                yield
                if not _is_sound(part, op, factor):
                    return cls(op, total, groups, False, schema, places, nothing, None, pool, aggregation)
            pieces = [Piece(place.start, one.numpy()) for place, one in zip(places, values, strict=True)]
            own = PiecesSource(pieces, total, factor)
            return cls(op, total, groups, True, schema, places, own, None, pool, aggregation)
        flat = pool.take(total, pinned=any(tensor.is_cuda for tensor in tensors))
        _copy_in(flat, tensors, places, factor)
        if op.reduces and not all(_is_sound(_typed(flat, group), op, 1.0) for group in groups):
            pool.give(flat)
            return cls(op, total, groups, False, schema, places, nothing, None, pool, aggregation)
        return cls(op, total, groups, True, schema, places, FlatSource(flat.numpy()), flat, pool, aggregation)

    @property
    def votes_start(self) -> int:
        """Where the tensors that are voted on begin in the buffer (see ``Aggregation``)."""
        votes = 0 if self.aggregation is None else self.aggregation.votes
        first_vote = max((place.tensor for place in self._places), default=-1) + 1 - votes
        return min((place.start for place in self._places if place.tensor >= first_vote), default=self.total)

    def release(self) -> None:
        """Hand the copy, if there is one, back to the pool: the round is decided, no attempt reads it any more.

        Once only, and nothing of this object but :meth:`unpack` may be used afterwards.
        """
        if self._flat is not None:
            self._pool.give(self._flat)

    def layout(self, world: int, *, root: int | None = None, chunk_bytes: int = CHUNK_BYTES) -> Layout:
        """How the round's buffer is cut in a ring of ``world``; ``root``: the rank that a broadcast starts from.

        For a broadcast the buffer is the root's; for a gather it is one slot of ``total`` bytes per rank.
        """
        if self.op.reduces:
            return Layout.even(self.groups, world, chunk_bytes=chunk_bytes)
        if self.op is Op.GATHER:
            return Layout.slots([self.total] * world, chunk_bytes=chunk_bytes)
        if root is None or not 0 <= root < world:
            raise ValueError(f"a broadcast in a ring of {world} needs a root in it, not {root}")
        return Layout.slots([self.total if rank == root else 0 for rank in range(world)], chunk_bytes=chunk_bytes)

    def reduce_hops(self, world: int) -> int:
        """What ``RingProgress`` needs to know of the operation."""
        return world - 1 if self.op.reduces else 0

    def source(self, rank: int, *, root: int | None = None) -> Source:
        """What the peer of ``rank`` puts in: all but the root put nothing into a broadcast."""
        return IdentitySource(self.op, 0) if self.op is Op.COPY and rank != root else self._own

    def unpack(self, result: torch.Tensor, tensors: Sequence[torch.Tensor], *, slot: int = 0) -> None:
        """Copy ``result`` (flat uint8; for a gather the slot of rank ``slot``) into ``tensors``, in place.

        ``tensors`` must have the shapes and dtypes of those that were packed; gradients are not recorded.
        """
        finish(self.unpacking(result, tensors, slot=slot))

    def unpacking(self, result: torch.Tensor, tensors: Sequence[torch.Tensor], *, slot: int = 0) -> Steps[None]:
        """:meth:`unpack` step by step; the steps are short for tensors that could be read in place."""
        flat = result[slot * self.total : (slot + 1) * self.total]
        for place in self._places:
            tensor = tensors[place.tensor].detach()
            source = _view(flat, place, tensor.shape)
            whole = not _readable(tensor, place)
            pairs = [(tensor, source)] if whole else zip(_parts(tensor.view(-1)), _parts(source.view(-1)), strict=True)
            for into, part in pairs:
                yield
                into.copy_(part)


def in_place(tensors: Sequence[torch.Tensor], op: Op) -> bool:
    """Whether ``tensors`` are read, and results written, where they lie: in steps of less than a millisecond."""
    return op.reduces and all(_readable(tensors[place.tensor], place) for place in _plan(tensors, op)[0])


def _parts(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """A one-dimensional tensor in parts of at most 4 MiB."""
    stride = max(1, _STEP // values.element_size())
    for start in range(0, values.numel(), stride):
        yield values[start : start + stride]


def _readable(tensor: torch.Tensor, place: _Place) -> bool:
    """Whether the tensor's own memory is what would be copied."""
    return tensor.device.type == "cpu" and tensor.dtype == place.dtype and tensor.is_contiguous()


def _copy_in(flat: torch.Tensor, tensors: Sequence[torch.Tensor], places: Sequence[_Place], weight: float) -> None:
    with torch.no_grad():
        for place in places:
            tensor = tensors[place.tensor].detach()
            _view(flat, place, tensor.shape).copy_(tensor, non_blocking=tensor.is_cuda)
        for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        if weight != 1.0:
            for place in places:
                _view(flat, place, tensors[place.tensor].shape).mul_(weight)


def _is_sound(values: torch.Tensor, op: Op, weight: float) -> bool:
    """Whether ``weight * values`` is finite everywhere (max and min: not NaN)."""
    if not values.is_floating_point() or not values.numel():
        return True
    # A NaN or an infinity survives every sum, so that one pass without a temporary is enough for almost all inputs.
    if weight <= 1.0 and torch.isfinite(values.sum()):
        return True
    low, high = torch.aminmax(values)
    if op in (Op.MAX, Op.MIN):
        return not bool(torch.isnan(low))
    return bool(torch.isfinite(low * weight) and torch.isfinite(high * weight))


def _plan(tensors: Sequence[torch.Tensor], op: Op, votes: int = 0) -> tuple[tuple[_Place, ...], tuple[Group, ...]]:
    """Where everything goes; the same on every peer with the same schema.  The last ``votes`` tensors come last."""
    places: list[_Place] = []
    groups: list[Group] = []
    if not op.reduces:
        end = 0
        for number, tensor in enumerate(tensors):
            _check(tensor)
            start = _aligned(end)
            end = start + tensor.numel() * tensor.element_size()
            places.append(_Place(number, tensor.dtype, start, end))
        return tuple(places), (Group("uint8", 1, 0, _aligned(end)),)
    wanted = [_accumulator(tensor, op) for tensor in tensors]
    first_vote = len(tensors) - votes
    end = 0
    for late, dtype in itertools.product((False, True) if votes else (False,), dict.fromkeys(_ACCUMULATE.values())):
        start = end = _aligned(end)
        for number, tensor in enumerate(tensors):
            if wanted[number] is dtype and (number >= first_vote) is late:
                places.append(_Place(number, dtype, end, end + tensor.numel() * dtype.itemsize))
                end = places[-1].stop
        if end > start:
            groups.append(Group(str(dtype).removeprefix("torch."), dtype.itemsize, start, end))
    return tuple(places), tuple(groups)


def _check(tensor: torch.Tensor) -> None:
    if tensor.layout != torch.strided:
        raise TypeError(f"a {tensor.layout} tensor cannot travel: convert it with .to_dense()")


def _accumulator(tensor: torch.Tensor, op: Op) -> torch.dtype:
    _check(tensor)
    dtype = _ACCUMULATE.get(tensor.dtype)
    if dtype is None:
        known = ", ".join(str(one).removeprefix("torch.") for one in _ACCUMULATE)
        raise TypeError(f"{op.value} of {tensor.dtype} is not defined: convert the tensor to one of {known}")
    if op is Op.MEAN and not dtype.is_floating_point:
        raise TypeError(f"the mean of {tensor.dtype} is not an integer: use op='sum', or convert to a float dtype")
    return dtype


def _aligned(position: int) -> int:
    return -(-position // _ALIGN) * _ALIGN


def _typed(flat: torch.Tensor, group: Group) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, group.dtype)
    return flat[group.start : group.stop].view(dtype)


def _view(flat: torch.Tensor, place: _Place, shape: torch.Size) -> torch.Tensor:
    if place.start == place.stop:
        return torch.empty(shape, dtype=place.dtype)  # an empty buffer that came by way of NumPy has no usable stride
    return flat[place.start : place.stop].view(place.dtype).view(shape)
