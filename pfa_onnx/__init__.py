"""Make trained ONNX models smaller: structured pruning by Principal Filter Analysis."""

__version__ = "0.1.0"
