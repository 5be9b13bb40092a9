"""Maps of equal shape become one batched product, and the numbers stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from abnn_serve.runtime.rewrites.join_maps import join_maps
from tests.export.test_passes import check, kinds, model, noise


def maps(number: int, rank: int | None, **changed: np.ndarray) -> ir.Model:
    """`number` maps of (N, 6) codes to flattened gamma and beta of two channels."""
    chain = "h{i} = Gemm<transB = 1>(c{i}, v{i})\n p{i} = Gemm<transB = 1>(h{i}, u{i}, b{i})\n"
    text = "".join(
        (chain if rank else "p{i} = Gemm<transB = 1>(c{i}, u{i}, b{i})\n").format(i=i)
        + f"x{i}, y{i} = Split<axis = 1, num_outputs = 2>(p{i})\n g{i} = Reshape(x{i}, flat)\n"
        f"h_{i} = Reshape(y{i}, flat)\n gamma{i} = Neg(g{i})\n beta{i} = Neg(h_{i})\n"
        for i in range(number)
    )
    codes = ", ".join(f"c{i}" for i in range(number))
    outputs = ", ".join(f"float[M] gamma{i}, float[M] beta{i}" for i in range(number))
    numbers = {f"u{i}": noise(4, rank or 6, seed=i) for i in range(number)}
    numbers |= {f"v{i}": noise(rank, 6, seed=10 + i) for i in range(number) if rank}
    numbers |= {f"b{i}": noise(4, seed=20 + i) for i in range(number)} | changed
    return model(
        f"g (float[N, {6 * number}] x) => ({outputs}) <int64[1] flat = {{-1}}> "
        f"{{ {codes} = Split<axis = 1, num_outputs = {number}>(x)\n {text} }}",
        **numbers,
    )


@pytest.mark.parametrize(("rank", "products"), [(None, 1), (3, 2)])
def test_maps_of_one_shape_become_one_product(rank, products):
    built = maps(4, rank)
    check(join_maps, built, 1e-4, x=noise(5, 24))
    assert (kinds(built)["Gemm"], kinds(built)["MatMul"], kinds(built)["Split"]) == (0, products, 1)


def test_maps_beside_one_of_another_shape_keep_their_codes():
    built = maps(5, 3, u0=noise(4, 2), v0=noise(2, 6))
    check(join_maps, built, 1e-4, x=noise(2, 30))
    assert (kinds(built)["Gemm"], kinds(built)["MatMul"]) == (2, 2)


def test_two_maps_and_maps_of_different_shapes_are_left_alone():
    for built in (maps(2, None), maps(3, 3, u1=noise(4, 2), v1=noise(2, 6))):
        before = kinds(built)
        join_maps(built)
        assert kinds(built) == before


def test_a_map_whose_product_another_node_reads_is_left_alone():
    built = maps(3, None)
    node = next(node for node in built.graph if node.op_type == "Gemm")
    extra = ir.node("Neg", [node.outputs[0]])
    extra.outputs[0].name, extra.outputs[0].dtype = "extra", ir.DataType.FLOAT
    built.graph.append(extra)
    built.graph.outputs.append(extra.outputs[0])
    before = kinds(built)
    check(join_maps, built, x=noise(2, 18))
    assert kinds(built) == before
