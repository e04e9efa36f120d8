"""Why all channels of a layer go together: the node that tied the last of them."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Net, feeds
from support import saved, settle_model

import pfa_onnx
from pfa_onnx.recipe import Reason


def reasons_of(net, output):
    model = net.model(output)
    trace = settle_model(model, feeds(model, np.random.default_rng(0), n=2))
    return trace.frozen[int(trace.layers[0].layer.labels[0])]


def test_one_channel():
    net = Net(np.random.default_rng(0))
    x = net.conv(net.image(), 3, 1)
    node = net.nodes[-1].name
    assert reasons_of(net, net.conv(x, 1, 4)) == (Reason("is the only channel of its layer", node),)


@pytest.mark.parametrize("op", ["DepthToSpace", "rolled"])
def test_tied(op):
    """DepthToSpace ties four channels; a sum with itself, one channel on, ties all of them."""
    net = Net(np.random.default_rng(0))
    x = net.conv(net.image(), 3, 4)
    if op == "DepthToSpace":
        x, channels = net.op("DepthToSpace", x, blocksize=2), 1
    else:
        x, channels = net.op("Add", x, net.op("Gather", x, net.const([1, 2, 3, 0]), axis=1)), 4
    node = net.nodes[-1]
    why = f"goes with all other channels of its layer: {node.op_type} and nodes before it tie them together"
    assert Reason(why, node.name) in reasons_of(net, net.conv(x, channels, 4))


def test_what_makes_no_channels_is_no_layer():
    """Nobody means such a model, and nobody runs it; a look at it takes it as it is."""
    net = Net(np.random.default_rng(0))
    x = net.conv(net.input([2, 3, 16, 16]), 3, 8)
    nothing = net.op("Conv", x, net.const(np.zeros((0, 8, 3, 3))), net.const(np.zeros(3)))
    report = pfa_onnx.inspect(saved(net.model(net.head(x, 8), (nothing, [2, 0, 14, 14]))))
    assert [layer.channels for layer in report.layers] == [8, 10]
