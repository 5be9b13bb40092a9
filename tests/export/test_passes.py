"""Each rule: what it rewrites, that the numbers stay, and what it leaves alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from abnn_serve.export.graph import export_stages
from abnn_serve.export.pass_timing import measure_gains
from abnn_serve.export.passes import PASSES
from abnn_serve.export.passes.adaptive import fuse_adaptive_layers
from abnn_serve.export.passes.constants import fold_constants
from abnn_serve.export.passes.join_codes import join_codes
from abnn_serve.export.passes.pixels import fold_pixel_scale
from abnn_serve.export.passes.running import fold_running_statistics
from abnn_serve.export.passes.statistics import compute_statistics_in_one_pass

HEAD = '<ir_version: 10, opset_import: ["": 20]>\n'
STATISTICS = """
    flat{i} = Reshape({x}, shape)
    m{i} = ReduceMean<keepdims = 0>(flat{i}, last)
    mu{i} = Unsqueeze(m{i}, last)
    d{i} = Sub(flat{i}, mu{i})
    p{i} = Pow(d{i}, two)
    v{i} = ReduceMean<keepdims = 0>(p{i}, last)
"""
DEVIATION = "e{i} = Add(v{i}, eps)\n s{i} = Sqrt(e{i})\n"
CONSTANTS = "int64[3] shape = {-1, 4, 25}, int64[1] last = {2}, float two = {2.0}, float eps = {0.00001}"


def model(text: str, **numbers: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(HEAD + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in numbers.items())
    onnx.checker.check_model(proto)
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))


def run(model: ir.Model, **feed: np.ndarray) -> list[np.ndarray]:
    data = ir.serde.serialize_model(model).SerializeToString()
    return ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feed)


def kinds(model: ir.Model) -> Counter:
    return Counter(node.op_type for node in model.graph)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 2 + 1).astype(np.float32)


def check(rewrite, built: ir.Model, tolerance: float = 1e-5, **feed: np.ndarray) -> Counter:
    before, old = run(built, **feed), kinds(built)
    rewrite(built)
    for expected, found in zip(before, run(built, **feed), strict=True):
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)
    return kinds(built) - old


def adaptive(shape: str = "N, 4, 5, 5") -> ir.Model:
    return model(
        f"""g (float[{shape}] x, float[N, 4] gamma, float[N, 4] beta) => (float[{shape}] y)
        <{CONSTANTS}, int64[2] spatial = {{2, 3}}> {{ {STATISTICS.format(i=0, x="x")} {DEVIATION.format(i=0)}
        r = Reciprocal(s0)
        scale = Mul(gamma, r)
        t = Mul(m0, scale)
        shift = Sub(beta, t)
        scale4 = Unsqueeze(scale, spatial)
        shift4 = Unsqueeze(shift, spatial)
        z = Mul(x, scale4)
        y = Add(z, shift4) }}"""
    )


def test_an_adaptive_layer_becomes_one_instance_normalisation_of_every_sample_alone():
    built = adaptive()
    new = check(fuse_adaptive_layers, built, x=noise(3, 4, 5, 5), gamma=noise(3, 4, seed=1), beta=noise(3, 4, seed=2))
    assert new["InstanceNormalization"] == 1
    assert not {"ReduceMean", "Pow", "Sqrt"} & set(kinds(built))


def test_an_adaptive_layer_of_unknown_size_is_left_alone():
    built = adaptive("N, 4, H, W")
    fuse_adaptive_layers(built)
    assert kinds(built)["InstanceNormalization"] == 0


def taps(number: int = 1, *, centred: bool = True) -> ir.Model:
    """`number` tapped maps one after the other, and their codes."""
    text = "".join(
        f"{STATISTICS.format(i=i, x=f'x{i}')} {DEVIATION.format(i=i)} c{i} = Concat<axis = 1>(m{i}, s{i})\n"
        f"n{i} = Sub(c{i}, center)\n out{i} = Neg(n{i})\n x{i + 1} = Relu(x{i})\n"
        for i in range(number)
    )
    outputs = ", ".join(f"float[N, 8] out{i}" for i in range(number))
    center = np.linspace(-1, 1, 8, dtype=np.float32) * bool(centred)
    return model(f"g (float[N, 4, 5, 5] x0) => ({outputs}) <{CONSTANTS}> {{ {text} }}", center=center)


def test_statistics_are_taken_in_one_pass():
    built = taps()
    new = check(compute_statistics_in_one_pass, built, x0=noise(3, 4, 5, 5))
    assert new["GlobalAveragePool"] == 2
    assert "ReduceMean" not in kinds(built)


def test_the_variance_of_a_constant_map_stays_zero():
    built = taps(centred=False)
    compute_statistics_in_one_pass(built)
    (code,) = run(built, x0=np.full((1, 4, 5, 5), 7.3, np.float32))
    assert (-code[:, 4:] < 0.01).all()


def test_statistics_over_another_axis_are_left_alone():
    built = taps()
    built.graph.initializers["last"].const_value = ir.tensor(np.asarray([1], np.int64))
    compute_statistics_in_one_pass(built)
    assert "GlobalAveragePool" not in kinds(built)


def test_codes_are_finished_together():
    built = taps(3)
    compute_statistics_in_one_pass(built)
    separate = kinds(built)
    check(join_codes, built, x0=noise(2, 4, 5, 5))
    assert (separate["Sqrt"], kinds(built)["Sqrt"]) == (3, 1)
    assert (separate["Concat"], kinds(built)["Concat"]) == (3, 2)
    assert (separate["Sub"], kinds(built)["Sub"]) == (6, 2)


def test_a_code_that_waits_for_another_is_left_alone():
    text = f"""{STATISTICS.format(i=0, x="x")} {DEVIATION.format(i=0)} c0 = Concat<axis = 1>(m0, s0)
        mean4 = Unsqueeze(m0, spatial)
        w = Unsqueeze(s0, spatial)
        x1 = Mul(x, w)
        {STATISTICS.format(i=1, x="x1")} {DEVIATION.format(i=1)} c1 = Concat<axis = 1>(m1, s1)
        first = ReduceMean<keepdims = 1>(c0, one)
        c2 = Add(c1, first)
        x2 = Mul(x, mean4)
        {STATISTICS.format(i=2, x="x2")} {DEVIATION.format(i=2)} c3 = Concat<axis = 1>(m2, s2)
        c4 = Neg(c3)"""
    built = model(
        f"g (float[N, 4, 5, 5] x) => (float[N, 8] c2, float[N, 8] c4) <{CONSTANTS}, int64[2] spatial = {{2, 3}}, "
        f"int64[1] one = {{1}}> {{ {text} }}"
    )
    compute_statistics_in_one_pass(built)
    check(join_codes, built, x=noise(2, 4, 5, 5))


MAP = """g (float[N, 6] code) => (float[N, 2] gamma, float[N, 2] beta) {{
    d = Sub(code, center)
    n = Div(d, scale)
    {product}
    a, b = Split<axis = 1, num_outputs = 2>(p)
    g1 = Add(ones, a)
    b1 = Add(b, zeros)
    gamma = Neg(g1)
    beta = Neg(b1) }}"""
STATIC = {"center": noise(6), "scale": np.abs(noise(6, seed=1)) + 0.1, "ones": noise(2, seed=2), "zeros": noise(2)}


def test_a_map_takes_in_its_scale_and_its_static_part():
    built = model(MAP.format(product="p = Gemm<transB = 1>(n, matrix)"), matrix=noise(4, 6), **STATIC)
    check(fold_constants, built, 1e-4, code=noise(5, 6, seed=3))
    assert kinds(built) == {"Sub": 1, "Gemm": 1, "Split": 1, "Neg": 2}


def test_a_map_of_bounded_rank_takes_them_in_at_its_two_ends():
    product = "h = Gemm<transB = 1>(n, down)\n p = Gemm<transB = 1>(h, matrix)"
    built = model(MAP.format(product=product), down=noise(3, 6), matrix=noise(4, 3), **STATIC)
    check(fold_constants, built, 1e-4, code=noise(5, 6, seed=3))
    assert kinds(built) == {"Sub": 1, "Gemm": 2, "Split": 1, "Neg": 2}


def test_a_computed_scale_is_not_absorbed():
    text = MAP.format(product="p = Gemm<transB = 1>(n, matrix)").replace(
        "(float[N, 6] code)", "(float[N, 6] code, float[6] scale)"
    )
    built = model(text, matrix=noise(4, 6), **{k: v for k, v in STATIC.items() if k != "scale"})
    check(fold_constants, built, code=noise(5, 6), scale=STATIC["scale"])
    assert kinds(built)["Div"] == 1


def conditional(order: str = "a, b", reader: str = "") -> ir.Model:
    """A pooled map behind its running statistics, scaled and shifted by a map of a code."""
    numbers = {name: noise(4, seed=i) for i, name in enumerate(("scale", "offset", "mean"))}
    more = ", float[N, 4, 3, 3] also" if reader else ""
    return model(
        f"""g (float[N, 4, 6, 6] x, float[N, 6] code) => (float[N, 4, 3, 3] y{more})
        <int64[2] spatial = {{2, 3}}> {{
        pooled = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
        z = BatchNormalization<epsilon = 0.001>(pooled, scale, offset, mean, variance)
        p = Gemm<transB = 1>(code, matrix, bias)
        {order} = Split<axis = 1, num_outputs = 2>(p)
        gamma = Unsqueeze(a, spatial)
        beta = Unsqueeze(b, spatial)
        scaled = Mul(z, gamma)
        y = Add(scaled, beta)
        {reader} }}""",
        **numbers,
        variance=np.abs(noise(4, seed=3)) + 0.1,
        matrix=noise(8, 6, seed=4),
        bias=noise(8, seed=5),
    )


def test_running_statistics_that_no_convolution_took_go_into_the_map():
    built = conditional()
    check(fold_running_statistics, built, 1e-4, x=noise(3, 4, 6, 6), code=noise(3, 6, seed=1))
    assert kinds(built) == {"MaxPool": 1, "Gemm": 1, "Split": 1, "Unsqueeze": 2, "Mul": 1, "Add": 1}


@pytest.mark.parametrize("changed", [{"order": "b, a"}, {"reader": "also = Neg(z)"}, {"reader": "also = Neg(scaled)"}])
def test_running_statistics_that_are_read_elsewhere_or_in_another_order_are_left_alone(changed):
    built = conditional(**changed)
    check(fold_running_statistics, built, x=noise(3, 4, 6, 6), code=noise(3, 6, seed=1))
    assert kinds(built)["BatchNormalization"] == 1


PIXELS = """g (float[N, 3, 6, 6] x) => (float[N, 2, 6, 6] y, float[N, 2, 6, 6] w) {
    a = Div(x, level)
    b = Sub(a, mean)
    c = Div(b, std)
    y = Conv<pads = [1, 1, 1, 1]>(c, first, bias)
    w = Conv<pads = [1, 1, 1, 1]>(c, second) }"""


def pixels(mean: np.ndarray) -> ir.Model:
    return model(
        PIXELS,
        level=np.float32(255),
        mean=mean,
        std=np.asarray([0.2, 0.3, 0.4], np.float32).reshape(1, 3, 1, 1),
        first=noise(2, 3, 3, 3),
        second=noise(2, 3, 3, 3, seed=1),
        bias=noise(2),
    )


def test_both_first_convolutions_absorb_the_pixel_scale_and_share_one_subtraction_borders_included():
    built = pixels(np.asarray([0.4, 0.5, 0.6], np.float32).reshape(1, 3, 1, 1))
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 6)).astype(np.float32)
    check(fold_pixel_scale, built, 1e-4, x=image)
    assert kinds(built) == {"Sub": 1, "Conv": 2}


def test_a_mean_that_is_not_of_channels_is_left_alone():
    built = pixels(np.full((1, 3, 6, 6), 0.5, np.float32))
    fold_pixel_scale(built)
    assert kinds(built)["Div"] == 2


@pytest.fixture(scope="module")
def stages(abnn_run):
    return export_stages(abnn_run.network(), abnn_run.config.input)


def test_every_pass_finds_its_work_in_an_exported_pair_and_keeps_its_logits(stages, val_data):
    assert [stage.name for stage in stages] == ["as exported", *PASSES]
    other_networks = ("fold running statistics into the maps", "drop gathers that keep all elements in order")
    stages = [stage for stage in stages if stage.name not in other_networks]
    feed = {"image": val_data.images[:9]}
    logits = [ort.InferenceSession(s.model, providers=["CPUExecutionProvider"]).run(None, feed)[0] for s in stages]
    for before, after, old, new in zip(stages, stages[1:], logits, logits[1:], strict=False):
        assert before.model != after.model, after.name
        assert np.abs(new - old).max() < 1e-4, after.name
    assert stages[-1].nodes < 0.6 * stages[0].nodes


def test_gains_are_timed_against_the_exported_graph(stages, val_data):
    gains = measure_gains(stages, val_data.images[:1], seconds=0.01)
    assert [gain.nodes for gain in gains] == [stage.nodes for stage in stages]
    assert gains[0].ratio == 1
    assert all(gain.seconds > 0 for gain in gains)
