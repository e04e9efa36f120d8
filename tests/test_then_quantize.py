"""Pruned models go through onnxruntime's static quantization as the original does: the paper calls PFA orthogonal to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import pfa_onnx
from pfa_onnx.graph.model import load
from pfa_onnx.options import DataOptions
from pfa_onnx.recipe import Method
from pfa_onnx.steps.measure import open_dataset

SAMPLE = Path(__file__).parents[1] / "sample_models" / "fashion"
MODEL, IMAGES = SAMPLE / "model.onnx", SAMPLE / "images"


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        dataset = open_dataset(load(MODEL), DataOptions(str(IMAGES), limit=128))
        self._batches = iter([dict(batch.feeds) for batch in dataset.batches(32)])

    def get_next(self):
        return next(self._batches, None)


def accuracy(path: Path) -> float:
    return pfa_onnx.check(MODEL, path, IMAGES, latency=False).metrics["accuracy_pruned"]


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_a_repaired_model_quantizes_like_any_other(tmp_path, form):
    small, prepared, quantized = (tmp_path / name for name in ("s.onnx", "p.onnx", "q.onnx"))
    pfa_onnx.prune(MODEL, IMAGES, Method("kl", select="reconstruct"), output=small, repair=True)
    quant_pre_process(str(small), str(prepared))
    quantize_static(
        str(prepared),
        str(quantized),
        Reader(),
        quant_format=form,
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
    )
    assert quantized.stat().st_size < small.stat().st_size
    assert accuracy(quantized) > accuracy(small) - 0.02


def test_and_a_quantized_model_is_pruned_with_its_scales(tmp_path):
    prepared, quantized, small = (tmp_path / name for name in ("p.onnx", "q.onnx", "s.onnx"))
    quant_pre_process(str(MODEL), str(prepared))
    quantize_static(str(prepared), str(quantized), Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    report = pfa_onnx.prune(quantized, IMAGES, Method("energy", tau=0.99), output=small)
    assert report.after.params < report.model.size.params
    assert report.proof.passed
