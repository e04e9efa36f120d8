"""Weights drawn anew, whatever name the operator goes by that holds them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from networks import NETWORKS

from pfa_onnx.graph.cost import PLAIN
from pfa_onnx.graph.model import Graph
from pfa_onnx.graph.scratch import redraw

LAYERS = {"Conv", "Gemm", "MatMul"}


@pytest.mark.parametrize("name", ["plain", "gemm_trans_b", "transformer_block_fused", "deformable"])
def test_every_layer_is_drawn_anew(name):
    before, after = (Graph(ir.from_proto(NETWORKS[name](np.random.default_rng(0))), None, "") for _ in range(2))
    redraw(after, seed=3)
    seen = 0
    for was, now in zip(before.nodes, after.nodes, strict=True):
        if PLAIN.get(now.op_type, now.op_type) not in LAYERS or not after.is_constant(now.inputs[1]):
            continue
        old, new = (graph.array(node.inputs[1]) for graph, node in ((before, was), (after, now)))
        fan_in = np.prod(new.shape[1:]) if new.ndim > 2 or "transB" in now.attributes else new.shape[0]
        assert old.shape == new.shape
        assert not np.isclose(old, new).any()
        assert new.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.35)
        bias = now.inputs[3 if now.op_type == "DeformConv" else 2] if len(now.inputs) > 2 else None
        assert bias is None or not after.array(bias).any()
        seen += 1
    assert seen
