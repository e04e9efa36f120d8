"""Run a .tflite file in LiteRT.

    pip install ai-edge-litert numpy
    python tests/examples/litert_run.py small_float32.tflite images.npy outputs.npy

Pictures are [N, H, W, C] here.
"""

from __future__ import annotations

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def predict(path: str, images: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(path)
    given, wanted = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(given, images.shape)  # the file's own batch size is 1
    interpreter.allocate_tensors()
    interpreter.set_tensor(given, images)
    interpreter.invoke()
    return interpreter.get_tensor(wanted)


if __name__ == "__main__":
    _, model, images, outputs = sys.argv
    np.save(outputs, predict(model, np.load(images)))
