"""The files that the README's guides begin with: small models of every kind, photos, arrays, a loader."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

EXPORTS = Path(__file__).parent / "exports"
MODELS = {
    "classifier": "mobilenet_v2.keep",
    "detector": "yolo.ts",
    "ocr": "crnn.ts",
    "transformer": "vit.ts",
    "audio": "flatten_cnn.ts",
    "twins": "siamese.ts",
}
LOADER = """
import numpy as np

def clips():
    random = np.random.default_rng(0)
    for _ in range(200):
        yield {{"{name}": random.normal(size={shape}).astype(np.float32)}}
"""


def make(folder: Path) -> None:
    """Write them all."""
    import onnx

    for name, export in MODELS.items():
        shutil.copy(EXPORTS / f"{export}.onnx", folder / f"{name}.onnx")
    random = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for k in range(160):
        low = Image.fromarray(random.integers(0, 255, (5, 7, 3), dtype=np.uint8))
        low.resize((80, 60), Image.Resampling.BICUBIC).save(folder / "photos" / f"{k:03}.jpg")
    np.savez(folder / "tokens.npz", image=random.normal(size=(200, 3, 32, 32)).astype(np.float32))
    pair = {side: random.normal(size=(120, 1, 24, 24)).astype(np.float32) for side in ("left", "right")}
    np.savez(folder / "pairs.npz", **pair)
    given = onnx.load(folder / "audio.onnx").graph.input[0]
    shape = tuple(d.dim_value for d in given.type.tensor_type.shape.dim)[1:]
    (folder / "loader.py").write_text(LOADER.format(name=given.name, shape=shape))
