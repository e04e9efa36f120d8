"""What the tests of numbers share: small networks that can be scaled, duplicated and permuted, and recipes to compare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from networks import Net
from onnx import numpy_helper
from support import saved

import pfa_onnx
from pfa_onnx import DataOptions, Method, PlanOptions
from pfa_onnx.options import Hooks

ENERGY = Method("energy", tau=0.9)
KL = Method("kl")
HALF = Method("uniform", ratio=0.5)
SAMPLES = 80


def images(n=SAMPLES, channels=3, size=8, seed=1):
    return {"image": np.random.default_rng(seed).standard_normal((n, channels, size, size)).astype(np.float32)}


def chain(dtype=np.float32, seed=0, widths=(8, 12), bias=True, size=8):
    """Convolutions with ReLU, global pooling, a linear layer: whatever is scaled at one end is scaled at the other."""
    net = Net(np.random.default_rng(seed), dtype=dtype)
    x, cin = net.image(size=size), 3
    for width in widths:
        x = net.relu(net.conv(x, cin, width, bias=bias))
        cin = width
    x = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    return net.model(net.op("MatMul", x, net.const(net.weights(cin, 5), "fc.weight"), out="y"))


def changed(model, **how):
    """A copy of a model with some initializers replaced: name (dots as __) -> a function of the array."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    wanted = {name.replace("__", "."): change for name, change in how.items()}
    for tensor in copy.graph.initializer:
        if tensor.name in wanted:
            array = numpy_helper.to_array(tensor)
            found = wanted.pop(tensor.name)(array.astype(np.float64))
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(found).astype(array.dtype), tensor.name))
    assert not wanted, "no such initializers"
    return copy


def arrays(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def options(data, **how):
    return data if isinstance(data, DataOptions) else replace(DataOptions(data=data, providers="cpu"), **how)


def analyzed(model, data, method=ENERGY, plan=None, warnings=None, save_stats=None, **how):
    hooks = Hooks(warn=(warnings if warnings is not None else []).append)
    plan = plan or PlanOptions()
    return pfa_onnx.analyze(saved(model), options(data, **how), method, plan, save_stats=save_stats, hooks=hooks)


def pruned(model, data, output, method=ENERGY, plan=None, warnings=None, repair=False, **how):
    hooks = Hooks(warn=(warnings if warnings is not None else []).append)
    plan = plan or PlanOptions()
    return pfa_onnx.prune(saved(model), options(data, **how), method, plan, output=output, repair=repair, hooks=hooks)


def recipe(report):
    """What was decided: by layer output, how many PFA asks to keep and which channels stay."""
    return {layer.output: (layer.asked, layer.keep) for layer in report.layers}


def keep(report, output):
    return next(layer for layer in report.layers if layer.output == output).keep
