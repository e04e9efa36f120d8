"""Where pooling nodes stand decides the memory of a calibration. It rests on onnxruntime's internals: this notices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from pfa_onnx.graph.model import load
from pfa_onnx.graph.taps import tapped
from pfa_onnx.steps.measure import find_layers, learn_shapes

DEPTH = 12


def chain(path: Path) -> Path:
    rng = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for k in range(DEPTH):
        weights.append(numpy_helper.from_array(rng.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12, f"w{k}"))
        nodes.append(helper.make_node("Conv", [x, f"w{k}"], [f"c{k}"], name=f"conv{k}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"r{k}"], name=f"relu{k}"))
        x = f"r{k}"
    shape = ["N", 16, 16, 16]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def executed(proto, folder: Path, names) -> list[str]:
    """Which operators ran, one after the other."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(names, {"x": np.zeros((1, 16, 16, 16), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]


def test_every_response_is_pooled_before_the_next_but_one_is_made(tmp_path):
    graph = load(chain(tmp_path / "m.onnx"))
    shapes, _ = learn_shapes(graph, {"x": np.zeros((1, 16, 16, 16), np.float32)})
    layers = find_layers(graph, shapes)
    proto, taps = tapped(graph, layers)
    order = [kind for kind in executed(proto, tmp_path, list(taps.values())) if kind in {"Conv", "GlobalMaxPool"}]
    assert order.count("Conv") == order.count("GlobalMaxPool") == DEPTH
    alive = [order[: k + 1].count("Conv") - order[: k + 1].count("GlobalMaxPool") for k in range(len(order))]
    assert max(alive) <= 2, "onnxruntime runs them in another order now: every response is kept to the end"
    # and that this placement is what does it: with the taps in the order of the layers, they pile up
    nodes = list(proto.graph.node)
    pooled = [node for node in nodes if any(name.startswith("pfa_onnx/response/") for name in node.output)]
    main = [node for node in nodes if node not in pooled]
    del proto.graph.node[:]
    forward = sorted(pooled, key=lambda node: int(node.output[0].split("/")[2]))
    proto.graph.node.extend([*main, *forward])
    order = [kind for kind in executed(proto, tmp_path, list(taps.values())) if kind in {"Conv", "GlobalMaxPool"}]
    piled = max(order[: k + 1].count("Conv") - order[: k + 1].count("GlobalMaxPool") for k in range(len(order)))
    assert piled > DEPTH // 2
