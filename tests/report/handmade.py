"""Small results built by hand, so that every number in a rendered report can be checked by eye."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from pfa_onnx.recipe import Method, Proof, Reason, Size
from pfa_onnx.results import (
    Changed,
    CheckReport,
    Cost,
    DataInfo,
    Details,
    Gate,
    LayerDetails,
    LayerResult,
    ModelInfo,
    Picture,
    Report,
)
from pfa_onnx.steps.details import small_matrix
from pfa_onnx.steps.pictures import thumbnail

MODEL = ModelInfo("model.onnx", "9c07" * 16, 17, Size(11_689_512, 1_819_066_368, 46_800_000))
SMALL = Size(7_900_000, 1_210_000_000, 31_400_000)
DATA = DataInfo(
    "val/",
    512,
    {"source": "val/", "preprocess": {"name": "imagenet", "size": [224, 224], "channels": 3}},
    "cuda",
    8,
    (("val/broken.jpg", "truncated"),),
)
HEAD = Reason("is the graph output 'logits'", "logits")
SOFTMAX = Reason("Softmax mixes all channels", "/attn/Softmax")


def layer(name, channels, keep, *, eigenvalues=None, **fields):
    """One layer; its spectrum is flat unless given."""
    values = tuple([1.0] * channels if eigenvalues is None else eigenvalues)
    given = {
        "op": "Conv",
        "weight": f"{name}.weight",
        "samples": 512,
        "kl": 0.25,
        "gamma": 0.5,
        "asked": keep,
        "group": None,
        "weight_params": channels * 100,
    } | fields
    return LayerResult(f"{name}_out", name, channels=channels, keep=tuple(range(keep)), eigenvalues=values, **given)


LAYERS = (
    layer("/conv1/Conv", 64, 46, group=0, asked=40, gamma=0.71),
    layer("/layer1/layer1.0/conv1/Conv", 64, 54, gamma=0.83),
    layer("/layer1/layer1.0/conv2/Conv", 64, 46, group=0, asked=46, gamma=0.5),
    layer("/attn/proj", 8, 8, asked=2, eigenvalues=[1, 0, 0, 0, 0, 0, 0, 0], held=6, frozen=(SOFTMAX,), op="MatMul"),
    layer("/fc/Gemm", 1000, 1000, asked=400, held=600, frozen=(HEAD,), op="Gemm", weight_params=512_000),
)
ANALYZED = Report(
    MODEL, DATA, Method("kl"), LAYERS, SMALL, warnings=("only 8 samples a channel",), timings={"trace": 0.5}
)
PRUNED = replace(
    ANALYZED,
    method=Method("params", target=0.7, tau=0.97312),
    proof=Proof(2.14e-7, 16, passed=True, outputs={"logits": 2.14e-7}),
    output=Path("model.pruned.onnx"),
)
CHECKED = CheckReport(
    MODEL,
    replace(MODEL, path="model.pruned.onnx", size=SMALL),
    DATA,
    {
        "agreement": 0.97265625,
        "cosine_min": 0.99137,
        "cosine_mean": 0.9987,
        "max_abs_error": 1.2345,
        "params_ratio": 0.67583,
        "macs_ratio": 0.66518,
        "bytes_ratio": 0.67094,
        "latency_ratio": None,
        "accuracy_original": 0.75,
        "accuracy_pruned": 0.74609375,
    },
    None,
    {
        "logits": {
            "cosine_min": 0.99137,
            "cosine_mean": 0.9987,
            "max_abs_error": 1.2345,
            "agreement": None,
            "note": None,
        }
    },
    (Gate("min_agreement", 0.97265625, 0.98, passed=False), Gate("max_params", 0.67583, 0.75, passed=True)),
    tuple(Changed(f"val/{index:05}.jpg", index, index + 1) for index in range(14)),
)
PASSED = replace(CHECKED, gates=(Gate("max_params", 0.67583, 0.75, passed=True),), latency_ms=(12.3456, 8.1))

# what a hostile model could call its nodes and tensors
HOSTILE = '</script><img src=x onerror="alert(1)">|`a`\n\x1b[31m@all'
ATTACK = Report(
    replace(MODEL, path=HOSTILE),
    replace(DATA, source=HOSTILE, preprocess={"name": HOSTILE}),
    Method("energy", tau=0.95),
    (
        layer(HOSTILE, 4, 2, held=1, frozen=(Reason(HOSTILE, HOSTILE),), op=HOSTILE),
        layer("unmeasured", 4, 4, eigenvalues=(), kl=math.nan, gamma=math.nan, samples=0),
    ),
    None,
    warnings=(HOSTILE,),
)


# what only pages show


def with_details(report, side=128):
    """The report with matrices and costs that look like those of a network."""
    random = np.random.default_rng(0)
    layers = {}
    for one in report.layers:
        matrix = random.uniform(size=(one.channels, one.channels))
        gone = sorted(set(range(one.channels)) - set(one.keep))
        order = np.array([*gone, *one.keep])
        layers[one.output] = LayerDetails(
            tuple(order.tolist()), len(one.keep), small_matrix((matrix + matrix.T) / 2, order, side)
        )
    size = report.model.size
    costs = tuple(Cost(tau, round(size.params * tau**3), round(size.macs * tau**4)) for tau in (0.5, 0.8, 0.95, 1.0))
    return replace(report, details=Details(layers, costs))


DETAILED = with_details(ANALYZED)
PNG = thumbnail({"x": np.linspace(0, 1, 3 * 32 * 24, dtype=np.float32).reshape(3, 32, 24)}, {})
PICTURED = replace(
    CHECKED,
    pictures=(
        Picture("val/00000.jpg", "cat", "dog", "cat", PNG),
        Picture("val/00001.jpg", "cat", "dog", "dog", PNG),
        Picture("val/00002.jpg", "cat", "dog", "fox", PNG),
        Picture(HOSTILE, HOSTILE, "1", None, PNG),
    ),
)
