"""Nodes that end the whole process when onnxruntime loads or runs them, without an error that could be caught.

It divides by these attributes, or reads at these places, without looking (seen with 1.31, by trying extreme values at
every attribute and operand of the standard's own test cases). Where the file fixes them, they are refused here.
"""

from __future__ import annotations

from math import prod

from onnx import AttributeProto, NodeProto, TensorProto

from pfa_onnx.graph.signatures import broken
from pfa_onnx.graph.sizes import Constants, constant, numbers_of

_KERNEL = ("strides", "dilations", "kernel_shape")

# operator -> attributes that have to be positive, each number of them
_POSITIVE = {
    "AveragePool": _KERNEL,
    "Attention": ("q_num_heads", "kv_num_heads", "num_heads"),
    "Col2Im": ("strides", "dilations"),
    "Conv": ("group", *_KERNEL),
    "ConvInteger": ("group", *_KERNEL),
    "ConvTranspose": ("group", *_KERNEL),
    "DeformConv": ("group", "offset_group", *_KERNEL),
    "DepthToSpace": ("blocksize",),
    "FusedConv": ("group", *_KERNEL),
    "GRU": ("hidden_size",),
    "GroupNorm": ("groups",),
    "GroupNormalization": ("num_groups",),
    "GroupQueryAttention": ("num_heads", "kv_num_heads"),
    "LRN": ("size",),
    "LSTM": ("hidden_size",),
    "LpPool": ("p", *_KERNEL),
    "MaxPool": _KERNEL,
    "MaxRoiPool": ("pooled_shape",),
    "MaxUnpool": ("strides", "kernel_shape"),
    "MultiHeadAttention": ("num_heads",),
    "QLinearConv": ("group", *_KERNEL),
    "RNN": ("hidden_size",),
    "RoiAlign": ("output_height", "output_width"),
    "Scan": ("num_scan_inputs",),
    "SpaceToDepth": ("blocksize",),
    "Split": ("num_outputs",),
}
_LARGEST = 1 << 31  # of any of them: they are multiplied

# (operator, operand) -> how many axes a constant there has to have, and how many numbers; None where any will do
_SHAPES: dict[tuple[str, int], tuple[int | None, int | None]] = {
    ("AffineGrid", 1): (1, None),
    ("Attention", 4): (4, None),
    ("Attention", 5): (4, None),
    ("If", 0): (None, 1),
    ("Loop", 0): (None, 1),
    ("Loop", 1): (None, 1),
    ("STFT", 1): (None, 1),
    ("STFT", 2): (1, None),
    ("STFT", 3): (None, 1),
}


def check_traps(node: NodeProto, constants: Constants) -> None:
    """Raise ModelError for a node that would end the process. constants: as in `check_size`."""
    for attribute in node.attribute:
        if attribute.name in _POSITIVE.get(node.op_type, ()):
            _check_positive(node, attribute)
    for place, name in enumerate(node.input):
        wanted = _SHAPES.get((node.op_type, place))
        tensor = constant(name, constants) if wanted is not None and name else None
        if wanted is not None and tensor is not None:
            _check_shape(node, place, tensor, *wanted)
    special = {"Split": _split, "GatherND": _gather, "STFT": _stft, "TfIdfVectorizer": _grams}.get(node.op_type)
    if special is not None:
        special(node, constants)


def _check_positive(node: NodeProto, attribute: AttributeProto) -> None:
    numbers = [attribute.i] if attribute.type == AttributeProto.INT else list(attribute.ints)
    if any(not 0 < number < _LARGEST for number in numbers):
        some = ", ".join(map(str, numbers[:6]))
        raise broken(node, f"has {attribute.name} {some}, which has to be positive")


def _check_shape(node: NodeProto, place: int, tensor: TensorProto, rank: int | None, count: int | None) -> None:
    if (rank is not None and len(tensor.dims) != rank) or (count is not None and prod(tensor.dims) != count):
        shape = "x".join(map(str, tensor.dims[:8])) or "a single number"
        raise broken(node, f"has {shape} as its input {place}, which has to be something else")


def _split(node: NodeProto, _: Constants) -> None:
    told = _ints(node, "num_outputs")
    if told and told != [len(node.output)]:
        raise broken(node, f"has {len(node.output)} outputs, and says that they are {told[0]}")


def _gather(node: NodeProto, _: Constants) -> None:
    if any(number < 0 for number in _ints(node, "batch_dims")):
        raise broken(node, "has negative batch_dims")


def _stft(node: NodeProto, constants: Constants) -> None:
    if any(number < 1 for place in (1, 3) for number in numbers_of(node, place, constants)):
        raise broken(node, "has frames of no length, or steps of none")
    window = constant(node.input[2], constants) if len(node.input) > 2 and node.input[2] else None
    if window is not None and not prod(window.dims):
        raise broken(node, "has a window of no length")


def _grams(node: NodeProto, _: Constants) -> None:
    """Check that there is an index for every n-gram of the pool."""
    starts, indexes = _ints(node, "ngram_counts"), _ints(node, "ngram_indexes")
    pool = max((len(a.ints) + len(a.strings) for a in node.attribute if a.name.startswith("pool_")), default=0)
    ends = [*starts[1:], pool]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    grams = sum(length // (k + 1) for k, length in enumerate(lengths))
    if any(length < 0 or length % (k + 1) for k, length in enumerate(lengths)) or grams != len(indexes):
        raise broken(node, f"has {len(indexes)} indexes for {grams} n-grams")


def _ints(node: NodeProto, name: str) -> list[int]:
    found = [attribute for attribute in node.attribute if attribute.name == name]
    return [n for one in found for n in ([one.i] if one.type == AttributeProto.INT else one.ints)]
