"""Normalisations over the kept channels only: what goes, what is proven, and against which formula."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import NETWORKS, Net, exports, feeds
from support import counts, cut_model, masked_model, random_keeps, reasons, run, settle_model, worst_equivalence

from pfa_onnx.graph.follow import Follower

BOUND = 1e-4
NORMALISED = ("convnext", "vit", "vit_fused")  # exports whose spine is LayerNormalized
HINT = "(--through-norm prunes it)"


@pytest.mark.parametrize("name", [*NETWORKS, *exports()], ids=lambda c: c if isinstance(c, str) else c.stem)
def test_what_a_normalisation_held_back_may_go(name):
    rng = np.random.default_rng(zlib.crc32(str(name).encode()))
    model = name if isinstance(name, Path) else NETWORKS[name](rng)
    inputs = feeds(onnx.load(model, load_external_data=False) if isinstance(model, Path) else model, rng, n=2)
    plain, through = settle_model(model, inputs), settle_model(model, inputs, through_norm=True)
    assert not any(HINT in reason for reason in reasons(through))
    assert counts(through)[0] >= counts(plain)[0]
    if counts(through) == counts(plain):
        return
    assert any(HINT in reason for reason in reasons(plain))
    assert worst_equivalence(through, inputs, shares=(0.3, 0.8)) <= BOUND


@pytest.mark.parametrize("path", [p for p in exports() if p.stem.split(".")[0] in NORMALISED], ids=lambda p: p.stem)
def test_a_transformer_has_nothing_left_that_is_frozen_but_its_classes(path):
    inputs = feeds(onnx.load(path, load_external_data=False), np.random.default_rng(0), n=2)
    trace = settle_model(path, inputs, through_norm=True)
    free, every = counts(trace)
    assert every - free == 10


def layer_norm(h: np.ndarray, scale: np.ndarray) -> np.ndarray:
    centred = h - h.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * scale


def rms_norm(h: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return h / np.sqrt((h**2).mean(axis=-1, keepdims=True) + 1e-5) * scale


def mean_subtracted(h: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (h - h.mean(axis=-1, keepdims=True)) * scale


def built(kind: str) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens -> 8 channels -> the normalisation -> 5 numbers; and its three constants."""
    net = Net(np.random.default_rng(3), opset=23)
    first, scale, second = net.weights(6, 8), net.rng.uniform(0.5, 1.5, 8).astype(np.float32), net.weights(8, 5)
    h = net.op("MatMul", net.input(["N", 7, 6]), net.const(first))
    if kind == "Mean":
        h = net.op("Sub", h, net.op("ReduceMean", h, net.const([-1])))
        h = net.op("Mul", h, net.const(scale))
    else:
        h = net.op(kind, h, net.const(scale), epsilon=1e-5)
    model = net.model((net.op("MatMul", h, net.const(second)), ["N", 7, 5]))
    return model, first, scale, second


@pytest.mark.parametrize(
    ("kind", "formula"),
    [("LayerNormalization", layer_norm), ("RMSNormalization", rms_norm), ("Mean", mean_subtracted)],
)
def test_cut_and_masked_original_are_what_the_formula_says(kind, formula):
    model, first, scale, second = built(kind)
    inputs = feeds(model, np.random.default_rng(0), n=3)
    x = next(iter(inputs.values()))
    trace = settle_model(model, inputs, through_norm=True)
    for keep in random_keeps(trace, seeds=(0, 1)):
        stays = np.flatnonzero(keep[trace.layers[0].layer.labels])
        assert 0 < len(stays) < 8
        expected = formula(x @ first[:, stays], scale[stays]) @ second[stays]
        for made in (cut_model(trace, keep), masked_model(trace, keep)):
            (found,) = run(made, inputs).values()
            np.testing.assert_allclose(found, expected, atol=3e-5)


def test_groups_lose_equally_many_but_not_the_same():
    net = Net(np.random.default_rng(0), opset=21)
    x = net.conv(net.image(3, 6), 3, 8)
    x = net.op("GroupNormalization", x, net.const(net.vector(8)), net.const(net.vector(8)), num_groups=2)
    model = net.model(net.head(x, 8))
    trace = settle_model(model, inputs := feeds(model, net.rng, n=2), through_norm=True)
    kept = [keep[trace.layers[0].layer.labels].reshape(2, 4) for keep in random_keeps(trace, seeds=range(5))]
    assert all(one.sum() == other.sum() for one, other in kept)
    assert any((one != other).any() for one, other in kept)
    assert worst_equivalence(trace, inputs) <= BOUND


def test_the_proof_sees_a_normalisation_that_still_runs_over_all_channels(monkeypatch):
    model, *_ = built("LayerNormalization")
    inputs = feeds(model, np.random.default_rng(0), n=2)
    trace = settle_model(model, inputs, through_norm=True)
    monkeypatch.setattr(Follower, "narrowed", lambda self, i: None)
    assert worst_equivalence(trace, inputs, shares=(0.5,)) > 1e-3
