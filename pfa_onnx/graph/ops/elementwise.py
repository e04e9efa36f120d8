"""Element-wise operators: aligned labels are the same, constant operands follow the activation."""

from __future__ import annotations

from collections.abc import Sequence

from pfa_onnx.graph import movement
from pfa_onnx.graph.context import Context, Factor
from pfa_onnx.graph.movement import Marked
from pfa_onnx.graph.ops import computed, refuse_inputs, rule
from pfa_onnx.graph.ops.reshaping import spread

# fmt: off
_UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Cos", "Cosh",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu",
    "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)
_BROADCAST = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)
# fmt: on


@rule(*_UNARY)
def unary(c: Context) -> None:
    """Labels pass through."""
    c.pass_on()


@rule("CastLike")
def cast_like(c: Context) -> None:
    """Labels pass; a constant that is cast like an activation is born with labels of its own."""
    if c.is_constant(0):
        spread(c)
    else:
        c.out(c.mark(0))


@rule(*_BROADCAST)
def broadcast(c: Context) -> None:
    """Align as numpy does."""
    if c.attr("axis", None) is not None:
        refuse_inputs(c, "with an explicit broadcast axis (opset 6 or older)")
        return
    if c.node.op_type == "PRelu" and c.graph.opset < 7:
        _old_prelu(c)
        return
    changing = c.activations()
    if _stretches(c, changing):
        return
    if not changing:
        computed(c)
        return
    if _scales_a_product(c, changing):
        return
    joined = c.join([c.mark(i) for i in changing])
    whole = c.out_shape()
    joined = movement.lift(joined, len(whole))
    own = movement.broadcast_shape([(1,) * len(whole), *[c.operand_shape(i) for i in changing]])
    # a constant may stretch the activations along axes where they have a single position
    shape = tuple(n if original != 1 else wide for n, original, wide in zip(joined.shape, own, whole, strict=True))
    result = Marked(joined.ids, shape, joined.axes)
    for i in range(len(c.node.inputs)):
        if c.is_constant(i):
            c.follow(i, result)
        elif i not in changing:
            wide = movement.lift_shape(c.operand_shape(i), result.rank)
            along = [a for a in result.axes if wide[a] > 1]
            c.freeze_along(result, along, "is combined with values computed from shapes, one a channel")
            c.steady(i)
    c.out(result)


def _stretches(c: Context, changing: Sequence[int]) -> bool:
    """Let channels be born from a constant vector that meets one number, as frequencies meet a position."""
    whole = c.out_shape()
    shapes = [movement.lift_shape(c.operand_shape(i), len(whole)) for i in range(len(c.node.inputs))]
    constants = [i for i in range(len(shapes)) if c.is_constant(i)]
    others = [i for i in range(len(shapes)) if i not in constants]
    if len(constants) != 1 or any(x.axes for i in changing for x in c.layers(i)):
        return False
    (vector,) = constants
    longer = [a for a, n in enumerate(shapes[vector]) if n > 1]
    if len(longer) != 1 or any(shapes[i][longer[0]] > 1 for i in others):
        return False
    axis = longer[0]
    labels = c.born(vector, axis - len(whole) + len(c.operand_shape(vector)))
    c.bind(
        vector,
        Factor(movement.along(labels, axis, len(whole)).reshape([-1 if n > 1 else 1 for n in c.operand_shape(vector)])),
    )
    for i in others:
        c.steady(i)
    c.vector_out(labels, axis)
    return True


def _scales_a_product(c: Context, changing: Sequence[int]) -> bool:
    """Pass on an outer product of channels that meets constants, or what has one entry for all of them, if it does."""
    crossed = [i for i in changing if len(c.layers(i)) > 1]
    whole = c.out_shape()
    if len(crossed) != 1 or c.operand_shape(crossed[0]) != whole:
        return False
    layers = c.layers(crossed[0])
    others = [(i, movement.lift_shape(c.operand_shape(i), len(whole))) for i in range(len(c.node.inputs))]
    others = [(i, shape) for i, shape in others if i != crossed[0]]
    if any(shape[x.axes[-1]] > 1 for i, shape in others for x in layers if not c.is_constant(i)):
        return False
    for i, shape in others:
        if c.is_constant(i):
            c.follow(i, *layers)
            continue
        for x in layers:
            movement.require_fit(shape, x)
        if i not in changing:
            c.steady(i)
    c.out_layers(layers)
    return True


def _old_prelu(c: Context) -> None:
    """Until opset 7 a slope was one number, or one a channel of axis 1."""
    x = c.mark(0)
    if not c.is_constant(1):
        refuse_inputs(c, "with a computed slope (opset 6 or older)")
        return
    if movement.size(c.operand_shape(1)) > 1:
        c.bind(1, Factor(c.channels(x, 1)))
    c.out(x)


@rule("Clip", "Dropout")
def bounded(c: Context) -> None:
    """Labels pass through; the limits, the ratio and the mode are scalars."""
    for k in range(len(c.node.outputs)):
        c.pass_on(k=k)
