"""What every rule says, as a table: an operator on tensors whose channels have letters, and the letters it makes.

`x` has the channels a b c d and `z` e f g h, both of shape [1, 4, 2, 2]; `u` (a b c d) and `w` (e f g h) are of
shape [1, 4]. Expected labels are written along the axes on which they vary, `ab/cd@1,2` for two of them. A capital is
born at the node, a dot must stay, and "same" says what the node ties together. Constants are cut as `binds` says.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from support import saved, shapes_of

from pfa_onnx.graph.labels import varying
from pfa_onnx.graph.model import load
from pfa_onnx.graph.movement import shrink
from pfa_onnx.graph.ops import RULES
from pfa_onnx.graph.trace import Trace, Tracer
from pfa_onnx.recipe import Ints

LETTERS = "abcdefgh"


@dataclass(frozen=True)
class Row:
    """`outs`: labels of the outputs of the operator. `stays`: letters that it freezes. `through`: with --through-norm."""

    op: str
    text: str
    outs: Sequence[str]
    const: dict[str, object] = field(default_factory=dict)
    binds: dict[str, Sequence[str]] = field(default_factory=dict)
    same: str = ""
    stays: str = ""
    rows: Sequence[str] = ()
    opset: int = 17
    through: bool = False


ROWS: list[Row] = []


def row(text: str, *outs: str, op: str = "", **more: object) -> None:
    ROWS.append(Row(op or text.split(";")[-1].split("=", 1)[1].split("(")[0].split("<")[0].strip(), text, outs, **more))


# --- element-wise ---------------------------------------------------------------------------------------------------
for _op in ("Abs Acos Acosh Asin Asinh Atan Atanh Ceil Celu Cos Cosh Elu Erf Exp Floor HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Neg "
            "Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh ThresholdedRelu").split():  # fmt: skip
    row(f"y = {_op}(x)", "abcd@1")
row("y = Cast<to=10>(x)", "abcd@1")
row("y = Mish(x)", "abcd@1", opset=18)
row("y = Gelu(x)", "abcd@1", opset=20)
row("y = Swish(x)", "abcd@1", opset=24)
row("i = Cast<to=6>(x); y = BitwiseNot(i)", "abcd@1", opset=18)
row("i = Cast<to=9>(x); y = Not(i)", "abcd@1")
row("y = Clip(x, low)", "abcd@1", const={"low": 0.0})
row("y, m = Dropout(x)", "abcd@1", "abcd@1", op="Dropout")

TIED = "ae bf cg dh"
for _op in "Add Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mul Pow Sub Sum".split():
    row(f"y = {_op}(x, z)", "abcd@1", same=TIED)
    row(f"y = {_op}(k, x)", "abcd@1", const={"k": (4, 1, 1)}, binds={"k": ["abcd@0"]})
row("y = Mod<fmod=1>(x, z)", "abcd@1", same=TIED)
for _op in "And Or Xor".split():
    row(f"i = Cast<to=9>(x); j = Cast<to=9>(z); y = {_op}(i, j)", "abcd@1", same=TIED)
for _op in "BitwiseAnd BitwiseOr BitwiseXor".split():
    row(f"i = Cast<to=6>(x); j = Cast<to=6>(z); y = {_op}(i, j)", "abcd@1", same=TIED, opset=18)
row('i = Cast<to=12>(x); j = Cast<to=12>(z); y = BitShift<direction="LEFT">(i, j)', "abcd@1", same=TIED)
row("y = PRelu(x, k)", "abcd@1", const={"k": (4, 1, 1)}, binds={"k": ["abcd@0"]})
row("y = PRelu(x, k)", "abcd@1", const={"k": (1,)})
row(
    "b = Greater(x, zero); y = Where(b, z, k)",
    "abcd@1",
    const={"zero": 0.0, "k": (1, 4, 1, 1)},
    same=TIED,
    binds={"k": ["abcd@1"]},
)
row("y = Add(x, k)", "abcd@1", const={"k": (2,)})
row("y = Add(x, k)", "abcd@2", const={"k": (3, 1, 4, 1, 1)}, binds={"k": ["abcd@2"]})
row("g = GlobalMaxPool(z); y = Mul(x, g)", "abcd@1", same=TIED)
row(
    "t = Transpose<perm=[0, 2, 3, 1]>(z); y = Add(t, k)", "efgh@3", const={"k": (4,)}, binds={"k": ["efgh@0"]}, op="Add"
)

# --- contractions ---------------------------------------------------------------------------------------------------
row("y = Conv(x, k)", "ABC@1", const={"k": (3, 4, 1, 1)}, binds={"k": ["ABC@0", "abcd@1"]})
row(
    "y = Conv(x, k, v)", "ABC@1", const={"k": (3, 4, 2, 2), "v": (3,)}, binds={"k": ["ABC@0", "abcd@1"], "v": ["ABC@0"]}
)
row("y = Conv<group=4>(x, k)", "abcd@1", const={"k": (4, 1, 1, 1)}, binds={"k": ["abcd@0"]})
row(
    "y = Conv<group=4>(x, k, v)",
    "aabbccdd@1",
    const={"k": (8, 1, 1, 1), "v": (8,)},
    binds={"k": ["aabbccdd@0"], "v": ["aabbccdd@0"]},
)
row(
    "y = Conv<group=2>(x, k)",
    "ABCD@1",
    const={"k": (4, 2, 1, 1)},
    binds={"k": ["ABCD@0", "ab/ab/cd/cd@0,1"]},
    rows=["ab/cd", "AB/CD"],
)
row("y = ConvTranspose(x, k)", "ABC@1", const={"k": (4, 3, 1, 1)}, binds={"k": ["ABC@1", "abcd@0"]})
row("y = ConvTranspose<group=4>(x, k)", "aabbccdd@1", const={"k": (4, 2, 1, 1)}, binds={"k": ["abcd@0"]})
row(
    "y = ConvTranspose<group=2>(x, k)",
    "ABCDEF@1",
    const={"k": (4, 3, 1, 1)},
    binds={"k": ["abcd@0", "ABC/ABC/DEF/DEF@0,1"]},
    rows=["ab/cd", "ABC/DEF"],
)
row("y = Gemm(u, k, v)", "ABC@1", const={"k": (4, 3), "v": (3,)}, binds={"k": ["ABC@1", "abcd@0"], "v": ["ABC@0"]})
row("y = Gemm<transB=1>(u, k)", "ABC@1", const={"k": (3, 4)}, binds={"k": ["ABC@0", "abcd@1"]})
row("t = Transpose(u); y = Gemm<transA=1>(t, k)", "ABC@1", const={"k": (4, 3)}, binds={"k": ["ABC@1", "abcd@0"]})
row("t = Transpose(u); y = Gemm(k, t)", "ABC@0", const={"k": (3, 4)}, binds={"k": ["ABC@0", "abcd@1"]})
row("y = Gemm<transB=1>(u, w)", ".", stays="abcdefgh")
row("y = Gemm(u, k, w)", "efgh@1", const={"k": (4, 4)}, binds={"k": ["efgh@1", "abcd@0"]})
row("y = MatMul(u, k)", "ABC@1", const={"k": (4, 3)}, binds={"k": ["ABC@1", "abcd@0"]})
row("t = Transpose(u); y = MatMul(k, t)", "ABC@0", const={"k": (3, 4)}, binds={"k": ["ABC@0", "abcd@1"]})
row("y = MatMul(x, k)", "abcd@1", const={"k": (2, 3)}, binds={"k": ["ABC@1"]})
row("t = Transpose(w); y = MatMul(u, t)", ".", same=TIED)
row(
    "f = Reshape(x, s); h = Reshape(z, s); t = Transpose<perm=[0, 2, 1]>(h); y = MatMul(f, t)",
    "abcd@1",
    const={"s": [0, 4, 4]},
)
row(
    "f = Reshape(x, s); h = Reshape(z, s); t = Transpose<perm=[0, 2, 1]>(h); p = MatMul(f, t); y = Flatten(p)",
    "aaaabbbbccccdddd@1",
    const={"s": [0, 4, 4]},
    stays="efgh",
)
row("y = MatMul(u, k)", ".", const={"k": (4,)}, stays="abcd")

# --- joining and choosing -------------------------------------------------------------------------------------------
row("y = Concat<axis=1>(x, z)", "abcdefgh@1")
row("y = Concat<axis=-3>(z, x, z)", "efghabcdefgh@1")
row("y = Concat<axis=1>(x, k)", "abcdAB@1", const={"k": (1, 2, 2, 2)}, binds={"k": ["AB@1"]})
row("y = Concat<axis=2>(x, z)", "abcd@1", same=TIED)
row("y = Concat<axis=2>(x, k)", "abcd@1", const={"k": (1, 4, 1, 2)}, binds={"k": ["abcd@1"]})
row("y, v = Split<axis=1>(x, s)", "a", "bcd@1", const={"s": [1, 3]}, op="Split", rows=["a", "bcd"])
row("y, v = Split<axis=1>(x)", "ab@1", "cd@1", op="Split", rows=["ab", "cd"])
row("y, v = Split<axis=2>(x)", "abcd@1", "abcd@1", op="Split")
row("y = Slice(x, s, e, a)", "bc@1", const={"s": [1], "e": [-1], "a": [1]}, rows=["a", "bc", "d"])
row("y = Slice(x, s, e, a, t)", "ac@1", const={"s": [0], "e": [4], "a": [1], "t": [2]}, same="ab cd")
row("y = Slice(x, s, e, a, t)", "abcd@1", const={"s": [0], "e": [4], "a": [-1], "t": [2]})
row("y = Gather<axis=1>(x, i)", "dbb@1", const={"i": [3, 1, -3]}, rows=["dbb"])
row("y = Gather<axis=1>(x, i)", "c", const={"i": np.array(2)})
row("y = Gather<axis=1>(x, i)", "ab/dc@1,2", const={"i": [[0, 1], [3, 2]]}, rows=["abdc"])
row("y = Gather<axis=2>(x, i)", "abcd@1", const={"i": [0]})
row("i = ArgMax<axis=1, keepdims=0>(u); y = Gather<axis=1>(x, i)", ".", stays="abcd")
row("y = Pad(x, p)", "AabcdBC@1", const={"p": [0, 1, 0, 0, 0, 2, 0, 0]})
row('y = Pad<mode="edge">(x, p)', "......@1", const={"p": [0, 1, 0, 0, 0, 1, 0, 0]}, stays="abcd")
row("y = Pad(x, p)", "abcd@1", const={"p": [0, 0, 1, 0, 0, 0, 0, 1]})

# --- normalisation, pooling -----------------------------------------------------------------------------------------
row(
    "y = BatchNormalization(x, k, k, k, v)",
    "abcd@1",
    const={"k": (4,), "v": (4,)},
    binds={"k": ["abcd@0"], "v": ["abcd@0"]},
)
row(
    "y = InstanceNormalization(x, k, v)",
    "abcd@1",
    const={"k": (4,), "v": (4,)},
    binds={"k": ["abcd@0"], "v": ["abcd@0"]},
)
for _op, _opset in (("LayerNormalization", 17), ("RMSNormalization", 23)):
    row(
        f"y = {_op}<axis=1>(x, k)",
        "....@1",
        const={"k": (4, 2, 2)},
        binds={"k": ["....@0"]},
        stays="abcd",
        opset=_opset,
    )
    row(f"y = {_op}<axis=1>(x, k)", "abcd@1", const={"k": (4, 2, 2)}, binds={"k": ["abcd@0"]}, rows=["abcd"], opset=_opset,
        through=True)  # fmt: skip
row("y = LayerNormalization<axis=2>(x, k)", "abcd@1", const={"k": (2, 2)})
row("y = RMSNormalization(x, k)", "abcd@1", const={"k": (2,)}, opset=23)
for _op in "Softmax LogSoftmax Hardmax".split():
    row(f"y = {_op}<axis=1>(x)", "....@1", stays="abcd")
    row(f"y = {_op}(x)", "abcd@1")
    row(f"y = {_op}(x)", "....@1", stays="abcd", opset=11)
    row(f"y = {_op}<axis=2>(x)", "abcd@1", opset=11)
row("y = LpNormalization<axis=1>(x)", "abcd@1", rows=["abcd"])
row("y = LpNormalization(x)", "abcd@1")
row("y = LRN<size=3>(x)", "....@1", stays="abcd")
_text = "y = GroupNormalization<num_groups=2>(x, k, k)"
row(_text, "aacc@1", const={"k": (4,)}, binds={"k": ["aacc@0"]}, same="ab cd", opset=21)
row(_text, "aacc@1", const={"k": (2,)}, binds={"k": ["ac@0"]}, same="ab cd", opset=18)
row(_text, "abcd@1", const={"k": (4,)}, binds={"k": ["abcd@0"]}, rows=["ab/cd"], opset=21, through=True)
row(_text, "abcd@1", const={"k": (2,)}, rows=["ab/cd"], opset=18, through=True)
row("y = MeanVarianceNormalization(x)", "abcd@1")
row("y = MeanVarianceNormalization<axes=[1]>(x)", "....@1", stays="abcd")
row("y = MeanVarianceNormalization<axes=[1]>(x)", "abcd@1", rows=["abcd"], through=True)
row(
    "g = Reshape(x, s); y = InstanceNormalization(g, k, k)",
    "ac@1",
    const={"s": [0, 2, -1], "k": (2,)},
    same="ab cd",
    binds={"k": ["ac@0"]},
)
row("g = Reshape(x, s); y = InstanceNormalization(g, k, k)", "aaaabbbb/ccccdddd@1,2", const={"s": [0, 2, -1], "k": (2,)},
    rows=["aaaabbbb/ccccdddd"], through=True)  # fmt: skip
for _op in "AveragePool LpPool MaxPool".split():
    row(f"y = {_op}<kernel_shape=[2, 2]>(x)", "abcd@1")
    row(f"t = Transpose<perm=[0, 2, 3, 1]>(x); y = {_op}<kernel_shape=[1, 2]>(t)", ".", stays="abcd", same="ab ac ad")
row("y, i = MaxPool<kernel_shape=[2, 2]>(x)", "....@1", ".", stays="abcd", op="MaxPool")
for _op in "GlobalAveragePool GlobalLpPool GlobalMaxPool".split():
    row(f"y = {_op}(x)", "abcd@1")
row("y = Resize(x, , k)", "abcd@1", const={"k": np.array([1, 1, 2, 2], np.float32)})
row("y = Resize(x, , k)", ".", const={"k": np.array([1, 2, 1, 1], np.float32)}, stays="abcd", same="ab ac ad")
row("y = Resize(x, , , k)", "abcd@1", const={"k": [1, 4, 3, 3]})
row("y = Upsample(x, k)", "abcd@1", const={"k": np.array([1, 1, 2, 2], np.float32)}, opset=9)

# --- reductions -------------------------------------------------------------------------------------------------------
for _op in ("ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
            "ReduceSumSquare").split():  # fmt: skip
    row(f"y = {_op}<axes=[2, 3]>(x)", "abcd@1")
    row(f"y = {_op}<axes=[-1], keepdims=0>(x)", "abcd@1")
    row(f"y = {_op}<axes=[0], keepdims=0>(x)", "abcd@0")
    row(f"y = {_op}(x, a)", "abcd@1", const={"a": [2]}, opset=18)
    _sums = _op in {"ReduceL1", "ReduceL2", "ReduceSumSquare"}  # a zero more or less changes nothing
    row(f"y = {_op}<axes=[1]>(x)", ".", stays="" if _sums else "abcd", rows=["abcd"] if _sums else [])
    row(f"y = {_op}<keepdims=0>(x)", ".", stays="" if _sums else "abcd", rows=["abcd"] if _sums else [])
    row(f"y = {_op}<axes=[1]>(x)", ".", rows=["abcd"], through=True)
row("y = ReduceSum(x, a)", "abcd@1", const={"a": [2, -1]})
row("y = ReduceSum<noop_with_empty_axes=1>(x)", "abcd@1")
row("y = ReduceSum(x)", ".", rows=["abcd"])
for _op in "ArgMax ArgMin".split():
    row(f"y = {_op}<axis=2>(x)", "abcd@1")
    row(f"y = {_op}<axis=1>(x)", ".", stays="abcd")
row("y = CumSum(x, a)", "abcd@1", const={"a": np.array(2)})
row("y = CumSum(x, a)", "....@1", const={"a": np.array(-3)}, stays="abcd")
row("y, i = TopK<axis=2>(x, n)", "abcd@1", "abcd@1", const={"n": [1]}, op="TopK")
row("y, i = TopK<axis=1>(x, n)", ".", ".", const={"n": [2]}, stays="abcd", op="TopK")

# --- moving -----------------------------------------------------------------------------------------------------------
row("y = Transpose<perm=[1, 0, 3, 2]>(x)", "abcd@0")
row("y = Transpose(x)", "abcd@2")
row("y = Reshape(x, s)", "ab/cd@1,2", const={"s": [0, 2, 2, 4]})
row("y = Reshape(x, s)", "aaaabbbbccccdddd@1", const={"s": [0, -1]})
row("y = Reshape(x, s)", "aaaabbbb/ccccdddd@1,2", const={"s": [1, 2, -1]})
row("y = Reshape(x, s)", "abcd@2", const={"s": [1, 1, 4, -1]})
row("y = Flatten(x)", "aaaabbbbccccdddd@1")
row("y = Flatten<axis=2>(x)", "abcd@0")
row("y = Flatten<axis=-2>(x)", "abcd@0")
row("y = Flatten<axis=-3>(x)", "aaaabbbbccccdddd@1")
row("t = Transpose<perm=[0, 2, 3, 1]>(x); y = Flatten(t)", "abcdabcdabcdabcd@1")
row("g = GlobalMaxPool(x); y = Squeeze(g, a)", "abcd@1", const={"a": [2, 3]})
row("g = GlobalMaxPool(x); y = Squeeze<axes=[-1]>(g)", "abcd@1", opset=11)
row("y = Unsqueeze(x, a)", "abcd@2", const={"a": [1]})
row("y = Unsqueeze<axes=[0, -1]>(x)", "abcd@2", opset=11)
row("y = DepthToSpace<blocksize=2>(x)", "a", same="ab ac ad")
row('c = Concat<axis=1>(x, z); y = DepthToSpace<blocksize=2, mode="DCR">(c)', "ab@1", same="ac ae ag bd bf bh")
row('c = Concat<axis=1>(x, z); y = DepthToSpace<blocksize=2, mode="CRD">(c)', "ae@1", same="ab ac ad ef eg eh")
row("y = SpaceToDepth<blocksize=2>(x)", "abcdabcdabcdabcd@1")
row("g = GlobalMaxPool(x); y = Expand(g, s)", "abcd@1", const={"s": [1, 4, 3, 2]})
row("g = GlobalMaxPool(x); y = Expand(g, s)", "abcd@2", const={"s": [2, 1, 1, 3, 1]})
row(
    "n = Shape<end=1>(x); s = Concat<axis=0>(n, m); y = Expand(k, s)",
    "ABC@1",
    const={"k": (1, 3), "m": [3]},
    binds={"k": ["ABC@1"]},
)
row("y = Tile(x, n)", "abcdabcd@1", const={"n": [1, 2, 1, 3]})
row("y = Tile(x, n)", "abcd@1", const={"n": [2, 1, 1, 3]})

# --- contractions by letters, recurrent layers, sampling, quantization, onnxruntime's own ---------------------------------
row('y = Einsum<equation="nchw,dc->ndhw">(x, k)', "ABC@1", const={"k": (3, 4)}, binds={"k": ["ABC@0", "abcd@1"]})
row('y = Einsum<equation="dc,nc->nd">(k, u)', "ABC@1", const={"k": (3, 4)}, binds={"k": ["ABC@0", "abcd@1"]})
row('y = Einsum<equation="nchw,wv->nchv">(x, k)', "abcd@1", const={"k": (2, 3)})
row('y = Einsum<equation="nc,mc->nm">(u, w)', ".", same=TIED)
row('y = Einsum<equation="nchw->nc">(x)', ".", stays="abcd")
row('y = Einsum<equation="nc,cc->nc">(u, k)', ".", const={"k": (4, 4)}, stays="abcd")
for _op, _gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    row(f"f = Reshape(x, s); t = Transpose<perm=[2, 0, 1]>(f); y = {_op}<hidden_size=2>(t, k, r)", ".",
        const={"s": [0, 4, 4], "k": (1, 2 * _gates, 4), "r": (1, 2 * _gates, 2)}, binds={"k": ["abcd@2"]})  # fmt: skip
row("y = GridSample(x, g)", "abcd@1", const={"g": (1, 3, 3, 2)})
row("g = Transpose<perm=[0, 2, 1, 3]>(z); y = GridSample(x, g)", "abcd@1", stays="efgh")
row("y = RoiAlign(x, r, i)", "abcd@1", const={"r": (1, 4), "i": [0]})
row("y = MaxRoiPool<pooled_shape=[1, 1]>(x, r)", "abcd@1", const={"r": (1, 5)})
row(
    "y = QuantizeLinear<axis=1>(x, k, v)",
    "abcd@1",
    const={"k": (4,), "v": np.zeros(4, np.uint8)},
    binds={"k": ["abcd@0"], "v": ["abcd@0"]},
)
row("y = QuantizeLinear(x, k)", "abcd@1", const={"k": 0.1})
row(
    "q = QuantizeLinear(x, n); y = DequantizeLinear<axis=-3>(q, k)",
    "abcd@1",
    const={"n": 0.1, "k": (4,)},
    binds={"k": ["abcd@0"]},
)
_SCALES = {"n": 0.1, "k": (4,), "v": np.zeros(4, np.uint8), "o": np.zeros((), np.uint8)}
row(
    "y = com.microsoft.QuantizeLinear<axis=1>(x, k, v)",
    "abcd@1",
    const=_SCALES,
    binds={"k": ["abcd@0"], "v": ["abcd@0"]},
)
row("q = QuantizeLinear(x, n, o); y = com.microsoft.DequantizeLinear(q, n, o)", "abcd@1", const=_SCALES)
row("y = com.microsoft.FusedConv(x, k)", "ABC@1", const={"k": (3, 4, 1, 1)}, binds={"k": ["ABC@0", "abcd@1"]})
row(
    "y = com.microsoft.FusedConv(x, k, v, z)",
    "efgh@1",
    const={"k": (4, 4, 1, 1), "v": (4,)},
    binds={"k": ["efgh@0", "abcd@1"], "v": ["efgh@0"]},
)
row("y = com.microsoft.BiasGelu(u, k)", "abcd@1", const={"k": (4,)}, binds={"k": ["abcd@0"]})
row("y = com.microsoft.FastGelu(u, k)", "abcd@1", const={"k": (4,)}, binds={"k": ["abcd@0"]})
row("y = com.microsoft.Gelu(x)", "abcd@1")
row("y = com.microsoft.QuickGelu(x)", "abcd@1")

# --- attention as one operator, onnxruntime's fused operators, rarer ones of the standard -----------------------------------
_TOKENS = {"s": [0, 4, 4]}
_Q = "f = Reshape(x, s); q = Transpose<perm=[0, 2, 1]>(f)"
_QK = f"{_Q}; h = Reshape(z, s); k = Transpose<perm=[0, 2, 1]>(h)"
row(f"{_QK}; v = MatMul(q, m); y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v)", "ABCD@2", const=_TOKENS | {"m": (4, 4)}, same=TIED, opset=23,
    rows=["ab", "cd", "ab/cd"] * 2 + ["AB", "CD", "AB/CD", "ab/cd"])  # fmt: skip
row(
    f"{_QK}; y = Attention<q_num_heads=1, kv_num_heads=1>(q, k, h)",
    ".",
    const=_TOKENS,
    stays="abcdefgh",
    same=TIED,
    opset=24,
)
row(
    f"{_Q}; k = MatMul(q, m); y = Attention<q_num_heads=2, kv_num_heads=1>(q, k, k)",
    "abab@2",
    const=_TOKENS | {"m": (4, 2)},
    same="ac bd",
    opset=23,
)
row("y = Attention(x, z, z)", ".", same="ae", stays="abcdefgh", opset=23)
row(f"{_QK}; y = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, q, b)", "abcd@2", const=_TOKENS | {"b": (12,)}, same=TIED,
    binds={"b": ["abcdabcdabcd@0"]})  # fmt: skip
row(f"{_Q}; y = RotaryEmbedding<num_heads=1>(q, k, v)", "abab@2", const=_TOKENS | {"k": (1, 4, 2), "v": (1, 4, 2)}, same="ac bd", opset=23,
    binds={"k": ["ab@2"], "v": ["ab@2"]})  # fmt: skip
row(f"{_Q}; y = RotaryEmbedding<num_heads=2, interleaved=1>(q, k, v)", "a", const=_TOKENS | {"k": (1, 4, 1), "v": (1, 4, 1)}, same="ab ac ad", opset=23,
    binds={"k": ["a"], "v": ["a"]})  # fmt: skip
row(f"{_Q}; y = RotaryEmbedding<num_heads=1, rotary_embedding_dim=2>(q, k, v)", "aacd@2", const=_TOKENS | {"k": (1, 4, 1), "v": (1, 4, 1)}, same="ab",
    opset=23, binds={"k": ["a"], "v": ["a"]}, rows=["aa", "cd"])  # fmt: skip
row(f"{_Q}; y = com.microsoft.RotaryEmbedding<interleaved=1>(q, p, k, v)", "aacc@2", same="ab cd",
    const=_TOKENS | {"p": [[0, 1, 2, 3]], "k": (9, 2), "v": (9, 2)}, binds={"k": ["ac@1"], "v": ["ac@1"]})  # fmt: skip
for _op in ("FusedMatMul", "TransposeMatMul"):
    row(f"y = com.microsoft.{_op}<transB=1>(u, k)", "ABC@1", const={"k": (3, 4)}, binds={"k": ["ABC@0", "abcd@1"]})
row(
    "t = Transpose(u); y = com.microsoft.FusedMatMul<transA=1>(t, k)",
    "ABC@1",
    const={"k": (4, 3)},
    binds={"k": ["ABC@1", "abcd@0"]},
)
row("y = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(u, w)", ".", same=TIED)
row(
    "t = Transpose<perm=[2, 0, 1, 3]>(x); y = com.microsoft.FusedMatMul<transBatchA=1>(t, k)",
    ".",
    const={"k": (2, 3)},
    stays="abcd",
)
row(
    'y = com.microsoft.FusedGemm<activation="Relu">(u, k, v)',
    "ABC@1",
    const={"k": (4, 3), "v": (3,)},
    binds={"k": ["ABC@1", "abcd@0"], "v": ["ABC@0"]},
)
for _op in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
    row(
        f"f = Reshape(x, s); h = Reshape(z, s); y = com.microsoft.{_op}(f, h, k)",
        "abcd@1",
        const=_TOKENS | {"k": (4,)},
        same=TIED,
    )
    row(f"y = com.microsoft.{_op}(u, w, k)", "....@1", const={"k": (4,)}, same=TIED, stays="abcdefgh")
row("y = SimplifiedLayerNormalization(x, k)", "abcd@1", const={"k": (2,)})
row("y = SimplifiedLayerNormalization(u, k)", "....@1", const={"k": (4,)}, binds={"k": ["....@0"]}, stays="abcd")
row("i = ArgMax<axis=2>(z); y = GatherElements<axis=2>(x, i)", "abcd@1", same=TIED)
row(
    "i = ArgMax<axis=1>(z); e = Expand(i, s); y = GatherElements<axis=2>(x, e)",
    "abcd@1",
    const={"s": [1, 4, 2, 2]},
    stays="efgh",
)
row(
    "i = ArgMax<axis=1>(z); e = Tile(i, s); y = GatherElements<axis=2>(x, e)",
    "....@1",
    const={"s": [1, 4, 1, 1]},
    stays="abcdefgh",
    same="ab ac ad",
)
row("i = ArgMax<axis=2>(z); y = GatherElements<axis=1>(x, i)", ".", stays="abcdefgh")
row("y = GatherElements<axis=2>(x, i)", ".", const={"i": np.zeros((1, 4, 1, 2), np.int64)}, stays="abcd")
row(
    "t = Transpose<perm=[0, 2, 3, 1]>(x); i = ArgMax<axis=1>(z); y = GatherND<batch_dims=1>(t, i)",
    "abcd@3",
    stays="efgh",
)
row("y = GatherND(x, i)", "abcd@1", const={"i": np.zeros((3, 1), np.int64)})
row("y = GatherND(x, i)", ".", const={"i": np.zeros((3, 2), np.int64)}, stays="abcd")
_PLACES = {"i": np.zeros((1, 4, 2, 2), np.int64)}
for _op, _opset in (("ScatterElements", 17), ("Scatter", 10)):
    row(f"y = {_op}<axis=2>(x, i, z)", "abcd@1", const=_PLACES, same=TIED, binds={"i": ["abcd@1"]}, opset=_opset)
    row(f"y = {_op}<axis=1>(x, i, z)", ".", const=_PLACES, stays="abcdefgh", opset=_opset)
row(
    "i = ArgMax<axis=2>(z); y = ScatterElements<axis=2>(x, i, k)",
    "abcd@1",
    const={"k": (1, 4, 1, 2)},
    same=TIED,
    binds={"k": ["abcd@1"]},
)
row("i = ArgMax<axis=1>(z); e = Expand(i, s); y = ScatterElements<axis=2>(k, e, x)", "abcd@1", const={"s": [1, 4, 2, 2], "k": (1, 4, 5, 2)},
    stays="efgh", binds={"k": ["abcd@1"]})  # fmt: skip
row(
    "n = Shape(x); f = ConstantOfShape(n); y = ScatterElements<axis=2>(f, i, x)",
    "abcd@1",
    const=_PLACES,
    binds={"i": ["abcd@1"]},
)
row(
    "y = ScatterElements<axis=2>(x, i, v)",
    ".",
    const={"i": np.zeros((1, 3, 2, 2), np.int64), "v": (1, 3, 2, 2)},
    stays="abcd",
)
row("n = Shape(x); m = Mul(n, k); y = ConstantOfShape(m)", ".", const={"k": [1, 1, 64, 64]})
row("y = ScatterND(x, i, z)", "abcd@1", const={"i": [[0]]}, same=TIED)
row(
    "t = Transpose<perm=[0, 2, 3, 1]>(x); y = ScatterND(t, i, k)",
    "abcd@3",
    const={"i": [[0, 1, 1]], "k": (1, 4)},
    binds={"k": ["abcd@1"]},
)
row("y = ScatterND(x, i, v)", ".", const={"i": [[0, 1]], "v": (1, 2, 2)}, stays="abcd")
row("t = Transpose<perm=[0, 2, 3, 1]>(x); j = ArgMax<axis=1, keepdims=0>(z); i = Reshape(j, s); y = ScatterND(t, i, k)", "abcd@3",
    const={"s": [2, 2], "k": (2, 2, 4)}, stays="efgh", binds={"k": ["abcd@2"]})  # fmt: skip
row("y = CastLike(x, z)", "abcd@1")
row("y = CastLike(k, x)", "ABC@0", const={"k": (3,)}, binds={"k": ["ABC@0"]})
row("y = Trilu(x)", "abcd@1")
row("y = Trilu(u)", ".", stays="abcd")
row("y = ReverseSequence<batch_axis=0, time_axis=2>(x, n)", "abcd@1", const={"n": [2]})
row("y = ReverseSequence<batch_axis=0, time_axis=1>(x, n)", ".", const={"n": [2]}, stays="abcd")
row("y = CenterCropPad<axes=[2]>(x, n)", "abcd@1", const={"n": [5]}, opset=18)
row("y = CenterCropPad<axes=[1]>(x, n)", ".", const={"n": [3]}, stays="abcd", opset=18)
row(
    "f = Reshape(x, s); y = Col2Im(f, i, b)", "ac@1", const=_TOKENS | {"i": [4, 2], "b": [1, 2]}, same="ab cd", opset=18
)
row("y = DeformConv(x, k, o, v)", "ABC@1", const={"k": (3, 4, 1, 1), "o": (1, 2, 2, 2), "v": (3,)}, binds={"k": ["ABC@0", "abcd@1"], "v": ["ABC@0"]},
    opset=19)  # fmt: skip
row("o = Gather<axis=1>(z, i); y = DeformConv(x, k, o)", "ABC@1", const={"k": (3, 4, 1, 1), "i": [0, 1]}, binds={"k": ["ABC@0", "abcd@1"]}, stays="ef",
    opset=19)  # fmt: skip


# --- building and reading ----------------------------------------------------------------------------------------------


def traced(item: Row) -> tuple[Trace, list[onnx.NodeProto]]:
    """Trace the layers that make x, z, u, w, and behind them the nodes of the row; nothing of it is an output."""
    nodes = parser.parse_graph("g (float[1] q) => () {" + item.text.replace(";", "\n") + "}").node
    rng = np.random.default_rng(0)
    constants = {"kx": (4, 1, 1, 1), "kz": (4, 1, 1, 1), "ku": (3, 4), "kw": (3, 4)} | item.const
    arrays = {
        name: rng.uniform(0.5, 1.5, value).astype(np.float32)
        if isinstance(value, tuple)
        else np.asarray(value, np.float32 if isinstance(value, float) else None)
        for name, value in constants.items()
    }
    made = [
        helper.make_node("Conv", ["image", "kx"], ["x"]), helper.make_node("Conv", ["image", "kz"], ["z"]),
        helper.make_node("MatMul", ["vector", "ku"], ["u"]), helper.make_node("MatMul", ["vector", "kw"], ["w"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        [*made, *nodes, helper.make_node("Identity", ["image"], ["answer"])],
        "row",
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
            for n, s in (("image", (1, 1, 2, 2)), ("vector", (1, 3)))
        ],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, (1, 1, 2, 2))],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(
        graph,
        ir_version=10,
        opset_imports=[helper.make_opsetid("", item.opset), helper.make_opsetid("com.microsoft", 1)],
    )
    path = saved(model)
    feeds = {"image": np.full((1, 1, 2, 2), 0.3, np.float32), "vector": np.full((1, 3), 0.3, np.float32)}
    tracer = Tracer(load(path), shapes_of(path, feeds), through_norm=item.through)
    tracer.run()
    return tracer.finish(), list(nodes)


class Alphabet:
    """Writes labels as letters: those of x and z (or u and w, where the row reads these), then capitals."""

    def __init__(self, trace: Trace, *, vectors: bool) -> None:
        self.frozen = set(trace.frozen)
        own = np.concatenate([traced.layer.labels for traced in trace.layers[2 if vectors else 0 :][:2]])
        self.roots = dict(zip(LETTERS, own.tolist(), strict=True))
        self.names: dict[int, str] = {}
        for letter, root in self.roots.items():
            self.names.setdefault(root, letter)

    def letter(self, root: int) -> str:
        if root in self.frozen:
            return "."
        if root not in self.names:
            self.names[root] = string.ascii_uppercase[sum(name.isupper() for name in self.names.values())]
        return self.names[root]

    def word(self, ids: Ints) -> str:
        ids = shrink(ids)
        axes = varying(ids)
        if not axes:
            return self.letter(int(ids.ravel()[0]))
        letters = "/".join("".join(map(self.letter, line.tolist())) for line in ids.reshape(-1, ids.shape[axes[-1]]))
        return f"{letters}@{','.join(map(str, axes))}"

    def ties(self) -> str:
        """The pairs (first of its set, another one)."""
        return " ".join(self.names[root] + letter for letter, root in self.roots.items() if self.names[root] != letter)


def loose(word: str) -> str:
    """`....@1` and `.` both say that all labels stay."""
    return "." if set(word.split("@")[0]) <= {".", "/"} else word


def reads_vectors(item: Row) -> bool:
    return any(f"{sign}{name}" in item.text for name in "uw" for sign in ("(", " ")) and "(x" not in item.text


@pytest.mark.parametrize("item", ROWS, ids=lambda r: f"{r.op}: {r.text}, opset {r.opset}{', through' * r.through}")
def test_rule(item):
    trace, nodes = traced(item)
    alphabet = Alphabet(trace, vectors=reads_vectors(item))
    last = len(trace.graph.nodes) - 2
    assert qualified(trace.graph.nodes[last].domain, trace.graph.nodes[last].op_type) == item.op
    found = [alphabet.word(trace.marks[name].ids) for name in nodes[-1].output]
    assert [loose(word) for word in found] == [loose(word) for word in item.outs]
    assert alphabet.ties() == " ".join(sorted(item.same.split(), key=lambda pair: pair[1]))
    assert "".join(sorted(letter for letter, root in alphabet.roots.items() if root in trace.frozen)) == item.stays
    binds = {
        str(trace.graph.nodes[last].inputs[i].name): [alphabet.word(f.ids) for f in factors]
        for (index, i), factors in trace.binds.items()
        if index == last
    }
    assert binds == item.binds
    if item.rows:
        rows = [
            "/".join("".join(map(alphabet.letter, line)) for line in r.ids.tolist())
            for r in trace.rows
            if r.index == last
        ]
        assert rows == list(item.rows)


def qualified(domain: str, op: str) -> str:
    return f"{domain}.{op}" if domain else op


def test_every_rule_is_tested():
    """An operator that is registered without a row fails here."""
    assert {qualified(*key) for key in RULES} == {item.op for item in ROWS}


def test_operator_without_a_rule_freezes_what_it_reads():
    trace, _ = traced(Row("Det", "y = Det(x)", ["."]))
    alphabet = Alphabet(trace, vectors=False)
    why = {reason.reason for letter in "abcd" for reason in trace.frozen[alphabet.roots[letter]]}
    assert why == {"is read by Det, which has no rule"}
    assert alphabet.word(trace.marks["y"].ids) == "."


def test_operator_of_another_domain_has_no_rule():
    """Its name alone says nothing: `com.microsoft` has operators that are called as standard ones are."""
    assert ("com.microsoft", "Relu") not in RULES
