"""Tensors in, bytes out, and back: whatever their dtype, strides and device."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_p2p.collectives.buffers import BufferPool
from lepton_p2p.collectives.operations import Op
from lepton_p2p.collectives.packing import Packed, schema_hash

REDUCED = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32]
REDUCED += [torch.int64, torch.uint8]
ANY = [*REDUCED, torch.bool, torch.complex64, torch.complex128]


@pytest.fixture
def pool() -> BufferPool:
    return BufferPool()


def flat_of(packed: Packed, root: bool = True) -> torch.Tensor:
    """What a ring of one would make of it: the contribution as bytes."""
    flat = np.zeros(packed.total, np.uint8)
    source = packed.source(0, root=0 if root else None)
    for chunk in packed.layout(1, root=0).chunks():
        source.write(chunk.start, chunk.stop, flat[chunk.start : chunk.stop].view(chunk.dtype))
    return torch.from_numpy(flat)


def some(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randint(0, 2 if dtype == torch.bool else 100, shape, generator=generator).to(dtype)


shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@st.composite
def tensor_lists(draw: st.DrawFn, dtypes: list[torch.dtype]) -> list[torch.Tensor]:
    specs = draw(st.lists(st.tuples(st.sampled_from(dtypes), shapes, st.booleans()), max_size=6))
    tensors = [some(dtype, shape, seed) for seed, (dtype, shape, _) in enumerate(specs)]
    return [t.mT if turn and t.dim() >= 2 else t for t, (_, _, turn) in zip(tensors, specs, strict=True)]


@settings(deadline=None)
@given(tensor_lists(REDUCED), st.booleans())
def test_what_is_packed_for_a_sum_is_what_is_unpacked(tensors: list[torch.Tensor], copy: bool) -> None:
    packed = Packed.pack(tensors, Op.SUM, pool=BufferPool(), copy=copy)
    result = [torch.zeros_like(tensor) for tensor in tensors]
    packed.unpack(flat_of(packed), result)
    assert packed.finite
    for got, expected in zip(result, tensors, strict=True):
        assert torch.equal(got, expected)


@settings(deadline=None)
@given(tensor_lists(ANY), st.sampled_from([Op.GATHER, Op.COPY]))
def test_what_only_moves_keeps_its_bytes(tensors: list[torch.Tensor], op: Op) -> None:
    packed = Packed.pack(tensors, op, pool=BufferPool())
    result = [torch.zeros_like(tensor) for tensor in tensors]
    packed.unpack(flat_of(packed), result)
    for got, expected in zip(result, tensors, strict=True):
        assert torch.equal(got, expected)


def test_half_precision_is_accumulated_as_float32(pool: BufferPool) -> None:
    tensors = [torch.ones(10, dtype=torch.float16), torch.ones(5, dtype=torch.bfloat16), torch.ones(3)]
    packed = Packed.pack(tensors, Op.SUM, pool=pool)
    (group,) = packed.groups
    assert (group.dtype, group.stop - group.start) == ("float32", 18 * 4)


def test_groups_are_by_dtype_and_aligned(pool: BufferPool) -> None:
    tensors = [torch.ones(3, dtype=torch.int8), torch.ones(5), torch.ones(7, dtype=torch.int8), torch.ones(2)]
    packed = Packed.pack(tensors, Op.SUM, pool=pool)
    assert [(group.dtype, group.start, group.stop) for group in packed.groups] == [
        ("float32", 0, 28),
        ("int8", 64, 74),
    ]


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("contiguous", [True, False])
def test_the_weight_of_a_mean_is_in_the_contribution(pool: BufferPool, copy: bool, contiguous: bool) -> None:
    tensor = some(torch.float32, (40, 30))
    tensor = tensor if contiguous else tensor.mT
    packed = Packed.pack([tensor], Op.MEAN, pool=pool, weight=2.5, copy=copy)
    result = [torch.zeros_like(tensor)]
    packed.unpack(flat_of(packed), result)
    torch.testing.assert_close(result[0], tensor * 2.5)


@pytest.mark.parametrize("op", [Op.SUM, Op.MAX, Op.MIN])
def test_the_weight_of_other_operations_multiplies_nothing(pool: BufferPool, op: Op) -> None:
    packed = Packed.pack([torch.arange(5)], op, pool=pool, weight=2.5)
    result = [torch.zeros(5, dtype=torch.int64)]
    packed.unpack(flat_of(packed), result)
    assert torch.equal(result[0], torch.arange(5))


IDENTITIES: list[tuple[Op, torch.dtype, Any]] = [
    (Op.SUM, torch.float32, 0.0),
    (Op.MEAN, torch.float64, 0.0),
    (Op.MAX, torch.float32, -math.inf),
    (Op.MIN, torch.float16, math.inf),
    (Op.MAX, torch.int8, -128),
    (Op.MIN, torch.int64, 2**63 - 1),
    (Op.MAX, torch.uint8, 0),
    (Op.SUM, torch.int32, 0),
]


@pytest.mark.parametrize(("op", "dtype", "identity"), IDENTITIES)
def test_a_weight_of_zero_contributes_the_identity(
    pool: BufferPool, op: Op, dtype: torch.dtype, identity: float
) -> None:
    tensor = torch.ones(10, dtype=dtype)
    packed = Packed.pack([tensor], op, pool=pool, weight=0.0)
    packed.unpack(flat_of(packed), [tensor])
    assert tensor.tolist() == [identity] * 10


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize(
    ("op", "bad", "finite"),
    [
        (Op.SUM, math.nan, False),
        (Op.SUM, math.inf, False),
        (Op.MEAN, -math.inf, False),
        (Op.MAX, math.nan, False),
        (Op.MIN, math.nan, False),
        (Op.MAX, math.inf, True),
        (Op.MIN, -math.inf, True),
    ],
)
def test_what_is_not_finite_is_flagged_and_contributes_the_identity(
    pool: BufferPool, op: Op, bad: float, finite: bool, copy: bool
) -> None:
    tensors = [torch.ones(100), torch.ones(1000)]
    tensors[1][567] = bad
    packed = Packed.pack(tensors, op, pool=pool, copy=copy)
    assert packed.finite is finite
    if not finite:
        packed.unpack(flat_of(packed), tensors)
        neutral = {Op.MAX: -math.inf, Op.MIN: math.inf}.get(op, 0.0)
        assert all(tensor.eq(neutral).all() for tensor in tensors)


@pytest.mark.parametrize("op", [Op.SUM, Op.MAX])
def test_large_finite_values_whose_sum_is_not_are_fine(pool: BufferPool, op: Op) -> None:
    packed = Packed.pack([torch.full((1000,), 3e38), torch.full((10,), -3e38)], op, pool=pool)
    assert packed.finite


def test_what_the_weight_makes_infinite_is_not_finite(pool: BufferPool) -> None:
    assert not Packed.pack([torch.tensor([3e38, 1.0])], Op.MEAN, pool=pool, weight=100.0).finite


def test_contiguous_tensors_are_read_in_place_and_others_are_not(pool: BufferPool) -> None:
    tensor = torch.zeros(8)
    lazy, eager = Packed.pack([tensor], Op.SUM, pool=pool), Packed.pack([tensor], Op.SUM, pool=pool, copy=True)
    view = lazy.source(0).view(0, 32)
    assert view is not None
    tensor[:] = 1.0
    assert view.tobytes() == torch.ones(8).numpy().tobytes()
    assert flat_of(eager).eq(0).all()


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_a_contribution_is_folded_in_across_tensors(pool: BufferPool, weight: float) -> None:
    tensors = [some(torch.float32, (n,), n) for n in (10, 1, 300, 0, 7)]
    packed = Packed.pack(tensors, Op.MEAN, pool=pool, weight=weight)
    expected = torch.cat(tensors) * weight + 1
    for cuts in ([0, 318], [0, 5, 10, 11, 200, 318], [0, 311, 318]):
        into = np.ones(318, np.float32)
        for low, high in pairwise(cuts):
            packed.source(0).fold(Op.MEAN, low * 4, high * 4, into[low:high], into[low:high])
        torch.testing.assert_close(torch.from_numpy(into), expected)


@pytest.mark.parametrize(
    ("op", "tensor", "why"),
    [
        (Op.SUM, torch.ones(2, dtype=torch.bool), "sum of torch.bool is not defined"),
        (Op.MAX, torch.ones(2, dtype=torch.complex64), "max of torch.complex64 is not defined"),
        (Op.MEAN, torch.ones(2, dtype=torch.int32), "mean of torch.int32 is not an integer"),
        (Op.SUM, torch.ones(2, 2).to_sparse(), "to_dense"),
    ],
)
def test_what_cannot_be_reduced_is_refused_plainly(pool: BufferPool, op: Op, tensor: torch.Tensor, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        Packed.pack([tensor], op, pool=pool)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_is_finite_and_not_negative(pool: BufferPool, weight: float) -> None:
    with pytest.raises(ValueError, match="a weight is finite"):
        Packed.pack([torch.ones(2)], Op.MEAN, pool=pool, weight=weight)


def test_parameters_that_require_gradients_are_written_in_place(pool: BufferPool) -> None:
    parameter = torch.nn.Parameter(torch.ones(4))
    packed = Packed.pack([parameter], Op.SUM, pool=pool)
    packed.unpack(torch.full((4,), 7.0).view(torch.uint8), [parameter])
    assert parameter.tolist() == [7.0] * 4
    assert parameter.requires_grad


def test_released_buffers_are_used_again(pool: BufferPool) -> None:
    first = Packed.pack([torch.ones(100)], Op.SUM, pool=pool, copy=True)
    view = first.source(0).view(0, 400)
    assert view is not None
    first.release()
    second = Packed.pack([torch.zeros(100)], Op.SUM, pool=pool, copy=True)
    assert second.total == 400
    assert view.tobytes() == bytes(400), "the second wrote where the first was"


def test_the_pool_keeps_a_bounded_number_of_buffers(pool: BufferPool) -> None:
    buffers = [pool.take(1000) for _ in range(10)]
    for buffer in buffers:
        pool.give(buffer)
    again = [pool.take(1000) for _ in range(10)]
    known = {buffer.data_ptr() for buffer in buffers}
    assert sum(buffer.data_ptr() in known for buffer in again[:4]) == 4
    pool.give(again[0])
    pool.give(again[0])
    assert pool.take(1000).data_ptr() != pool.take(1000).data_ptr(), "given twice, taken once"


def test_the_schema_tells_operation_names_dtypes_and_shapes_apart() -> None:
    tensors = [torch.ones(2, 3), torch.ones(4)]
    hashes = {
        schema_hash(tensors, Op.SUM),
        schema_hash(tensors, Op.MEAN),
        schema_hash(tensors[::-1], Op.SUM),
        schema_hash([torch.ones(3, 2), torch.ones(4)], Op.SUM),
        schema_hash([torch.ones(2, 3).double(), torch.ones(4)], Op.SUM),
        schema_hash(tensors, Op.SUM, ["a", "b"]),
        schema_hash(tensors, Op.SUM, ["b", "a"]),
        schema_hash([], Op.SUM),
    }
    assert len(hashes) == 8
    assert schema_hash([torch.zeros(2, 3), torch.zeros(4)], Op.SUM) in hashes
    with pytest.raises(ValueError, match="1 names for 2 tensors"):
        schema_hash(tensors, Op.SUM, ["a"])


def test_layouts_follow_the_operation(pool: BufferPool) -> None:
    tensors = [torch.ones(100)]
    reduced = Packed.pack(tensors, Op.SUM, pool=pool)
    assert (reduced.layout(4).total, reduced.reduce_hops(4)) == (400, 3)
    gathered = Packed.pack(tensors, Op.GATHER, pool=pool)
    assert (gathered.layout(4).total, gathered.reduce_hops(4)) == (4 * 448, 0)
    sent = Packed.pack(tensors, Op.COPY, pool=pool)
    assert [segment[0].nbytes for segment in sent.layout(3, root=1).segments] == [0, 448, 0]
    assert sent.source(1, root=1).nbytes == 448
    assert sent.source(0, root=1).nbytes == 0
    with pytest.raises(ValueError, match="needs a root"):
        sent.layout(3)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_tensors_are_staged_through_pinned_memory(pool: BufferPool) -> None:
    tensors = [some(torch.float32, (1000, 100)).cuda(), some(torch.bfloat16, (77,)).cuda().mul_(2)]
    packed = Packed.pack(tensors, Op.MEAN, pool=pool, weight=3.0)
    assert packed._flat is not None
    assert packed._flat.is_pinned()
    result = [torch.zeros_like(tensor) for tensor in tensors]
    packed.unpack(flat_of(packed), result)
    torch.testing.assert_close(result[0], tensors[0] * 3)
    torch.testing.assert_close(result[1], tensors[1] * 3)
    packed.release()
