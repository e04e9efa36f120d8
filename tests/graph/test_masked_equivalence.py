"""The cut model computes what the original computes when the removed channels are zeroed where they are read.

For every test network and every real export: random recipes, the outputs of both in onnxruntime, and everything
that the cut must leave alone.
"""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import NETWORKS, Net, exports, feeds
from onnx import helper
from onnx.external_data_helper import load_external_data_for_model
from support import SHARES, counts, cut_model, equivalence, random_keeps, saved, settle_model

from pfa_onnx.graph.cost import parameters
from pfa_onnx.graph.edits import Mask
from pfa_onnx.graph.model import Graph, load
from pfa_onnx.graph.trace import Trace

FLOAT32_BOUND = 1e-4
# A float16 number has 11 bits: every rounding errs by 2^-11 = 4.9e-4 of it. onnxruntime sums in float32 or float16,
# in an order of its own, and these networks round some ten times between input and output.
FLOAT16_BOUND = 16 * 2**-11
FLOAT16 = {"fp16", "bn_with_casts"}

# How many channels may go, of how many: worked out by hand from make.py. All stay that are a graph output; besides:
COVERAGE = {
    "convnext": (80, 150),  # the spine is LayerNormalized: 3 * 8 + 3 * 12; 10 classes
    "crnn": (20, 26),  # 6 classes; what the LSTM reads is cut through its W
    "densenet": (90, 100),
    "efficientnet": (281, 291),
    "model": (180, 190),
    "flatten_cnn": (42, 52),
    "ghostnet": (48, 58),
    "googlenet": (99, 117),  # 8 are normalised over by LRN
    "mlp": (52, 57),
    "mobilenet_v2": (226, 236),
    "mobilenet_v3": (286, 296),
    "pixelshuffle": (92, 95),
    "prelu": (60, 66),
    "regnet": (284, 294),
    "resnet_basic": (180, 190),
    "resnet_bottleneck": (184, 194),
    "resnext": (184, 194),
    "shufflenet_v2": (204, 214),
    "siamese": (88, 89),
    "squeezenet": (44, 54),
    "unet": (112, 114),
    "unet_dynamic": (96, 98),
    "unet_resize": (96, 98),
    "vgg": (128, 138),
    "vit": (336, 466),  # the spine is LayerNormalized: 24 for the patches, 2 * 24 for each of 2 blocks; 10 classes
    "vit_fused": (336, 466),
    "yolo": (228, 266),  # 2 levels: 16 numbers of the boxes' distribution (Softmax), 3 classes
}
CASES = [*NETWORKS, *exports()]


def case_id(case: str | Path) -> str:
    return case if isinstance(case, str) else f"{case.parent.name}/{case.stem}"


@cache
def settled(case: str | Path) -> tuple[Trace, dict[str, np.ndarray]]:
    rng = np.random.default_rng(zlib.crc32(case_id(case).encode()))
    path = saved(NETWORKS[case](rng)) if isinstance(case, str) else case
    inputs = feeds(onnx.load(path, load_external_data=False), rng, n=2)
    return settle_model(path, inputs), inputs


def path_of(trace: Trace) -> Path:
    assert trace.graph.path is not None
    return trace.graph.path


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_cut_model_computes_what_the_masked_original_computes(case):
    trace, inputs = settled(case)
    bound = FLOAT16_BOUND if case in FLOAT16 else FLOAT32_BOUND
    for share, keep in zip(SHARES, random_keeps(trace, seeds=[0]), strict=True):
        assert equivalence(path_of(trace), inputs, trace, keep) <= bound, f"share {share}"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_many_recipes(case):
    trace, inputs = settled(case)
    bound = FLOAT16_BOUND if case in FLOAT16 else FLOAT32_BOUND
    for keep in random_keeps(trace, seeds=range(1, 11)):
        assert equivalence(path_of(trace), inputs, trace, keep) <= bound


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_cut_leaves_everything_else_alone(case):
    trace, _ = settled(case)
    before = original(trace)
    for keep in random_keeps(trace, seeds=[1], shares=[0.5, 1.0]):
        after = cut_model(trace, keep)
        assert list(after.graph.input) == kept_inputs(before, after)
        assert list(after.graph.output) == list(before.graph.output)
        assert after.opset_import == before.opset_import
        assert after.ir_version == before.ir_version
        assert (after.doc_string, after.graph.doc_string) == (before.doc_string, before.graph.doc_string)
        assert list(after.metadata_props) == list(before.metadata_props)
        assert (after.producer_name, after.domain) == (before.producer_name, before.domain)
        assert_subsequence(
            [described(n) for n in after.graph.node if not is_override(n, before)],
            [described(n) for n in before.graph.node],
        )
        assert_initializers(before, after)
        assert_dynamic_stays_dynamic(before, after)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_cut_passes_the_checker_where_the_original_does(case):
    trace, _ = settled(case)
    if problem(original(trace), trace) is None:
        for keep in random_keeps(trace, seeds=[2], shares=[0.5, 1.0]):
            assert problem(cut_model(trace, keep), trace) is None


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_cut_is_smaller_exactly_when_something_may_go(case):
    trace, _ = settled(case)
    keep: Mask = list(random_keeps(trace, seeds=[3], shares=[1.0]))[0]
    before, after = parameters(trace.graph), parameters(graph_of(cut_model(trace, keep)))
    assert after < before if counts(trace)[0] else after == before


@pytest.mark.parametrize("path", exports(), ids=case_id)
def test_all_channels_of_an_export_may_go_but_those_known_to_stay(path):
    trace, _ = settled(path)
    assert counts(trace) == COVERAGE[path.stem.split(".")[0]]


def test_every_export_has_its_coverage_written_down():
    assert {path.stem.split(".")[0] for path in exports()} == set(COVERAGE)


def test_keeping_everything_changes_nothing():
    """An empty recipe writes the same graph, byte for byte."""
    trace, _ = settled("stale_value_info")
    keep = np.ones(trace.count, dtype=np.bool_)
    assert cut_model(trace, keep).SerializeToString(deterministic=True) == original(trace).SerializeToString(
        deterministic=True
    )


def test_attention_in_half_precision():
    """What is summed over by a product of two activations is masked in the model's own type."""
    net = Net(np.random.default_rng(0), dtype=np.float16)
    x = net.input(["N", 5, 12], "tokens")
    q, k = (net.op("MatMul", x, net.const(net.weights(12, 8, fan_in=12))) for _ in range(2))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
    model = net.model(net.op("Softmax", scores, axis=-1, out="y"))
    inputs = feeds(model, np.random.default_rng(0), n=2)
    trace = settle_model(model, inputs)
    assert counts(trace) == (16, 16)
    for keep in random_keeps(trace, seeds=[0]):
        assert equivalence(path_of(trace), inputs, trace, keep) <= FLOAT16_BOUND


def test_weights_stored_as_bfloat16():
    """numpy has no name for the type: the cut constant must still be one."""
    net = Net(np.random.default_rng(0))
    x = net.image()
    for cin, cout in ((3, 8), (8, 12)):
        stored = net.unique("stored")
        weight = helper.make_tensor(
            stored, onnx.TensorProto.BFLOAT16, (cout, cin, 3, 3), net.weights(cout, cin, 3, 3).ravel()
        )
        net.initializers.append(weight)
        x = net.relu(net.op("Conv", x, net.op("Cast", stored, to=onnx.TensorProto.FLOAT)))
    model = net.model(net.head(x, 12))
    inputs = feeds(model, np.random.default_rng(0), n=2)
    trace = settle_model(model, inputs)
    assert counts(trace) == (20, 30)
    for keep in random_keeps(trace, seeds=[0]):
        assert equivalence(path_of(trace), inputs, trace, keep) <= FLOAT32_BOUND
        after = cut_model(trace, keep)
        assert [t.data_type for t in after.graph.initializer if "stored" in t.name] == [onnx.TensorProto.BFLOAT16] * 2


# --- what is compared -------------------------------------------------------------------------------------------


def original(trace: Trace) -> onnx.ModelProto:
    """The original as it was loaded: model-local functions are inlined."""
    return ir.to_proto(load(path_of(trace)).model)


def graph_of(model: onnx.ModelProto) -> Graph:
    return Graph(ir.from_proto(model), None, "")


def kept_inputs(before: onnx.ModelProto, after: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The original's inputs; those that are initializers have the shapes that these have now."""
    shapes = {t.name: t for t in after.graph.initializer}
    names = {t.name for t in before.graph.initializer}
    expected = []
    for value in before.graph.input:
        if value.name in names and value.name not in shapes:
            continue
        if value.name in shapes:
            now = onnx.ValueInfoProto()
            now.CopyFrom(value)
            for dim, size in zip(now.type.tensor_type.shape.dim, shapes[value.name].dims, strict=True):
                dim.dim_value = size
            expected.append(now)
        else:
            expected.append(value)
    added = [v for v in after.graph.input if v.name in shapes and v.name not in names]
    return expected + added


def described(node: onnx.NodeProto) -> tuple:
    return node.name, node.op_type, node.domain, tuple(node.output), node.doc_string


def is_override(node: onnx.NodeProto, before: onnx.ModelProto) -> bool:
    """Two readers share a computed size and now want different ones: the second one reads it through a Where."""
    return node.op_type == "Where" and not any(other.name == node.name for other in before.graph.node)


def assert_subsequence(part: list, whole: list) -> None:
    rest = iter(whole)
    assert all(item in rest for item in part)


def assert_initializers(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """No names but the original's, in its order, and those of parts that were un-shared; none is larger than before."""
    old = {t.name: t for t in before.graph.initializer}
    values = set(old) | {name for node in before.graph.node for name in (*node.output, *node.input, node.name)}
    names = [t.name for t in after.graph.initializer]
    assert len(names) == len(set(names))
    assert_subsequence([name for name in names if name in old], list(old))
    read = {name for graph in graphs(after.graph) for node in graph.node for name in node.input} | {
        v.name for v in after.graph.output
    }
    was_read = {name for graph in graphs(before.graph) for node in graph.node for name in node.input}
    for tensor in after.graph.initializer:
        assert tensor.name in read or tensor.name not in was_read, f"nobody reads {tensor.name}"
        if tensor.name in old:
            assert tensor.data_type == old[tensor.name].data_type
            assert tensor.doc_string == old[tensor.name].doc_string
            assert np.prod(tensor.dims) <= np.prod(old[tensor.name].dims)
        else:
            stem = tensor.name.rsplit("_", 1)[0]
            assert stem in values or stem.removesuffix("_size") in values, tensor.name


def graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    inner = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [graph, *(g for body in inner for g in graphs(body))]


def assert_dynamic_stays_dynamic(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    old = {value.name: value for value in before.graph.value_info}
    for value in after.graph.value_info:
        was, now = (v.type.tensor_type for v in (old.get(value.name, value), value))
        if was.HasField("shape") and now.HasField("shape"):
            kinds = [[d.WhichOneof("value") for d in t.shape.dim] for t in (was, now)]
            assert kinds[0] == kinds[1], value.name
            assert all(b.dim_value <= a.dim_value for a, b in zip(was.shape.dim, now.shape.dim, strict=True)), (
                value.name
            )


def problem(model: onnx.ModelProto, trace: Trace) -> str | None:
    load_external_data_for_model(model, str(path_of(trace).parent))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error)
    return None
