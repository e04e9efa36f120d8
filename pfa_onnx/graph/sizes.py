"""Operators that make a tensor of any size out of a few numbers, where the file itself says these numbers.

A file of a hundred bytes can ask for a tensor that no machine holds; that is refused before anybody makes it. What
the inputs decide, or a longer computation, is left to the runtime, whose memory ends somewhere, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from onnx import NodeProto, TensorProto, numpy_helper

from pfa_onnx.graph.signatures import broken

MOST = (1 << 31) - 1  # numbers of one tensor; no runtime counts further in its kernels
_LONG = 4096  # numbers that say a size are few

Constants = Sequence[Mapping[str, TensorProto]]
Numbers = list[float]


def _product(numbers: Numbers) -> float:
    return prod(max(abs(number), 1.0) for number in numbers)


def _margins(numbers: Numbers) -> float:
    return prod(1.0 + abs(number) for number in numbers)


def _widest(numbers: Numbers) -> float:
    return max(map(abs, numbers), default=0.0)


# operator -> (which input says the size, or which attribute, and how large the result is then at least)
_MAKERS: dict[str, tuple[tuple[int | str, Callable[[Numbers], float]], ...]] = {
    "ConstantOfShape": ((0, _product),),
    "Expand": ((1, _product),),
    "Tile": ((1, _product),),
    "Pad": ((1, _margins), ("pads", _margins), ("paddings", _margins)),
    "OneHot": ((1, _product),),
    "Resize": ((1, _product), (2, _product), (3, _product)),
    "Upsample": ((1, _product), ("scales", _product)),
    "RandomNormal": (("shape", _product),),
    "RandomUniform": (("shape", _product),),
    "Conv": (("pads", _widest),),
    "ConvInteger": (("pads", _widest),),
    "ConvTranspose": (("output_shape", _product), ("output_padding", _margins), ("pads", _widest)),
    "QLinearConv": (("pads", _widest),),
    "AveragePool": (("pads", _widest),),
    "LpPool": (("pads", _widest),),
    "MaxPool": (("pads", _widest),),
    "MaxUnpool": ((2, _product),),
    "CenterCropPad": ((1, _product),),
    "Col2Im": ((1, _product),),
    "BlackmanWindow": ((0, _product),),
    "HannWindow": ((0, _product),),
    "HammingWindow": ((0, _product),),
    "DFT": ((1, _product),),
    "Multinomial": (("sample_size", _product),),
}


def check_size(node: NodeProto, constants: Constants) -> None:
    """Raise ModelError where a node would make more numbers than fit into a tensor.

    constants: by name, of the graph and of those around it.
    """
    sizes = [
        how(numbers) for source, how in _MAKERS.get(node.op_type, ()) for numbers in [_said(node, source, constants)]
    ]
    if node.op_type == "Range":
        sizes.append(_steps([_said(node, k, constants) for k in range(3)]))
    size = max(sizes, default=0.0)
    if size > MOST:
        raise broken(node, f"makes {size:,.0f} numbers of a few, more than a tensor can have")


def constant(name: str, constants: Constants) -> TensorProto | None:
    """Return the constant of this name, the innermost one."""
    return next((tensors[name] for tensors in reversed(constants) if name in tensors), None)


def numbers_of(node: NodeProto, place: int, constants: Constants) -> Numbers:
    """Return the numbers of an operand; none where the file does not fix them, or they are many."""
    tensor = constant(node.input[place], constants) if place < len(node.input) and node.input[place] else None
    if tensor is None or tensor.data_location == TensorProto.EXTERNAL or prod(tensor.dims) > _LONG:
        return []
    if tensor.data_type in {TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128}:
        return []
    numbers: Numbers = numpy_helper.to_array(tensor).astype(float).ravel().tolist()
    return [number for number in numbers if number == number]  # noqa: PLR0124 - NaN is refused by who reads it


def _said(node: NodeProto, source: int | str, constants: Constants) -> Numbers:
    """Return the numbers that say a size: those of an operand, or of an attribute."""
    if isinstance(source, int):
        return numbers_of(node, source, constants)
    found = [attribute for attribute in node.attribute if attribute.name == source]
    return [float(n) for attribute in found for n in (*attribute.ints, *attribute.floats, attribute.i)]


def _steps(said: list[Numbers]) -> float:
    if not all(len(numbers) == 1 for numbers in said):
        return 0.0
    start, end, step = (numbers[0] for numbers in said)
    return (end - start) / step if step else float("inf")
