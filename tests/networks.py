"""Small ONNX graphs with the structures that real exporters write: `NETWORKS[name](rng) -> ModelProto`.

Every network is built with onnx.helper and numpy alone, has random weights and takes NCHW float32 images with
a dynamic batch unless it is about something else. Each one stands for something that was seen in real files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import DTypeLike

NETWORKS: dict[str, Callable[[np.random.Generator], ModelProto]] = {}

SIZES = (24, 32, 16)  # what symbolic dimensions other than the batch become, in order of appearance
LAST = np.iinfo(np.int64).max
CLASSES = 10
VOCABULARY = 16  # integer inputs are indices below this


# ---------------------------------------------------------------------------------------------------------------
# Using the networks


def feeds(model: ModelProto, rng: np.random.Generator, n: int = 4) -> dict[str, np.ndarray]:
    """Random inputs for `model`: `n` samples where the first axis is symbolic, even sizes elsewhere."""
    constants = {tensor.name for tensor in model.graph.initializer}
    sizes: dict[str, int] = {}
    result = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        shape = []
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value"):
                shape.append(dim.dim_value)
            elif axis == 0:
                shape.append(n)
            else:
                key = dim.dim_param or f"{value.name}.{axis}"
                shape.append(sizes.setdefault(key, SIZES[len(sizes) % len(SIZES)]))
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if np.issubdtype(dtype, np.integer):
            result[value.name] = rng.integers(0, VOCABULARY, shape).astype(dtype)
        else:
            result[value.name] = rng.standard_normal(shape).astype(dtype)
    return result


def exports() -> list[Path]:
    """Real exports of small torch networks; `exports/make.py` wrote them."""
    return sorted((Path(__file__).parent / "exports").rglob("*.onnx"))


# ---------------------------------------------------------------------------------------------------------------
# Building the networks


def network(build: Callable[[np.random.Generator], ModelProto]) -> Callable[[np.random.Generator], ModelProto]:
    NETWORKS[build.__name__] = build
    return build


class Net:
    """Collects nodes and initializers; each method returns the name of the tensor that it made."""

    def __init__(
        self, rng: np.random.Generator, *, opset: int = 17, ir: int = 8, dtype: DTypeLike = np.float32
    ) -> None:
        self.rng, self.opset, self.ir, self.dtype = rng, opset, ir, np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.domains: dict[str, int] = {}
        self.count: dict[str, int] = {}

    def unique(self, stem: str) -> str:
        index = self.count[stem] = self.count.get(stem, -1) + 1
        return f"{stem}_{index}"

    def input(self, shape: Sequence[int | str], name: str = "image", dtype: DTypeLike | None = None) -> str:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype or self.dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def image(self, channels: int = 3, size: int = 16) -> str:
        return self.input(["N", channels, size, size])

    def const(self, value: object, name: str | None = None, dtype: DTypeLike | None = None) -> str:
        """An initializer: int64 where the value has integers, the model's type where it has floats."""
        array = np.asarray(value)
        array = array.astype(dtype or (np.int64 if array.dtype.kind == "i" else self.dtype))
        name = name or self.unique("const")
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weights(self, *shape: int, fan_in: int | None = None) -> np.ndarray:
        fan_in = fan_in or int(np.prod(shape[1:])) or 1
        return self.rng.standard_normal(shape).astype(self.dtype) * self.dtype.type(np.sqrt(2 / fan_in))

    def vector(self, size: int, low: float = -0.5, high: float = 0.5) -> np.ndarray:
        return self.rng.uniform(low, high, size).astype(self.dtype)

    def op(self, kind: str, *inputs: str, domain: str = "", out: str | None = None, **attributes: object) -> str:
        return self.multi(kind, *inputs, domain=domain, outs=[out or self.unique(kind.lower())], **attributes)[0]

    def multi(
        self, kind: str, *inputs: str, domain: str = "", outs: Sequence[str] | int, **attributes: object
    ) -> list[str]:
        names = [self.unique(kind.lower()) for _ in range(outs)] if isinstance(outs, int) else list(outs)
        self.nodes.append(
            helper.make_node(kind, inputs, names, name=f"/{names[0]}/{kind}", domain=domain, **attributes)
        )
        return names

    def conv(
        self,
        x: str,
        cin: int,
        cout: int,
        k: int = 3,
        *,
        group: int = 1,
        bias: bool = True,
        dims: int = 2,
        **more: object,
    ) -> str:
        name = self.unique("conv")
        inputs = [x, self.const(self.weights(cout, cin // group, *[k] * dims), f"{name}.weight")]
        if bias:
            inputs.append(self.const(self.vector(cout), f"{name}.bias"))
        more.setdefault("pads", [k // 2] * (2 * dims))
        return self.op("Conv", *inputs, out=name, kernel_shape=[k] * dims, group=group, **more)

    def bn(self, x: str, channels: int) -> str:
        name = self.unique("bn")
        scale, bias = self.vector(channels, 0.5, 1.5), self.vector(channels)
        mean, var = self.vector(channels), self.vector(channels, 0.5, 1.5)
        parts = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var}
        params = [self.const(value, f"{name}.{part}") for part, value in parts.items()]
        return self.op("BatchNormalization", x, *params, out=name)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def block(self, x: str, cin: int, cout: int, k: int = 3, **more: object) -> str:
        """Convolution, BatchNormalization, ReLU."""
        return self.relu(self.bn(self.conv(x, cin, cout, k, bias=False, **more), cout))

    def linear(self, x: str, cin: int, cout: int, out: str | None = None) -> str:
        name = out or self.unique("gemm")
        weight, bias = (
            self.const(self.weights(cout, cin), f"{name}.weight"),
            self.const(self.vector(cout), f"{name}.bias"),
        )
        return self.op("Gemm", x, weight, bias, out=name, transB=1)

    def head(self, x: str, channels: int, out: str = "logits") -> str:
        """Global pooling and a classifier."""
        pooled = self.op("GlobalAveragePool", x)
        return self.linear(self.op("Flatten", pooled, axis=1), channels, CLASSES, out=out)

    def model(self, *outputs: str | tuple[str, Sequence[int | str]], kind: DTypeLike | None = None) -> ModelProto:
        """The finished model; an output's shape is inferred unless it is given."""
        kind_ = helper.np_dtype_to_tensor_dtype(np.dtype(kind or self.dtype))
        values = [
            helper.make_tensor_value_info(o, kind_, None)
            if isinstance(o, str)
            else helper.make_tensor_value_info(o[0], kind_, o[1])
            for o in outputs
        ]
        graph = helper.make_graph(self.nodes, "network", self.inputs, values, self.initializers)
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(*item) for item in self.domains.items())]
        model = helper.make_model(
            graph, ir_version=self.ir, opset_imports=opsets, functions=self.functions, producer_name="networks.py"
        )
        inferred = onnx.shape_inference.infer_shapes(model)
        for value, known in zip(model.graph.output, inferred.graph.output, strict=True):
            if not value.type.tensor_type.HasField("shape"):
                value.type.tensor_type.shape.CopyFrom(known.type.tensor_type.shape)
        return model


# ---------------------------------------------------------------------------------------------------------------
# Where the weights come from


@network
def plain(rng):
    """What everything else is a variation of."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.block(x, 8, 12)
    return net.model(net.head(x, 12))


@network
def constant_nodes(rng):
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    x = net.block(x, 8, 12)
    net.head(x, 12)
    constants = [
        helper.make_node("Constant", [], [t.name], name=f"Constant_{i}", value=t)
        for i, t in enumerate(net.initializers)
    ]
    net.nodes, net.initializers = constants + net.nodes, []
    return net.model("logits")


@network
def weight_behind_identity(rng):
    net = Net(rng)
    x = net.image()
    for cin, cout in ((3, 8), (8, 12)):
        weight = net.op("Identity", net.op("Identity", net.const(net.weights(cout, cin, 3, 3))))
        bias = net.op("Identity", net.const(net.vector(cout)))
        x = net.relu(net.op("Conv", x, weight, bias, pads=[1, 1, 1, 1]))
    return net.model(net.head(x, 12))


@network
def weight_behind_transpose(rng):
    """Kernels stored as HWIO, the way Keras keeps them, and a linear layer stored as [in, out]."""
    net = Net(rng)
    x = net.image()
    for cin, cout in ((3, 8), (8, 12)):
        stored = net.const(net.weights(3, 3, cin, cout, fan_in=9 * cin))
        weight = net.op("Transpose", stored, perm=[3, 2, 0, 1])
        x = net.relu(net.op("Conv", x, weight, net.const(net.vector(cout)), pads=[1, 1, 1, 1]))
    x = net.relu(net.op("Flatten", net.op("GlobalAveragePool", x)))
    hidden = net.op("Gemm", x, net.op("Transpose", net.const(net.weights(16, 12)), perm=[1, 0]))
    weight = net.op("Transpose", net.const(net.weights(12, 16, fan_in=16)[:CLASSES]))  # no perm: reversed
    return net.model(net.op("MatMul", net.relu(hidden), weight, out="logits"))


@network
def weight_behind_cast(rng):
    """Stored in half precision, used in single."""
    net = Net(rng)
    x = net.image()
    for cin, cout in ((3, 8), (8, 12)):
        stored = net.const(net.weights(cout, cin, 3, 3), dtype=np.float16)
        bias = net.op("Cast", net.const(net.vector(cout), dtype=np.float16), to=TensorProto.FLOAT)
        x = net.relu(net.op("Conv", x, net.op("Cast", stored, to=TensorProto.FLOAT), bias, pads=[1, 1, 1, 1]))
    return net.model(net.head(x, 12))


@network
def weight_behind_arithmetic(rng):
    """Scaled and reshaped constants: a subgraph that any runtime folds."""
    net = Net(rng)
    x = net.image()
    for cin, cout in ((3, 8), (8, 12)):
        flat = net.const(net.weights(cout, cin * 9))
        shape = net.const([cout, cin, 3, 3])
        scale = net.op("Unsqueeze", net.const(net.vector(cout, 0.5, 1.5)), net.const([1, 2, 3]))
        weight = net.op("Mul", net.op("Reshape", flat, shape), scale)
        x = net.relu(net.op("Conv", x, weight, pads=[1, 1, 1, 1]))
    return net.model(net.head(x, 12))


@network
def weight_of_constant_shape(rng):
    """A bias made by ConstantOfShape."""
    net = Net(rng)
    value = numpy_helper.from_array(np.array([0.25], np.float32))
    x = net.image()
    for cin, cout in ((3, 8), (8, 12)):
        bias = net.op("ConstantOfShape", net.const([cout]), value=value)
        x = net.relu(net.op("Conv", x, net.const(net.weights(cout, cin, 3, 3)), bias, pads=[1, 1, 1, 1]))
    return net.model(net.head(x, 12))


@network
def shared_conv_weight(rng):
    """One kernel, two convolutions: once a chain, once two branches."""
    net = Net(rng)
    x = net.relu(net.conv(net.image(), 3, 8))
    weight, bias = net.const(net.weights(8, 8, 3, 3), "shared.weight"), net.const(net.vector(8), "shared.bias")
    first = net.relu(net.op("Conv", x, weight, bias, pads=[1, 1, 1, 1], out="first"))
    second = net.relu(net.op("Conv", first, weight, bias, pads=[1, 1, 1, 1], out="second"))
    return net.model(net.head(net.conv(second, 8, 12), 12))


@network
def shared_conv_weight_branches(rng):
    """A detector's head: the same convolution on two levels of a pyramid."""
    net = Net(rng)
    fine = net.block(net.image(), 3, 8)
    coarse = net.block(fine, 8, 8, strides=[2, 2])
    weight, bias = net.const(net.weights(12, 8, 3, 3), "tower.weight"), net.const(net.vector(12), "tower.bias")
    final = net.const(net.weights(4, 12, 1, 1), "final.weight")
    boxes = []
    for level in (fine, coarse):
        y = net.relu(net.op("Conv", level, weight, bias, pads=[1, 1, 1, 1]))
        y = net.op("Transpose", net.op("Conv", y, final), perm=[0, 2, 3, 1])
        boxes.append(net.op("Reshape", y, net.const([0, -1, 4])))
    return net.model(net.op("Concat", *boxes, axis=1, out="boxes"))


@network
def shared_prelu_slope(rng):
    """Two PRelus of equal slopes, merged by a simplifier."""
    net = Net(rng)
    slope = net.const(net.vector(8, 0.1, 0.4).reshape(8, 1, 1), "slope")
    x = net.op("PRelu", net.conv(net.image(), 3, 8), slope)
    x = net.op("PRelu", net.conv(x, 8, 8), slope)
    return net.model(net.head(x, 8))


@network
def shared_batch_norm(rng):
    """Two BatchNormalizations reading one set of statistics."""
    net = Net(rng)
    params = [net.const(net.vector(8, 0.5, 1.5), f"bn.{part}") for part in ("weight", "bias", "mean", "var")]
    x = net.relu(net.op("BatchNormalization", net.conv(net.image(), 3, 8), *params))
    x = net.relu(net.op("BatchNormalization", net.conv(x, 8, 8), *params))
    return net.model(net.head(x, 8))


@network
def identity_aliases(rng):
    """Equal tensors exported once and aliased by Identity, as torch does when it keeps parameters."""
    net = Net(rng)
    ones, zeros = net.const(np.ones(8), "bn1.weight"), net.const(np.zeros(8), "bn1.bias")
    alias = {name: net.op("Identity", value, out=name) for name, value in (("bn2.weight", ones), ("bn2.bias", zeros))}
    means = [net.const(net.vector(8), f"mean{i}") for i in range(2)]
    variances = [net.const(net.vector(8, 0.5, 1.5), f"var{i}") for i in range(2)]
    x = net.conv(net.image(), 3, 8)
    x = net.relu(net.op("BatchNormalization", x, ones, zeros, means[0], variances[0]))
    x = net.conv(x, 8, 8)
    x = net.relu(net.op("BatchNormalization", x, alias["bn2.weight"], alias["bn2.bias"], means[1], variances[1]))
    return net.model(net.head(x, 8))


@network
def bias_of_another_layer(rng):
    """The second bias is an Identity of the first one's: cut one, cut both."""
    net = Net(rng)
    bias = net.const(net.vector(8), "conv1.bias")
    alias = net.op("Identity", bias, out="conv2.bias")
    x = net.image()
    x = net.relu(net.op("Conv", x, net.const(net.weights(8, 3, 3, 3), "conv1.weight"), bias, pads=[1, 1, 1, 1]))
    x = net.relu(net.op("Conv", x, net.const(net.weights(8, 8, 3, 3), "conv2.weight"), alias, pads=[1, 1, 1, 1]))
    return net.model(net.head(x, 8))


@network
def ir3_opset7(rng):
    """Old files list their initializers among the inputs."""
    net = Net(rng, opset=7, ir=3)
    x = net.op("MaxPool", net.block(net.image(), 3, 8), kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Dropout", net.block(x, 8, 12), ratio=0.5)
    net.head(x, 12)
    net.inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in net.initializers]
    return net.model("logits")


@network
def initializers_as_inputs(rng):
    """The same in a file of today: overridable initializers."""
    net = Net(rng)
    net.head(net.block(net.block(net.image(), 3, 8), 8, 12), 12)
    net.inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in net.initializers]
    return net.model("logits")


@network
def fp16(rng):
    net = Net(rng, dtype=np.float16)
    x = net.relu(net.conv(net.image(), 3, 8))
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def float_data_fields(rng):
    """Weights in float_data and int64_data instead of raw_data."""
    net = Net(rng)
    x = net.block(net.image(size=8), 3, 8)
    x = net.op("Reshape", net.block(x, 8, 12), net.const([-1, 12 * 64]))
    net.linear(x, 12 * 64, CLASSES, out="logits")
    arrays = {t.name: numpy_helper.to_array(t) for t in net.initializers}
    net.initializers = [
        helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape, a.ravel())
        for name, a in arrays.items()
    ]
    return net.model("logits")


# ---------------------------------------------------------------------------------------------------------------
# Linear layers


@network
def gemm_plain(rng):
    """transB = 0."""
    net = Net(rng)
    x = net.input(["N", 20], "x")
    for i, (cin, cout) in enumerate(((20, 16), (16, 12), (12, 5))):
        weight, bias = net.const(net.weights(cin, cout, fan_in=cin)), net.const(net.vector(cout))
        x = net.op("Gemm", x, weight, bias, out="y" if i == 2 else None)
        x = x if i == 2 else net.relu(x)
    return net.model(x)


@network
def gemm_trans_b(rng):
    """transB = 1, with alpha, beta and a bias of one number."""
    net = Net(rng)
    x = net.input(["N", 20], "x")
    x = net.relu(
        net.op("Gemm", x, net.const(net.weights(16, 20)), net.const(net.vector(16)), transB=1, alpha=0.5, beta=2.0)
    )
    x = net.relu(net.op("Gemm", x, net.const(net.weights(12, 16)), net.const(net.vector(1)), transB=1))
    return net.model(net.linear(x, 12, 5, out="y"))


@network
def gemm_trans_a(rng):
    """The activation arrives transposed."""
    net = Net(rng)
    x = net.relu(net.linear(net.input(["N", 20], "x"), 20, 16))
    x = net.op("Transpose", x, perm=[1, 0])
    x = net.relu(net.op("Gemm", x, net.const(net.weights(16, 12, fan_in=16)), net.const(net.vector(12)), transA=1))
    return net.model(net.linear(x, 12, 5, out="y"))


@network
def gemm_weight_first(rng):
    """W x^T: the weight is the first operand."""
    net = Net(rng)
    x = net.relu(net.linear(net.input(["N", 20], "x"), 20, 16))
    x = net.relu(net.op("Gemm", net.const(net.weights(12, 16)), x, transB=1))  # [12, N]
    return net.model(net.linear(net.op("Transpose", x, perm=[1, 0]), 12, 5, out="y"))


@network
def matmul_bias(rng):
    """MatMul and Add, the bias on either side."""
    net = Net(rng)
    x = net.input(["N", 20], "x")
    x = net.relu(
        net.op("Add", net.op("MatMul", x, net.const(net.weights(20, 16, fan_in=20))), net.const(net.vector(16)))
    )
    x = net.relu(
        net.op("Add", net.const(net.vector(12)), net.op("MatMul", x, net.const(net.weights(16, 12, fan_in=16))))
    )
    return net.model(net.linear(x, 12, 5, out="y"))


@network
def matmul_tokens(rng):
    """[N, T, C] with an MLP, LayerNormalization and a residual."""
    net = Net(rng)
    tokens = net.input(["N", "T", 12], "tokens")
    scale, shift = net.const(net.vector(12, 0.5, 1.5)), net.const(net.vector(12))
    x = net.op("LayerNormalization", tokens, scale, shift, axis=-1)
    x = net.op("Add", net.op("MatMul", x, net.const(net.weights(12, 24, fan_in=12))), net.const(net.vector(24)))
    x = net.op("MatMul", net.relu(x), net.const(net.weights(24, 12, fan_in=24)))
    x = net.op("Add", tokens, net.op("Add", x, net.const(net.vector(12))))
    return net.model(net.op("MatMul", x, net.const(net.weights(12, 5, fan_in=12)), out="y"))


@network
def attention(rng):
    """Two heads, q, k and v separate, heads by Reshape and Transpose."""
    net = Net(rng)
    tokens = net.input(["N", 6, 12], "tokens")
    parts = {}
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        y = net.op("MatMul", tokens, net.const(net.weights(12, 16, fan_in=12), f"{name}.weight"))
        y = net.op("Add", net.const(net.vector(16), f"{name}.bias"), y)
        parts[name] = net.op("Transpose", net.op("Reshape", y, net.const([0, 0, 2, 8])), perm=perm)
    scores = net.op("Div", net.op("MatMul", parts["q"], parts["k"]), net.const(np.float32(8**0.5)))
    x = net.op("MatMul", net.op("Softmax", scores, axis=-1), parts["v"])
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3]), net.const([0, 0, 16]))
    return net.model(net.op("MatMul", x, net.const(net.weights(16, 5, fan_in=16)), out="y"))


@network
def einsum(rng):
    """A contraction written as Einsum."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    x = net.relu(net.op("Einsum", x, net.const(net.weights(12, 8)), equation="nchw,dc->ndhw"))
    return net.model(net.head(net.conv(x, 12, 8), 8))


@network
def embedding_mlp(rng):
    """Token ids, a table of vectors, an MLP."""
    net = Net(rng)
    ids = net.input(["N", 6], "ids", np.int64)
    x = net.op("Gather", net.const(net.weights(VOCABULARY, 12, fan_in=2), "table"), ids, axis=0)
    x = net.op("Reshape", x, net.const([-1, 72]))
    return net.model(net.linear(net.relu(net.linear(x, 72, 16)), 16, 5, out="y"))


@network
def conv_lstm(rng):
    """A text recogniser: convolutions, then an LSTM over the columns."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8, strides=[16, 1])
    x = net.op("Transpose", net.op("Squeeze", x, net.const([2])), perm=[2, 0, 1])  # [W, N, C]
    w, r = net.const(net.weights(1, 24, 8, fan_in=8)), net.const(net.weights(1, 24, 6, fan_in=6))
    x = net.op("LSTM", x, w, r, net.const(net.vector(48).reshape(1, 48)), hidden_size=6)
    x = net.op("Squeeze", x, net.const([1]))
    x = net.op("MatMul", x, net.const(net.weights(6, 5, fan_in=6)))
    return net.model(net.op("Transpose", x, perm=[1, 0, 2], out="y"))


@network
def conv_gru(rng):
    net = Net(rng)
    x = net.block(net.image(), 3, 8, strides=[16, 1])
    x = net.op("Transpose", net.op("Squeeze", x, net.const([2])), perm=[2, 0, 1])
    w, r = net.const(net.weights(1, 18, 8, fan_in=8)), net.const(net.weights(1, 18, 6, fan_in=6))
    x = net.op("Squeeze", net.op("GRU", x, w, r, hidden_size=6), net.const([1]))
    return net.model(net.op("Transpose", x, perm=[1, 0, 2], out="y"))


# ---------------------------------------------------------------------------------------------------------------
# Normalisation and activations


@network
def bn_as_sub_mul_add(rng):
    net = Net(rng)
    x = net.image()
    for cin, cout in ((3, 8), (8, 12)):
        mean, scale, shift = (
            net.const(net.vector(cout, *ends).reshape(1, cout, 1, 1)) for ends in ((-0.5, 0.5), (0.5, 1.5), (-0.5, 0.5))
        )
        x = net.op("Sub", net.conv(x, cin, cout, bias=False), mean)
        x = net.relu(net.op("Add", net.op("Mul", x, scale), shift))
    return net.model(net.head(x, 12))


@network
def bn_as_mul_add_unsqueezed(rng):
    net = Net(rng)
    x = net.image()
    axes = net.const([1, 2])
    for cin, cout in ((3, 8), (8, 12)):
        scale = net.op("Unsqueeze", net.const(net.vector(cout, 0.5, 1.5)), axes)
        shift = net.op("Unsqueeze", net.const(net.vector(cout)), axes)
        x = net.op("Mul", scale, net.conv(x, cin, cout, bias=False))
        x = net.relu(net.op("Add", x, shift))
    return net.model(net.head(x, 12))


@network
def bn_with_casts(rng):
    """Half-precision graph that normalises in single precision."""
    net = Net(rng)
    x = net.op("Cast", net.image(), to=TensorProto.FLOAT16)
    for cin, cout in ((3, 8), (8, 12)):
        x = net.op("Conv", x, net.const(net.weights(cout, cin, 3, 3), dtype=np.float16), pads=[1, 1, 1, 1])
        x = net.bn(net.op("Cast", x, to=TensorProto.FLOAT), cout)
        x = net.op("Cast", net.relu(x), to=TensorProto.FLOAT16)
    return net.model(net.head(net.op("Cast", x, to=TensorProto.FLOAT), 12))


@network
def bn_after_relu(rng):
    """A removed channel still carries the shift of its BatchNormalization."""
    net = Net(rng)
    x = net.bn(net.relu(net.conv(net.image(), 3, 8)), 8)
    x = net.bn(net.relu(net.conv(x, 8, 12)), 12)
    return net.model(net.head(x, 12))


@network
def bn_before_conv(rng):
    """Pre-activation residual blocks."""
    net = Net(rng)
    x = net.conv(net.image(), 3, 8)
    for _ in range(2):
        y = net.conv(net.relu(net.bn(x, 8)), 8, 12)
        y = net.conv(net.relu(net.bn(y, 12)), 12, 8)
        x = net.op("Add", x, y)
    return net.model(net.head(net.relu(net.bn(x, 8)), 8))


@network
def instance_norm(rng):
    net = Net(rng)
    x = net.conv(net.image(), 3, 8)
    x = net.relu(net.op("InstanceNormalization", x, net.const(net.vector(8, 0.5, 1.5)), net.const(net.vector(8))))
    return net.model(net.conv(x, 8, 4))


@network
def group_norm_decomposed(rng):
    """GroupNorm as torch writes it: Reshape, InstanceNormalization, Reshape, Mul, Add."""
    net = Net(rng)
    x = net.conv(net.image(), 3, 8)
    y = net.op("Reshape", x, net.const([0, 2, -1]))
    y = net.op("InstanceNormalization", y, net.const(np.ones(2)), net.const(np.zeros(2)))
    y = net.op("Reshape", y, net.op("Shape", x))
    y = net.op("Mul", y, net.const(net.vector(8, 0.5, 1.5).reshape(8, 1, 1)))
    x = net.relu(net.op("Add", y, net.const(net.vector(8).reshape(8, 1, 1))))
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def layer_norm_decomposed(rng):
    """LayerNorm over channels, spelled out."""
    net = Net(rng)
    x = net.conv(net.image(), 3, 8)
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[1], keepdims=1))
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), axes=[1], keepdims=1)
    x = net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.const(1e-5))))
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def lrn(rng):
    net = Net(rng)
    x = net.op("LRN", net.block(net.image(), 3, 8), size=3)
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def softmax_over_channels(rng):
    net = Net(rng)
    x = net.op("Softmax", net.conv(net.block(net.image(), 3, 8), 8, 6), axis=1)
    return net.model(net.head(net.block(x, 6, 12), 12))


@network
def softmax_over_space(rng):
    """Soft arg-max of key points: channels stay apart."""
    net = Net(rng)
    x = net.conv(net.block(net.image(), 3, 8), 8, 12)
    x = net.op("Softmax", net.op("Reshape", x, net.const([0, 0, -1])), axis=-1)
    x = net.op("MatMul", x, net.const(net.weights(256, 2, fan_in=1)))  # [N, 12, 2]
    return net.model(net.linear(net.op("Flatten", x), 24, CLASSES, out="logits"))


@network
def clip_inputs(rng):
    net = Net(rng)
    x = net.op("Clip", net.bn(net.conv(net.image(), 3, 8), 8), net.const(0.0), net.const(6.0))
    x = net.op("Clip", net.conv(x, 8, 12), "", net.const(1.0))
    return net.model(net.head(x, 12))


@network
def clip_opset6(rng):
    net = Net(rng, opset=8, ir=3)
    x = net.op("Clip", net.bn(net.conv(net.image(), 3, 8), 8), min=0.0, max=6.0)
    net.head(net.op("Clip", net.conv(x, 8, 12), max=1.0), 12)
    net.inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in net.initializers]
    return net.model("logits")


@network
def activations(rng):
    """Every common element-wise activation, one after the other."""
    net = Net(rng, opset=20, ir=9)
    x = net.image()
    cin = 3
    for kind in ("LeakyRelu", "Elu", "Selu", "HardSwish", "HardSigmoid", "Softplus", "Mish", "Gelu", "Tanh", "Erf"):
        x = net.op(kind, net.conv(x, cin, 6))
        cin = 6
    return net.model(net.head(x, 6))


@network
def swish_and_gelu_spelled_out(rng):
    net = Net(rng)
    x = net.conv(net.image(), 3, 8)
    x = net.op("Mul", x, net.op("Sigmoid", x))
    x = net.conv(x, 8, 12)
    erf = net.op("Erf", net.op("Div", x, net.const(np.float32(2**0.5))))
    x = net.op("Mul", net.op("Mul", x, net.op("Add", erf, net.const(1.0))), net.const(0.5))
    return net.model(net.head(x, 12))


@network
def prelu(rng):
    """A slope per channel, and a slope of one number."""
    net = Net(rng)
    x = net.op("PRelu", net.conv(net.image(), 3, 8), net.const(net.vector(8, 0.1, 0.4).reshape(8, 1, 1)))
    x = net.op("PRelu", net.conv(x, 8, 12), net.const(np.array([0.2])))
    return net.model(net.head(x, 12))


@network
def prelu_split(rng):
    """PRelu spelled out: relu(x) + slope * (x - |x|) / 2."""
    net = Net(rng)
    x = net.image()
    for cin, cout in ((3, 8), (8, 12)):
        x = net.conv(x, cin, cout)
        slope = net.const(net.vector(cout, 0.1, 0.4).reshape(cout, 1, 1))
        negative = net.op("Mul", slope, net.op("Sub", x, net.op("Abs", x)))
        x = net.op("Add", net.relu(x), net.op("Mul", negative, net.const(0.5)))
    return net.model(net.head(x, 12))


@network
def dropout_and_identities(rng):
    net = Net(rng)
    x = net.op("Identity", net.op("Identity", net.block(net.image(), 3, 8)))
    x = net.op("Dropout", net.block(x, 8, 12), net.const(0.5))
    return net.model(net.op("Identity", net.head(x, 12, out="scores"), out="logits"))


# ---------------------------------------------------------------------------------------------------------------
# Branches that meet


@network
def residual_add(rng):
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    for _ in range(2):
        y = net.bn(net.conv(net.block(x, 8, 12), 12, 8, bias=False), 8)
        x = net.relu(net.op("Add", y, x))
    shortcut = net.bn(net.conv(x, 8, 16, 1, strides=[2, 2]), 16)
    y = net.bn(net.conv(net.block(x, 8, 12, strides=[2, 2]), 12, 16), 16)
    return net.model(net.head(net.relu(net.op("Add", y, shortcut)), 16))


@network
def residual_sum(rng):
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    x = net.relu(net.op("Sum", x, net.conv(x, 8, 8), net.conv(x, 8, 8, 1)))
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def residual_on_the_input(rng):
    """A denoiser: the network's input is added to its output."""
    net = Net(rng)
    image = net.image()
    x = net.relu(net.conv(net.relu(net.conv(image, 3, 8)), 8, 12))
    return net.model(net.op("Sub", image, net.conv(x, 12, 3), out="clean"))


@network
def concat(rng):
    """Dense blocks: every layer sees all before it."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    channels = 8
    for _ in range(3):
        y = net.conv(net.relu(net.bn(x, channels)), channels, 4, bias=False)
        x = net.op("Concat", x, y, axis=1)
        channels += 4
    return net.model(net.head(net.relu(net.bn(x, channels)), channels))


@network
def concat_of_the_same(rng):
    """One tensor twice in a Concat, then added to a wide one."""
    net = Net(rng)
    x = net.block(net.image(), 3, 6)
    x = net.op("Add", net.op("Concat", x, x, axis=1), net.conv(x, 6, 12))
    return net.model(net.head(net.block(x, 12, 8), 8))


@network
def concat_with_constant(rng):
    """Constant channels beside computed ones (coordinates, for example)."""
    net = Net(rng)
    x = net.block(net.input([1, 3, 16, 16]), 3, 8)
    planes = net.const(net.rng.standard_normal((1, 2, 16, 16)))
    x = net.op("Concat", x, planes, axis=1)
    x = net.relu(net.bn(x, 10))
    return net.model(net.head(net.block(x, 10, 12), 12))


@network
def concat_with_expanded_constant(rng):
    """The same for any batch: coordinates expanded to as many samples as there are."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    batch = net.op("Slice", net.op("Shape", x), net.const([0]), net.const([1]))
    rows, columns = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16), indexing="ij")
    planes = net.const(np.stack([rows, columns])[None])
    planes = net.op("Expand", planes, net.op("Concat", batch, net.const([2, 16, 16]), axis=0))
    x = net.relu(net.bn(net.op("Concat", x, planes, axis=1), 10))
    return net.model(net.head(net.block(x, 10, 12), 12))


@network
def concat_over_space(rng):
    """Two maps stacked: their channels move together."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    a, b = net.conv(x, 8, 12), net.conv(net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), 8, 12)
    a, b = (net.op("Reshape", y, net.const([0, 12, -1])) for y in (a, b))
    x = net.op("Transpose", net.relu(net.op("Concat", a, b, axis=2)), perm=[0, 2, 1])
    return net.model(net.op("MatMul", x, net.const(net.weights(12, 5, fan_in=12)), out="y"))


@network
def squeeze_excite_pool(rng):
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    gate = net.relu(net.conv(net.op("GlobalAveragePool", x), 12, 6, 1))
    gate = net.op("HardSigmoid", net.conv(gate, 6, 12, 1))
    return net.model(net.head(net.block(net.op("Mul", gate, x), 12, 8), 8))


@network
def squeeze_excite_reduce(rng):
    """The gate on [N, C], reached by ReduceMean and left by Unsqueeze."""
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    gate = net.op("ReduceMean", x, axes=[2, 3], keepdims=0)
    gate = net.op("Sigmoid", net.linear(net.relu(net.linear(gate, 12, 6)), 6, 12))
    x = net.op("Mul", x, net.op("Unsqueeze", gate, net.const([2, 3])))
    return net.model(net.head(net.block(x, 12, 8), 8))


@network
def squeeze_excite_opset18(rng):
    """Axes as an input; the gate expanded to the map's shape."""
    net = Net(rng, opset=18)
    x = net.block(net.image(), 3, 12)
    gate = net.op("ReduceMean", x, net.const([-1, -2]), keepdims=1)
    gate = net.op("Sigmoid", net.conv(net.relu(net.conv(gate, 12, 6, 1)), 6, 12, 1))
    x = net.op("Mul", x, net.op("Expand", gate, net.op("Shape", x)))
    return net.model(net.head(net.block(x, 12, 8), 8))


@network
def spatial_attention(rng):
    """Means and maxima over the channels gate the map."""
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    mean, top = net.op("ReduceMean", x, axes=[1], keepdims=1), net.op("ReduceMax", x, axes=[1], keepdims=1)
    gate = net.op("Sigmoid", net.conv(net.op("Concat", mean, top, axis=1), 2, 1, 5))
    return net.model(net.head(net.block(net.op("Mul", x, gate), 12, 8), 8))


@network
def two_outputs(rng):
    """A tensor in the middle is an output too."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    features = net.relu(net.conv(x, 8, 12))
    return net.model(net.head(net.block(features, 12, 16), 16), features)


@network
def two_inputs(rng):
    """An image and a vector that joins after the pooling."""
    net = Net(rng)
    x = net.op("Flatten", net.op("GlobalAveragePool", net.block(net.image(), 3, 8)))
    extra = net.relu(net.linear(net.input(["N", 5], "extra"), 5, 6))
    x = net.op("Concat", x, extra, axis=-1)
    return net.model(net.linear(net.relu(net.linear(x, 14, 12)), 12, CLASSES, out="logits"))


@network
def where_mask(rng):
    """Element-wise ternary operator with a comparison."""
    net = Net(rng)
    x = net.conv(net.image(), 3, 8)
    x = net.op("Where", net.op("Greater", x, net.const(0.0)), x, net.op("Mul", x, net.const(0.1)))
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def mutual_gating(rng):
    """Max, Min and Pow of two branches."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    a, b = net.conv(x, 8, 12), net.conv(x, 8, 12)
    x = net.op("Add", net.op("Max", a, b), net.op("Pow", net.op("Min", a, b), net.const(2.0)))
    return net.model(net.head(x, 12))


# ---------------------------------------------------------------------------------------------------------------
# Flatten and Reshape


@network
def flatten_gemm_nchw(rng):
    net = Net(rng)
    x = net.op("MaxPool", net.block(net.image(size=8), 3, 8), kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Flatten", x, axis=1)
    return net.model(net.linear(net.relu(net.linear(x, 128, 12)), 12, CLASSES, out="logits"))


@network
def flatten_gemm_nhwc(rng):
    net = Net(rng)
    x = net.op("MaxPool", net.block(net.image(size=8), 3, 8), kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Flatten", net.op("Transpose", x, perm=[0, 2, 3, 1]), axis=1)
    return net.model(net.linear(net.relu(net.linear(x, 128, 12)), 12, CLASSES, out="logits"))


@network
def reshape_constant(rng):
    """[-1, C*H*W] with the product written as a number."""
    net = Net(rng)
    x = net.block(net.image(size=8), 3, 8, strides=[2, 2])
    x = net.op("Reshape", x, net.const([-1, 128]))
    return net.model(net.linear(net.relu(net.linear(x, 128, 12)), 12, CLASSES, out="logits"))


@network
def reshape_computed(rng):
    """torch's x.view(x.size(0), -1)."""
    net = Net(rng)
    x = net.block(net.image(size=8), 3, 8, strides=[2, 2])
    batch = net.op("Unsqueeze", net.op("Gather", net.op("Shape", x), net.const(0), axis=0), net.const([0]))
    x = net.op("Reshape", x, net.op("Concat", batch, net.const([-1]), axis=0))
    return net.model(net.linear(net.relu(net.linear(x, 128, 12)), 12, CLASSES, out="logits"))


@network
def reshape_computed_channels(rng):
    """The channels are read off the tensor and multiplied: view(n, c * h * w)."""
    net = Net(rng)
    x = net.block(net.image(size=8), 3, 8, strides=[2, 2])
    shape = net.op("Shape", x)
    batch, c, h, w = (net.op("Gather", shape, net.const(i), axis=0) for i in range(4))
    size = net.op("Mul", net.op("Mul", c, h), w)
    target = [net.op("Unsqueeze", value, net.const([0])) for value in (batch, size)]
    x = net.op("Reshape", x, net.op("Concat", *target, axis=0))
    return net.model(net.linear(net.relu(net.linear(x, 128, 12)), 12, CLASSES, out="logits"))


@network
def channel_shuffle(rng):
    """ShuffleNet v1: grouped, shuffled, depthwise, grouped."""
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    y = net.block(x, 12, 12, 1, group=3)
    y = net.op("Reshape", y, net.const([-1, 3, 4, 16, 16]))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3, 4]), net.const([-1, 12, 16, 16]))
    y = net.bn(net.conv(y, 12, 12, group=12), 12)
    y = net.bn(net.conv(y, 12, 12, 1, group=3), 12)
    return net.model(net.head(net.relu(net.op("Add", x, y)), 12))


@network
def channel_shuffle_of_a_dense_layer(rng):
    """Nothing grouped: every channel could go by itself, but for the shuffle."""
    net = Net(rng)
    x = net.op("Reshape", net.block(net.image(), 3, 12), net.const([0, 2, 6, 16, 16]))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3, 4]), net.const([0, -1, 16, 16]))
    return net.model(net.head(net.block(x, 12, 8), 8))


@network
def depth_to_space_dcr(rng):
    net = Net(rng)
    x = net.op("DepthToSpace", net.block(net.image(), 3, 24), blocksize=2, mode="DCR")
    return net.model(net.conv(net.block(x, 6, 8), 8, 3))


@network
def depth_to_space_crd(rng):
    net = Net(rng)
    x = net.op("DepthToSpace", net.block(net.image(), 3, 24), blocksize=2, mode="CRD")
    return net.model(net.conv(net.block(x, 6, 8), 8, 3))


@network
def pixel_shuffle_spelled_out(rng):
    """DepthToSpace as Reshape, Transpose, Reshape."""
    net = Net(rng)
    x = net.op("Reshape", net.block(net.image(), 3, 24), net.const([-1, 6, 2, 2, 16, 16]))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 1, 4, 2, 5, 3]), net.const([-1, 6, 32, 32]))
    return net.model(net.conv(net.block(x, 6, 8), 8, 3))


@network
def space_to_depth(rng):
    net = Net(rng)
    x = net.op("SpaceToDepth", net.block(net.image(), 3, 6), blocksize=2)
    return net.model(net.head(net.block(x, 24, 8), 8))


@network
def focus_slices(rng):
    """YOLOv5's first layer, on an activation."""
    net = Net(rng)
    x = net.block(net.image(), 3, 6)
    two, last = net.const([2]), net.const([np.iinfo(np.int64).max])
    parts = []
    for dy, dx in ((0, 0), (1, 0), (0, 1), (1, 1)):
        rows = net.op("Slice", x, net.const([dy]), last, net.const([2]), two)
        parts.append(net.op("Slice", rows, net.const([dx]), last, net.const([3]), two))
    return net.model(net.head(net.block(net.op("Concat", *parts, axis=1), 24, 8), 8))


@network
def windows(rng):
    """Swin's window partition and its reverse, with a linear layer between."""
    net = Net(rng)
    x = net.op("Transpose", net.block(net.image(), 3, 8), perm=[0, 2, 3, 1])
    x = net.op("Reshape", x, net.const([-1, 4, 4, 4, 4, 8]))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 1, 3, 2, 4, 5]), net.const([-1, 16, 8]))
    x = net.relu(net.op("MatMul", x, net.const(net.weights(8, 12, fan_in=8))))
    x = net.op("Reshape", x, net.const([-1, 4, 4, 4, 4, 12]))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 1, 3, 2, 4, 5]), net.const([-1, 16, 16, 12]))
    return net.model(net.head(net.op("Transpose", x, perm=[0, 3, 1, 2]), 12))


# ---------------------------------------------------------------------------------------------------------------
# Groups, splits and pads


@network
def grouped_conv(rng):
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    x = net.block(x, 12, 24, group=3)
    return net.model(net.head(net.block(x, 24, 8, 1), 8))


@network
def depthwise(rng):
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    x = net.block(x, 12, 12, group=12)
    return net.model(net.head(net.block(x, 12, 8, 1), 8))


@network
def depthwise_multiplier(rng):
    """Two outputs per input channel."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    x = net.block(x, 8, 16, group=8)
    return net.model(net.head(net.block(x, 16, 12, 1), 12))


@network
def conv_transpose(rng):
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    weight, bias = net.const(net.weights(12, 8, 2, 2, fan_in=12)), net.const(net.vector(8))
    x = net.relu(net.op("ConvTranspose", x, weight, bias, strides=[2, 2]))
    return net.model(net.conv(x, 8, 3))


@network
def grouped_conv_transpose(rng):
    """Three groups, and one group per channel."""
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    x = net.op("ConvTranspose", x, net.const(net.weights(12, 2, 2, 2, fan_in=4)), group=3, strides=[2, 2])
    x = net.op("ConvTranspose", net.relu(x), net.const(net.weights(6, 1, 2, 2, fan_in=1)), group=6, strides=[2, 2])
    return net.model(net.conv(net.relu(x), 6, 3))


def _split(net: Net, **how: object) -> ModelProto:
    x = net.block(net.image(), 3, 12)
    sizes = [net.const(how.pop("sizes"))] if "sizes" in how else []
    a, b = net.multi("Split", x, *sizes, outs=2, axis=1, **how)
    a, b = net.block(a, 6, 8), net.op("Concat", b, net.block(b, 6, 6), axis=1)
    return net.model(net.head(net.block(net.op("Concat", a, b, axis=1), 20, 12, 1), 12))


@network
def split_opset11(rng):
    return _split(Net(rng, opset=11, ir=6), split=[6, 6])


@network
def split_opset13(rng):
    return _split(Net(rng, opset=13), sizes=[6, 6])


@network
def split_opset18(rng):
    return _split(Net(rng, opset=18), num_outputs=2)


@network
def split_opset18_sizes(rng):
    return _split(Net(rng, opset=18), sizes=[6, 6])


@network
def split_default(rng):
    """Neither sizes nor a count: equal parts, one for each output."""
    return _split(Net(rng, opset=13))


@network
def split_uneven(rng):
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    a, b, c = net.multi("Split", x, net.const([2, 4, 6]), outs=3, axis=1)
    x = net.op("Concat", net.conv(a, 2, 4), net.op("Sigmoid", b), c, axis=1)
    return net.model(net.head(net.block(x, 14, 8), 8))


@network
def gated_linear_unit(rng):
    """Half of the channels gates the other half."""
    net = Net(rng)
    x = net.bn(net.conv(net.image(), 3, 16), 16)
    a, b = net.multi("Split", x, net.const([8, 8]), outs=2, axis=1)
    return net.model(net.head(net.block(net.op("Mul", a, net.op("Sigmoid", b)), 8, 12), 12))


@network
def slice_channels(rng):
    """Starts and ends as inputs, the end beyond the tensor's."""
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    axis = net.const([1])
    first = net.op("Slice", x, net.const([0]), net.const([5]), axis)
    rest = net.op("Slice", x, net.const([5]), net.const([np.iinfo(np.int64).max]), axis)
    x = net.op("Concat", net.conv(first, 5, 4), rest, axis=1)
    return net.model(net.head(net.block(x, 11, 8), 8))


@network
def slice_opset9(rng):
    net = Net(rng, opset=9, ir=4)
    x = net.block(net.image(), 3, 12)
    first, rest = (
        net.op("Slice", x, axes=[1], starts=[0], ends=[5]),
        net.op("Slice", x, axes=[1], starts=[5], ends=[9999]),
    )
    x = net.op("Concat", net.conv(first, 5, 4), rest, axis=1)
    return net.model(net.head(net.block(x, 11, 8), 8))


@network
def slice_backwards(rng):
    """A negative step turns the channels round."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    y = net.op("Slice", x, net.const([-1]), net.const([np.iinfo(np.int64).min]), net.const([1]), net.const([-1]))
    return net.model(net.head(net.block(net.op("Add", x, y), 8, 12), 12))


@network
def gather_permutation(rng):
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    x = net.op("Gather", x, net.const(net.rng.permutation(12)), axis=1)
    return net.model(net.head(net.block(x, 12, 8), 8))


@network
def gather_some(rng):
    """Some channels twice, some never, negative indices."""
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    x = net.op("Gather", x, net.const([0, 0, 3, -1, 5, 7, 3]), axis=1)
    return net.model(net.head(net.block(x, 7, 8), 8))


@network
def pad_shortcut_opset10(rng):
    """A shortcut that gains zero channels; pads as an attribute."""
    net = Net(rng, opset=10, ir=5)
    x = net.block(net.image(), 3, 8)
    y = net.bn(net.conv(x, 8, 12, strides=[2, 2]), 12)
    shortcut = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    shortcut = net.op("Pad", shortcut, pads=[0, 0, 0, 0, 0, 4, 0, 0])
    return net.model(net.head(net.block(net.relu(net.op("Add", y, shortcut)), 12, 8), 8))


@network
def pad_shortcut_opset13(rng):
    """Pads as an input, on both sides."""
    net = Net(rng, opset=13)
    x = net.block(net.image(), 3, 8)
    y = net.bn(net.conv(x, 8, 12, strides=[2, 2]), 12)
    shortcut = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    shortcut = net.op("Pad", shortcut, net.const([0, 1, 0, 0, 0, 3, 0, 0]), net.const(0.0))
    return net.model(net.head(net.block(net.relu(net.op("Add", y, shortcut)), 12, 8), 8))


@network
def pad_shortcut_opset18(rng):
    """Only the padded axis is named."""
    net = Net(rng, opset=18)
    x = net.block(net.image(), 3, 8)
    shortcut = net.op("Pad", x, net.const([0, 4]), "", net.const([1]))
    x = net.relu(net.op("Add", net.conv(x, 8, 12), shortcut))
    return net.model(net.head(net.block(x, 12, 8), 8))


@network
def pad_computed(rng):
    """Pad amounts by ConstantOfShape and Concat, as torch wrote F.pad for years."""
    net = Net(rng, opset=13)
    x = net.block(net.image(), 3, 8)
    zeros = net.op("ConstantOfShape", net.const([2]), value=numpy_helper.from_array(np.array([0], np.int64)))
    given = net.op("Concat", net.const([0, 0, 0, 0, 0, 4]), zeros, axis=0)  # before and after W, H, C, N
    pairs = net.op("Reshape", given, net.const([-1, 2]))
    pairs = net.op(
        "Slice", pairs, net.const([-1]), net.const([np.iinfo(np.int64).min]), net.const([0]), net.const([-1])
    )
    pads = net.op(
        "Cast", net.op("Reshape", net.op("Transpose", pairs, perm=[1, 0]), net.const([-1])), to=TensorProto.INT64
    )
    x = net.relu(net.op("Add", net.conv(x, 8, 12), net.op("Pad", x, pads, net.const(0.0))))
    return net.model(net.head(net.block(x, 12, 8), 8))


@network
def pad_space(rng):
    """Reflection on H and W only, then a convolution without pads."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    x = net.op("Pad", x, net.const([0, 0, 1, 1, 0, 0, 1, 1]), mode="reflect")
    return net.model(net.head(net.block(x, 8, 12, pads=[0, 0, 0, 0]), 12))


@network
def tile_and_expand(rng):
    """A pooled vector laid out over the map again, once by Expand, once by Tile over the channels."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    pooled = net.op("GlobalAveragePool", net.conv(x, 8, 6))
    wide = net.op("Expand", pooled, net.const([1, 6, 16, 16]))
    x = net.op("Concat", x, wide, axis=1)
    x = net.op("Add", net.conv(x, 14, 12), net.op("Tile", pooled, net.const([1, 2, 1, 1])))
    return net.model(net.head(net.relu(x), 12))


# ---------------------------------------------------------------------------------------------------------------
# Layouts and ranks


def _nhwc_conv(net: Net, x: str, cin: int, cout: int, **more: object) -> str:
    """tf2onnx before its transposes are optimised away."""
    x = net.op("Transpose", x, perm=[0, 3, 1, 2])
    x = net.op("Transpose", net.conv(x, cin, cout, bias=False, **more), perm=[0, 2, 3, 1])
    return net.op("Add", x, net.const(net.vector(cout)))


@network
def nhwc(rng):
    """Transposes around every convolution, everything between in NHWC, biases of shape [C]."""
    net = Net(rng)
    x = net.relu(_nhwc_conv(net, net.input(["N", 16, 16, 3]), 3, 8))
    y = net.relu(_nhwc_conv(net, x, 8, 12))
    y = net.op("Mul", y, net.const(net.vector(12, 0.5, 1.5)))
    y = net.op("Sub", _nhwc_conv(net, y, 12, 8), net.const(net.vector(8)))
    x = net.relu(net.op("Add", x, y))
    x = net.op("Concat", x, net.relu(_nhwc_conv(net, x, 8, 4)), axis=3)
    x = net.op("ReduceMean", x, axes=[1, 2], keepdims=0)
    x = net.op("MatMul", x, net.const(net.weights(12, CLASSES, fan_in=12)))
    return net.model(net.op("Softmax", net.op("Add", x, net.const(net.vector(CLASSES))), axis=-1, out="scores"))


@network
def nhwc_flatten(rng):
    net = Net(rng)
    x = net.relu(_nhwc_conv(net, net.input(["N", 8, 8, 3]), 3, 8, strides=[2, 2]))
    x = net.op("Reshape", x, net.const([-1, 128]))
    x = net.relu(
        net.op("Add", net.op("MatMul", x, net.const(net.weights(128, 12, fan_in=128))), net.const(net.vector(12)))
    )
    return net.model(net.linear(x, 12, CLASSES, out="logits"))


@network
def dynamic_spatial(rng):
    """Fully convolutional; the skip is resized to the size of the other branch."""
    net = Net(rng)
    x = net.block(net.input(["N", 3, "H", "W"]), 3, 8)
    y = net.block(net.block(x, 8, 12, strides=[2, 2]), 12, 8)
    size = net.op("Slice", net.op("Shape", x), net.const([2]), net.const([4]))
    whole = net.op("Concat", net.op("Slice", net.op("Shape", y), net.const([0]), net.const([2])), size, axis=0)
    y = net.op("Resize", y, "", "", whole, mode="linear", coordinate_transformation_mode="half_pixel")
    y = net.op("Concat", x, y, axis=1)
    return net.model((net.conv(y, 16, 3), ["N", 3, "H", "W"]))


@network
def resize_scales(rng):
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    x = net.op("Resize", x, "", net.const(np.array([1.0, 1.0, 2.0, 2.0])), mode="nearest")
    return net.model(net.conv(net.block(x, 8, 12), 12, 3))


@network
def resize_constant_sizes(rng):
    """The channel count is one of the four sizes."""
    net = Net(rng)
    x = net.block(net.input([1, 3, 16, 16]), 3, 8)
    x = net.op("Resize", x, "", "", net.const([1, 8, 24, 24]), mode="nearest")
    return net.model(net.conv(net.block(x, 8, 12), 12, 3))


@network
def upsample_opset9(rng):
    net = Net(rng, opset=9, ir=4)
    x = net.block(net.image(), 3, 8)
    x = net.op("Upsample", x, net.const(np.array([1.0, 1.0, 2.0, 2.0])), mode="nearest")
    return net.model(net.conv(net.block(x, 8, 12), 12, 3))


@network
def conv1d(rng):
    net = Net(rng)
    x = net.relu(net.bn(net.conv(net.input(["N", 2, 32], "signal"), 2, 8, 5, dims=1), 8))
    x = net.op("MaxPool", x, kernel_shape=[2], strides=[2])
    x = net.relu(net.conv(x, 8, 12, dims=1))
    return net.model(net.head(x, 12))


@network
def conv3d(rng):
    net = Net(rng)
    x = net.relu(net.bn(net.conv(net.input(["N", 2, 6, 8, 8], "volume"), 2, 6, dims=3), 6))
    x = net.relu(net.conv(x, 6, 8, dims=3, strides=[2, 2, 2]))
    return net.model(net.head(x, 8))


@network
def conv1d_by_unsqueeze(rng):
    """A one-dimensional convolution as a two-dimensional one."""
    net = Net(rng)
    x = net.op("Unsqueeze", net.input(["N", 2, 32], "signal"), net.const([2]))
    x = net.relu(net.op("Conv", x, net.const(net.weights(8, 2, 1, 5)), pads=[0, 2, 0, 2]))
    x = net.op("Squeeze", x, net.const([2]))
    return net.model(net.head(net.relu(net.conv(x, 8, 12, dims=1)), 12))


@network
def auto_pad_and_dilation(rng):
    net = Net(rng)
    x = net.relu(net.op("Conv", net.image(), net.const(net.weights(8, 3, 3, 3)), auto_pad="SAME_UPPER", strides=[2, 2]))
    x = net.relu(net.op("Conv", x, net.const(net.weights(12, 8, 3, 3)), dilations=[2, 2]))
    return net.model(net.head(x, 12))


# ---------------------------------------------------------------------------------------------------------------
# Traps: channels that look like something else, and other things that look like channels


@network
def weight_norm(rng):
    """g * v / |v|, computed in the graph: the norm runs over the input channels."""
    net = Net(rng)
    x = net.image()
    for cin, cout in ((3, 8), (8, 12)):
        v, g = net.const(net.weights(cout, cin, 3, 3)), net.const(net.vector(cout, 0.5, 1.5).reshape(cout, 1, 1, 1))
        norm = net.op("ReduceL2", v, axes=[1, 2, 3], keepdims=1)
        x = net.relu(net.op("Conv", x, net.op("Mul", g, net.op("Div", v, norm)), pads=[1, 1, 1, 1]))
    return net.model(net.head(x, 12))


@network
def efficient_channel_attention(rng):
    """A one-dimensional convolution slides over the channels."""
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    gate = net.op("Transpose", net.op("Squeeze", net.op("GlobalAveragePool", x), net.const([3])), perm=[0, 2, 1])
    gate = net.op("Conv", gate, net.const(net.weights(1, 1, 3)), pads=[1, 1])
    gate = net.op("Sigmoid", net.op("Unsqueeze", net.op("Transpose", gate, perm=[0, 2, 1]), net.const([3])))
    return net.model(net.head(net.block(net.op("Mul", x, gate), 12, 8), 8))


@network
def pooling_over_channels(rng):
    """Maxout: channels moved to where a pooling takes them for columns."""
    net = Net(rng)
    x = net.op("Transpose", net.conv(net.image(), 3, 12), perm=[0, 2, 3, 1])
    x = net.op("Transpose", net.op("MaxPool", x, kernel_shape=[1, 2], strides=[1, 2]), perm=[0, 3, 1, 2])
    return net.model(net.head(net.block(x, 6, 8), 8))


@network
def channels_in_the_rows(rng):
    """[N, C, H, W] seen as [N, 1, C*H, W]."""
    net = Net(rng)
    x = net.op("Reshape", net.block(net.image(size=8), 3, 6), net.const([0, 1, 48, 8]))
    return net.model(net.head(net.block(x, 1, 8), 8))


@network
def resize_over_channels(rng):
    net = Net(rng)
    x = net.op("Resize", net.block(net.image(), 3, 6), "", net.const(np.array([1.0, 2.0, 1.0, 1.0])), mode="nearest")
    return net.model(net.head(net.block(x, 12, 8), 8))


@network
def count_as_number(rng):
    """The number of channels is computed with: x / sqrt(C), and a mean as sum / C."""
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    count = net.op("Cast", net.op("Gather", net.op("Shape", x), net.const(1), axis=0), to=TensorProto.FLOAT)
    x = net.op("Div", net.conv(net.op("Div", x, net.op("Sqrt", count)), 12, 8), count)
    return net.model(net.head(x, 8))


@network
def mean_of_everything(rng):
    """A reduction without axes, and one over a flattened axis that holds the channels."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    x = net.op("Sub", x, net.op("ReduceMean", x, keepdims=1))
    y = net.conv(x, 8, 6)
    norm = net.op("ReduceL2", net.op("Reshape", y, net.const([0, -1])), axes=[1], keepdims=1)
    y = net.op("Div", net.op("GlobalMaxPool", y), net.op("Unsqueeze", norm, net.const([2, 3])))
    return net.model(net.linear(net.op("Flatten", y), 6, CLASSES, out="logits"))


@network
def mixer(rng):
    """MLP-Mixer: a linear layer over the tokens between two over the channels."""
    net = Net(rng)
    x = net.op("Reshape", net.conv(net.image(), 3, 12, 4, strides=[4, 4], pads=[0, 0, 0, 0]), net.const([0, 12, 16]))
    y = net.op("MatMul", net.relu(net.op("MatMul", x, net.const(net.weights(16, 20)))), net.const(net.weights(20, 16)))
    x = net.op("Transpose", net.op("Add", x, y), perm=[0, 2, 1])
    y = net.op("MatMul", net.relu(net.op("MatMul", x, net.const(net.weights(12, 24)))), net.const(net.weights(24, 12)))
    x = net.op("ReduceMean", net.op("Add", x, y), axes=[1], keepdims=0)
    return net.model(net.linear(x, 12, CLASSES, out="logits"))


@network
def gather_computed(rng):
    """Which channels are taken depends on the input."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    order = net.op("ReduceMean", x, axes=[0, 2, 3], keepdims=0)
    _, best = net.multi("TopK", order, net.const([5]), outs=["best_values", "best"], axis=0)
    return net.model(net.head(net.block(net.op("Gather", x, best, axis=1), 5, 12), 12))


@network
def scatter_channels(rng):
    """Some channels are overwritten at constant positions."""
    net = Net(rng)
    x = net.block(net.input([1, 3, 8, 8]), 3, 8)
    indices = np.broadcast_to(np.array([1, 4]).reshape(1, 2, 1, 1), (1, 2, 8, 8))
    x = net.op("ScatterElements", x, net.const(indices), net.op("Sigmoid", net.conv(x, 8, 2)), axis=1)
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def stacked_branches(rng):
    """Selective kernels: branches stacked on a new axis, weighted, summed."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    branches = [net.op("Unsqueeze", net.block(x, 8, 12, k), net.const([1])) for k in (3, 5)]
    stack = net.op("Concat", *branches, axis=1)  # [N, 2, 12, H, W]
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.op("ReduceSum", stack, net.const([1]), keepdims=0)))
    scores = net.op("Reshape", net.linear(net.relu(net.linear(pooled, 12, 6)), 6, 24), net.const([-1, 2, 12, 1, 1]))
    x = net.op("ReduceSum", net.op("Mul", stack, net.op("Softmax", scores, axis=1)), net.const([1]), keepdims=0)
    return net.model(net.head(net.block(x, 12, 8), 8))


@network
def many_heads(rng):
    """Three classifiers on one flattened map, and one on the pooled map."""
    net = Net(rng)
    x = net.block(net.block(net.image(size=8), 3, 8, strides=[2, 2]), 8, 12, strides=[2, 2])
    flat = net.op("Flatten", x)
    heads = [net.linear(flat, 48, size, out=name) for name, size in (("age", 6), ("gender", 2), ("mood", 4))]
    return net.model(*heads, net.head(x, 12, out="identity"))


@network
def layer_scale(rng):
    """A learned factor of each channel on the residual branch, and a learned number on the shortcut."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    y = net.op("Mul", net.conv(net.block(x, 8, 12), 12, 8), net.const(net.vector(8).reshape(1, 8, 1, 1)))
    x = net.op("Add", net.op("Mul", x, net.const(np.array([0.7]))), y)
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def hard_swish_spelled_out(rng):
    net = Net(rng)
    x = net.conv(net.image(), 3, 8)
    gate = net.op("Clip", net.op("Add", x, net.const(3.0)), net.const(0.0), net.const(6.0))
    x = net.op("Div", net.op("Mul", x, gate), net.const(6.0))
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def negative_axes(rng):
    """Concat, Split and Softmax counted from the back."""
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    a, b = net.multi("Split", x, net.const([4, 8]), outs=2, axis=-3)
    x = net.op("Concat", net.conv(b, 8, 6), a, axis=-3)
    x = net.op("Mul", x, net.op("Softmax", x, axis=-1))
    return net.model(net.head(net.block(x, 10, 8), 8))


@network
def matmul_vector(rng):
    """A weight of one axis: the output loses an axis."""
    net = Net(rng)
    x = net.relu(net.linear(net.input(["N", 20], "x"), 20, 16))
    return net.model(net.op("MatMul", x, net.const(net.weights(16, fan_in=16)), out="y"))


@network
def group_normalization(rng):
    net = Net(rng, opset=21, ir=10)
    x = net.conv(net.image(), 3, 8)
    scale, shift = net.const(net.vector(8, 0.5, 1.5)), net.const(net.vector(8))
    x = net.relu(net.op("GroupNormalization", x, scale, shift, num_groups=2))
    return net.model((net.head(net.block(x, 8, 12), 12), ["N", CLASSES]))


@network
def rolled(rng):
    """Swin's cyclic shift, and the same over the channels."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    for axis, shift, size in ((2, 4, 16), (1, 3, 8)):
        ends = [net.const([shift]), net.const([size])]
        first = net.op("Slice", x, net.const([0]), ends[0], net.const([axis]))
        x = net.op("Concat", net.op("Slice", x, *ends, net.const([axis])), first, axis=axis)
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def half_of_the_channels_pooled(rng):
    """A sub-range of the channels is reduced over, the others go on."""
    net = Net(rng)
    x = net.block(net.image(), 3, 12)
    a, b = net.multi("Split", x, net.const([4, 8]), outs=2, axis=1)
    x = net.op("Mul", b, net.op("ReduceMax", a, axes=[1], keepdims=1))
    return net.model(net.head(net.block(x, 8, 12), 12))


# ---------------------------------------------------------------------------------------------------------------
# What stops the tracing, or should


@network
def if_reads_outer(rng):
    """Both branches of an If read the output of a convolution outside."""
    net = Net(rng)
    x = net.relu(net.conv(net.image(), 3, 8))
    bright = net.op("Greater", net.op("ReduceMean", "image", keepdims=0), net.const(0.0))
    value = helper.make_tensor_value_info("branch_out", TensorProto.FLOAT, ["N", 8, 16, 16])
    then = helper.make_graph([helper.make_node("Neg", [x], ["branch_out"])], "then", [], [value])
    other = helper.make_graph([helper.make_node("Tanh", [x], ["branch_out"])], "else", [], [value])
    x = net.op("If", bright, then_branch=then, else_branch=other)
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def loop_reads_outer(rng):
    """A Loop adds an outer tensor three times to what it carries."""
    net = Net(rng)
    x = net.relu(net.conv(net.image(), 3, 8))
    shape = ["N", 8, 16, 16]
    body = helper.make_graph(
        [helper.make_node("Identity", ["more"], ["go_on"]), helper.make_node("Add", ["carried", x], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, shape),
        ],
    )
    start = net.op("Tanh", net.conv("image", 3, 8))
    x = net.op("Loop", net.const(3), net.const(np.array(True), dtype=np.bool_), start, body=body)
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def local_function(rng):
    """A model-local function wraps the activation."""
    net = Net(rng)
    net.domains["local"] = 1
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    net.functions.append(helper.make_function("local", "Swish", ["x"], ["y"], nodes, [helper.make_opsetid("", 17)]))
    x = net.op("Swish", net.conv(net.image(), 3, 8), domain="local")
    return net.model((net.head(net.block(x, 8, 12), 12), ["N", CLASSES]))


@network
def grid_sample(rng):
    """An operator of the standard that is rarely given a rule."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    flow = net.op("Transpose", net.op("Tanh", net.conv(x, 8, 2)), perm=[0, 2, 3, 1])
    x = net.op("GridSample", net.conv(x, 8, 12), flow)
    return net.model(net.head(net.block(x, 12, 8), 8))


@network
def foreign_domain(rng):
    """An operator of onnxruntime's own."""
    net = Net(rng)
    net.domains["com.microsoft"] = 1
    x = net.op("QuickGelu", net.conv(net.image(), 3, 8), domain="com.microsoft", alpha=1.702)
    return net.model((net.head(net.block(x, 8, 12), 12), ["N", CLASSES]))


@network
def arg_max(rng):
    net = Net(rng)
    x = net.conv(net.block(net.image(), 3, 8), 8, 6)
    return net.model(net.op("ArgMax", x, axis=1, keepdims=0, out="mask"), kind=np.int64)


@network
def top_k(rng):
    net = Net(rng)
    x = net.op("Flatten", net.op("GlobalMaxPool", net.block(net.image(), 3, 12)))
    values, _ = net.multi("TopK", x, net.const([4]), outs=["values", "indices"], axis=-1)
    return net.model(net.linear(net.relu(net.linear(values, 4, 8)), 8, 5, out="y"))


@network
def cumulative_sum(rng):
    """Channels that depend on their predecessors."""
    net = Net(rng)
    x = net.op("CumSum", net.block(net.image(), 3, 8), net.const(1))
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def activations_contracted(rng):
    """A correlation of two maps over their channels, and a Gram matrix between channels."""
    net = Net(rng)
    x = net.block(net.image(size=8), 3, 8)
    a, b = (net.op("Reshape", net.conv(x, 8, 6), net.const([0, 6, 64])) for _ in range(2))
    correlation = net.op("MatMul", net.op("Transpose", a, perm=[0, 2, 1]), b)  # [N, 64, 64]
    c = net.op("Reshape", net.conv(x, 8, 4), net.const([0, 4, 64]))
    gram = net.op("MatMul", c, net.op("Transpose", c, perm=[0, 2, 1]))  # [N, 4, 4]
    return net.model(net.op("MatMul", correlation, net.const(net.weights(64, 2, fan_in=64)), out="y"), gram)


@network
def dynamic_weight(rng):
    """A convolution whose kernel is computed from another input."""
    net = Net(rng)
    x = net.block(net.input([1, 3, 16, 16]), 3, 8)
    kernel = net.linear(net.input([1, 5], "style"), 5, 12 * 8)
    kernel = net.op("Reshape", kernel, net.const([12, 8, 1, 1]))
    return net.model(net.head(net.relu(net.op("Conv", x, kernel)), 12))


@network
def qdq(rng):
    """Quantised with QuantizeLinear and DequantizeLinear, one scale per output channel."""
    net = Net(rng)
    zero8, zero = net.const(np.uint8(128), dtype=np.uint8), net.const(np.float32(0.03))
    x = net.image()
    for cin, cout in ((3, 8), (8, 12)):
        x = net.op("DequantizeLinear", net.op("QuantizeLinear", x, zero, zero8), zero, zero8)
        weight = net.weights(cout, cin, 3, 3)
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        stored = net.const(np.rint(weight / scale[:, None, None, None]), dtype=np.int8)
        weight_ = net.op("DequantizeLinear", stored, net.const(scale), net.const(np.zeros(cout), dtype=np.int8), axis=0)
        x = net.relu(net.op("Conv", x, weight_, net.const(net.vector(cout)), pads=[1, 1, 1, 1]))
    return net.model(net.head(x, 12))


@network
def qlinear_conv(rng):
    net = Net(rng)
    scale, zero = net.const(np.float32(0.05)), net.const(np.uint8(128), dtype=np.uint8)
    wide = net.const(np.float32(0.01))
    x = net.op("QuantizeLinear", net.image(), scale, zero)
    for cin, cout in ((3, 8), (8, 12)):
        weight = net.const(rng.integers(-60, 60, (cout, cin, 3, 3)), dtype=np.int8)
        wzero = net.const(np.int8(0), dtype=np.int8)
        x = net.op("QLinearConv", x, scale, zero, weight, wide, wzero, scale, zero, pads=[1, 1, 1, 1])
    return net.model(net.head(net.op("DequantizeLinear", x, scale, zero), 12))


@network
def conv_integer(rng):
    net = Net(rng)
    x, scale, zero = net.multi("DynamicQuantizeLinear", net.image(), outs=3)
    weight = net.const(rng.integers(-60, 60, (8, 3, 3, 3)), dtype=np.int8)
    x = net.op("Cast", net.op("ConvInteger", x, weight, zero, pads=[1, 1, 1, 1]), to=TensorProto.FLOAT)
    x = net.op("Mul", x, net.op("Mul", scale, net.const(net.vector(8, 0.01, 0.02).reshape(8, 1, 1))))
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def output_is_a_layer(rng):
    """Nothing to remove: the only layer is the output."""
    net = Net(rng)
    return net.model(net.conv(net.image(), 3, 8))


@network
def dead_end(rng):
    """A node whose result nobody reads."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    net.op("Sigmoid", net.conv(x, 8, 5))
    return net.model(net.head(net.block(x, 8, 12), 12))


@network
def stale_value_info(rng):
    """Shapes written down for another input than today's: batch 1, and all channels counted."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    x = net.op("Reshape", net.block(x, 8, 12, strides=[2, 2]), net.const([0, -1]))
    model = net.model(net.linear(x, 768, CLASSES, out="logits"))
    inferred = onnx.shape_inference.infer_shapes(model)
    for value in inferred.graph.value_info:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].HasField("dim_param"):
            dims[0].dim_value = 1
        model.graph.value_info.append(value)
    return model


@network
def documented(rng):
    """Doc strings, metadata, empty optional inputs and names that need care."""
    net = Net(rng)
    x = net.block(net.image(), 3, 8)
    model = net.model(net.head(net.block(x, 8, 12), 12))
    model.doc_string, model.graph.doc_string, model.graph.node[0].doc_string = "a model", "its graph", "its first node"
    model.metadata_props.add(key="author", value="nobody")
    model.graph.node[1].name = ""
    model.graph.input[0].doc_string = "an image"
    return model


# ---------------------------------------------------------------------------------------------------------------
# Fused operators, and rarer ones


_MICROSOFT = "com.microsoft"


@network
def attention_operator(rng):
    """Two layers of a decoder: rotated queries and keys, grouped queries, no scale written down, a causal mask."""
    net = Net(rng, opset=23, ir=11)
    x = net.op("MatMul", net.input(["N", 6, 7], "tokens"), net.const(net.weights(7, 16, fan_in=7)))
    angles = np.arange(9)[:, None] * (0.5 ** np.arange(2))
    caches = [net.const(np.cos(angles), "cos"), net.const(np.sin(angles), "sin")]
    places = net.op(
        "Expand", net.const(np.arange(6)[None]), net.op("Slice", net.op("Shape", x), net.const([0]), net.const([2]))
    )
    for rotated in (True, False):
        q, k, v = (net.op("MatMul", x, net.const(net.weights(16, width, fan_in=16))) for width in (16, 8, 12))
        if rotated:
            q, k = (net.op("RotaryEmbedding", y, *caches, places, num_heads=n) for y, n in ((q, 4), (k, 2)))
        y = net.op("Attention", q, k, v, q_num_heads=4, kv_num_heads=2, is_causal=1)
        x = net.op("Add", x, net.op("MatMul", y, net.const(net.weights(24, 16, fan_in=24))))
    return net.model(net.op("MatMul", x, net.const(net.weights(16, 5, fan_in=16)), out="y"))


@network
def attention_operator_heads_apart(rng):
    """Attention on [N, heads, tokens, D]; the keys are of another sequence."""
    net = Net(rng, opset=24, ir=11)
    tokens, memory = net.input(["N", 6, 7], "tokens"), net.input(["N", 4, 7], "memory")
    parts = []
    for source, heads, width in ((tokens, 4, 5), (memory, 2, 5), (memory, 2, 3)):
        y = net.op("MatMul", source, net.const(net.weights(7, heads * width, fan_in=7)))
        parts.append(net.op("Transpose", net.op("Reshape", y, net.const([0, 0, heads, width])), perm=[0, 2, 1, 3]))
    y = net.op("Attention", *parts, net.const(net.vector(24).reshape(6, 4)))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.const([0, 0, 12]))
    return net.model(net.op("MatMul", y, net.const(net.weights(12, 5, fan_in=12)), out="y"))


@network
def transformer_block_fused(rng):
    """A block as onnxruntime's optimiser for transformers leaves it."""
    net = Net(rng)
    net.domains[_MICROSOFT] = 1
    x = net.op("MatMul", net.input(["N", 6, 7], "tokens"), net.const(net.weights(7, 12, fan_in=7)))
    q, k, v = (net.op("MatMul", x, net.const(net.weights(12, width, fan_in=12))) for width in (12, 12, 15))
    y = net.op("MultiHeadAttention", q, k, v, net.const(net.vector(39)), num_heads=3, domain=_MICROSOFT)
    y = net.op("FusedMatMul", y, net.const(net.weights(12, 15, fan_in=15)), transB=1, domain=_MICROSOFT)
    norm = [net.const(net.vector(12, 0.5, 1.5)) for _ in range(3)]
    y, _, _, x = net.multi("SkipLayerNormalization", y, x, *norm, outs=["norm", "", "", "sum"], domain=_MICROSOFT)
    y = net.op("MatMul", y, net.const(net.weights(12, 20, fan_in=12)))
    y = net.op("BiasGelu", y, net.const(net.vector(20)), domain=_MICROSOFT)
    y = net.op("Add", x, net.op("MatMul", y, net.const(net.weights(20, 12, fan_in=20))))
    net.op("MatMul", y, net.const(net.weights(12, 5, fan_in=12)), out="y")
    return net.model(("y", ["N", 6, 5]))  # shape inference knows none of these operators


@network
def deformable(rng):
    """A deformable convolution, its offsets and its mask from layers of their own; then patches put together."""
    net = Net(rng, opset=19, ir=9)
    x = net.block(net.image(size=8), 3, 8)
    offsets, mask = net.conv(x, 8, 18), net.op("Sigmoid", net.conv(x, 8, 9))
    weight, bias = net.const(net.weights(12, 8, 3, 3)), net.const(net.vector(12))
    x = net.relu(net.op("DeformConv", x, weight, offsets, bias, mask, pads=[1, 1, 1, 1]))
    x = net.op("Reshape", net.conv(x, 12, 16), net.const([0, 16, 64]))
    x = net.op("Col2Im", x, net.const([16, 16]), net.const([2, 2]), strides=[2, 2])
    return net.model(net.head(net.relu(x), 4))


@network
def all_quantised(rng):
    """Nothing that is a layer."""
    net = Net(rng)
    scale, zero = net.const(np.float32(0.05)), net.const(np.uint8(128), dtype=np.uint8)
    weight, none = net.const(rng.integers(-60, 60, (8, 3, 3, 3)), dtype=np.int8), net.const(np.int8(0), dtype=np.int8)
    x = net.op("QuantizeLinear", net.image(), scale, zero)
    x = net.op("QLinearConv", x, scale, zero, weight, net.const(np.float32(0.01)), none, scale, zero)
    return net.model(net.op("GlobalAveragePool", net.op("DequantizeLinear", x, scale, zero), out="y"))


@network
def position_table_sliced(rng):
    """Positions are as many as the tokens: rows of a learned table, cut off at a computed end."""
    net = Net(rng)
    x = net.op("MatMul", net.input(["N", 7, 6], "tokens"), net.const(net.weights(6, 8)))
    length = net.op("Gather", net.op("Shape", x), net.const([1]))
    table = net.const(net.rng.standard_normal((1, 12, 8)), "table")
    x = net.op("Add", x, net.op("Slice", table, net.const([0]), length, net.const([1])))
    return net.model((net.op("MatMul", net.relu(x), net.const(net.weights(8, 5))), ["N", 7, 5]))


@network
def position_table_gathered(rng):
    """The same, looked up by positions that are computed from the shape."""
    net = Net(rng)
    x = net.op("MatMul", net.input(["N", 7, 6], "tokens"), net.const(net.weights(6, 8)))
    length = net.op("Gather", net.op("Shape", x), net.const(1))
    places = net.op("Range", net.const(0), length, net.const(1))
    x = net.op("Add", x, net.op("Gather", net.const(net.rng.standard_normal((12, 8)), "table"), places))
    return net.model((net.op("MatMul", net.relu(x), net.const(net.weights(8, 5))), ["N", 7, 5]))


@network
def computed_shape_of_two_readers(rng):
    """Queries and values take one computed shape, as a dynamo export shares it; the values keep all their channels."""
    net = Net(rng, opset=18)
    x = net.input(["N", "S", 8], "tokens")
    shape = net.op("Concat", net.op("Shape", x, start=0, end=2), net.const([2]), net.const([4]), axis=0)
    flat = net.const([0, 0, -1])
    parts = []
    for kind, more in (("Relu", {}), ("Softmax", {"axis": -1}), ("Tanh", {})):
        y = net.op("Reshape", net.op("MatMul", x, net.const(net.weights(8, 8))), shape)
        y = net.op("Reshape", net.op(kind, y, **more), flat)
        parts.append(net.op("MatMul", y, net.const(net.weights(8, 3))))
    return net.model((net.op("Sum", *parts), ["N", "S", 3]))


@network
def split_at_a_computed_place(rng):
    """torch.split(x, [5, 11], 1) as TorchScript writes it: the first piece has what the second one leaves."""
    net = Net(rng)
    x = net.conv(net.image(), 3, 16)
    channels = net.op("Gather", net.op("Shape", x), net.const([1]))
    place = net.op("Sub", channels, net.const([11]))
    end = net.op("Add", place, net.const([11]))
    first = net.op("Slice", x, net.const([0]), place, net.const([1]))
    second = net.op("Slice", x, place, end, net.const([1]))
    y = net.op("Add", net.conv(net.relu(first), 5, 6), net.conv(net.op("Tanh", second), 11, 6))
    return net.model(net.head(y, 6))


@network
def reshaped_as_the_stream(rng):
    """y.reshape(x.shape): the target is the shape of a tensor that keeps all its channels."""
    net = Net(rng)
    x = net.op("Softmax", net.op("MatMul", net.input(["N", "S", 6], "tokens"), net.const(net.weights(6, 8))))
    y = net.op("Reshape", net.op("MatMul", x, net.const(net.weights(8, 8))), net.const([0, 0, 2, 4]))
    y = net.op("Reshape", net.op("Tanh", y), net.op("Shape", x))
    y = net.op("Add", x, net.op("MatMul", y, net.const(net.weights(8, 8))))
    return net.model((net.op("MatMul", y, net.const(net.weights(8, 5))), ["N", "S", 5]))


def _heads(net: Net, x: str, cin: int, heads: int, width: int, perm: Sequence[int] = (0, 2, 1, 3)) -> str:
    """A layer whose channels are heads: [N, heads, tokens, width]."""
    y = net.op("MatMul", x, net.const(net.weights(cin, heads * width, fan_in=cin)))
    return net.op("Transpose", net.op("Reshape", y, net.const([0, 0, heads, width])), perm=list(perm))


def _merged(net: Net, y: str, channels: int) -> str:
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.const([0, 0, channels]))
    return net.op("MatMul", y, net.const(net.weights(channels, 5)))


@network
def outer_product_by_gemm(rng):
    """A batch of one, turned: what a Gemm makes lies across the channels that it reads, and so does its bias."""
    net = Net(rng)
    x = net.block(net.input([1, 3, 16, 16]), 3, 8)
    x = net.op("Transpose", net.op("Flatten", net.op("GlobalAveragePool", x), axis=1), perm=[1, 0])
    x = net.op("Reshape", net.relu(net.linear(x, 1, 6)), net.const([1, 48]))
    return net.model((net.linear(net.relu(net.linear(x, 48, 12)), 12, CLASSES, out="logits"), [1, CLASSES]))


@network
def linear_attention(rng):
    """K^T V first: an outer product of channels, scaled, then read by Q."""
    net = Net(rng)
    x = net.input(["N", 7, 6], "tokens")
    q, k = net.relu(_heads(net, x, 6, 2, 4)), net.op("Softmax", _heads(net, x, 6, 2, 4), axis=2)
    product = net.op("MatMul", net.op("Transpose", k, perm=[0, 1, 3, 2]), _heads(net, x, 6, 2, 3))
    product = net.op("Mul", net.op("Tanh", product), net.const(net.rng.uniform(0.5, 1.5, (2, 1, 1))))
    return net.model((_merged(net, net.op("MatMul", q, product), 6), ["N", 7, 5]))


@network
def channel_attention(rng):
    """Q K^T over the tokens, a Softmax over K's channels: those stay, and V's with them; Q's pass."""
    net = Net(rng)
    x = net.input(["N", 7, 6], "tokens")
    q, k, v = (_heads(net, x, 6, 2, 4, perm=(0, 2, 3, 1)) for _ in range(3))
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    y = net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 1, 3, 2])
    return net.model((_merged(net, y, 8), ["N", 7, 5]))


@network
def talking_heads(rng):
    """Heads are mixed by a layer over them: they stay, and their channels go one by one."""
    net = Net(rng)
    x = net.input(["N", 7, 6], "tokens")
    packed = net.op("Reshape", net.op("MatMul", x, net.const(net.weights(6, 36))), net.const([0, 0, 3, 3, 4]))
    packed = net.op("Transpose", packed, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.op("Gather", packed, net.const(i), axis=0) for i in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.op("MatMul", net.op("Transpose", scores, perm=[0, 2, 3, 1]), net.const(net.weights(3, 3)))
    scores = net.op("Softmax", net.op("Transpose", scores, perm=[0, 3, 1, 2]), axis=-1)
    return net.model((_merged(net, net.op("MatMul", scores, v), 12), ["N", 7, 5]))


@network
def outer_product_read_by_a_reshape(rng):
    """Bilinear pooling: every pair of channels is an input of the classifier."""
    net = Net(rng)
    x = net.op("Reshape", net.conv(net.image(size=6), 3, 4), net.const([0, 4, -1]))
    y = net.op("Reshape", net.conv("image", 3, 5), net.const([0, 5, -1]))
    pairs = net.op("MatMul", x, net.op("Transpose", y, perm=[0, 2, 1]))
    return net.model(net.linear(net.op("Flatten", pairs), 20, 5, out="logits"))


@network
def token_mixer(rng):
    """Layers over the tokens between layers over the channels: both hidden widths may shrink."""
    net = Net(rng)
    x = net.op("MatMul", net.input(["N", 6, 5], "tokens"), net.const(net.weights(5, 8)))
    y = net.op("Transpose", x, perm=[0, 2, 1])
    y = net.op("Add", net.op("MatMul", y, net.const(net.weights(6, 9))), net.const(net.vector(9)))
    y = net.op("MatMul", net.op("Tanh", y), net.const(net.weights(9, 6)))
    x = net.op("Add", x, net.op("Transpose", y, perm=[0, 2, 1]))
    return net.model((net.op("MatMul", x, net.const(net.weights(8, 5))), ["N", 6, 5]))


@network
def conv_over_stacked_tokens(rng):
    """A Conv of size 1 whose channels are tokens: what lies along its space passes."""
    net = Net(rng)
    x = net.op("MatMul", net.input(["N", 3, 6], "tokens"), net.const(net.weights(6, 8)))
    y = net.op("Conv", x, net.const(net.weights(2, 3, 1)), net.const(net.vector(2)))
    return net.model((net.op("MatMul", net.relu(y), net.const(net.weights(8, 5))), ["N", 2, 5]))


@network
def bilinear_attention(rng):
    """A map made of channels is a matrix that a MatMul sums over one axis of: its labels lie along both, and stay."""
    net = Net(rng)
    x = net.block(net.image(size=6), 3, 12)
    pooled = net.op("GlobalAveragePool", x)
    right = net.op("Sigmoid", net.op("Reshape", net.conv(pooled, 12, 72, k=1), net.const([0, 2, 6, 6])))
    x = net.op(
        "Reshape", net.op("MatMul", net.op("Reshape", x, net.const([0, 2, 36, 6])), right), net.const([0, 12, 6, 6])
    )
    return net.model(net.head(net.op("Add", net.conv("image", 3, 8), net.conv(x, 12, 8)), 8))


def _rotated(net: Net, x: str, cos: str, sin: str, width: int) -> str:
    """x cos + (-x2, x1) sin, over the last axis."""
    last = net.const([-1])
    first = net.op("Slice", x, net.const([0]), net.const([width // 2]), last)
    second = net.op("Slice", x, net.const([width // 2]), net.const([LAST]), last)
    turned = net.op("Concat", net.op("Neg", second), first, axis=-1)
    return net.op("Add", net.op("Mul", x, cos), net.op("Mul", turned, sin))


@network
def rotary_from_positions(rng):
    """Language models: positions are an input, frequencies a constant, and what is made of them turns Q and K."""
    net = Net(rng)
    x = net.input(["N", 5, 6], "tokens")
    places = net.op(
        "Unsqueeze", net.op("Cast", net.input(["N", 5], "places", np.int64), to=TensorProto.FLOAT), net.const([2])
    )
    angles = net.op("Mul", places, net.const(net.vector(4, 0.1, 1.0)))
    angles = net.op("Unsqueeze", net.op("Concat", angles, angles, axis=-1), net.const([1]))
    cos, sin = net.op("Cos", angles), net.op("Sin", angles)
    q, k = (_rotated(net, _heads(net, x, 6, 2, 8), cos, sin, 8) for _ in range(2))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    return net.model((_merged(net, net.op("MatMul", scores, _heads(net, x, 6, 2, 3)), 6), ["N", 5, 5]))


@network
def rotary_of_few_frequencies(rng):
    """A part of each head is turned, by as few frequencies as a Resize could have scales."""
    return _rotary_from_the_shape(rng, 6)


@network
def class_token_and_branch_first(rng):
    """What a block adds stands before what it is added to, where a token and positions are alike in all samples."""
    net = Net(rng)
    x = net.op("MatMul", net.input(["N", 4, 6], "tokens"), net.const(net.weights(6, 8)))
    count = net.op("Gather", net.op("Shape", x), net.const([0]))
    token = net.op("Expand", net.const(net.weights(1, 1, 8)), net.op("Concat", count, net.const([1, 8]), axis=0))
    x = net.op("Add", net.op("Concat", token, x, axis=1), net.const(net.weights(1, 5, 8)))
    for _ in range(2):
        inner = net.op("Add", net.op("MatMul", x, net.const(net.weights(8, 12))), net.const(net.vector(12)))
        branch = net.op("Add", net.const(net.vector(8)), net.op("MatMul", net.relu(inner), net.const(net.weights(12, 8))))
        x = net.op("Add", branch, x)
    return net.model(net.linear(net.op("ReduceMean", x, axes=[1], keepdims=0), 8, CLASSES, out="logits"))


@network
def queries_and_registers(rng):
    """Learned tokens, several of them, one a row: some beside those of the picture, some for themselves."""
    net = Net(rng)
    x = net.op("MatMul", net.input(["N", 4, 6], "tokens"), net.const(net.weights(6, 8)))
    count = net.op("Gather", net.op("Shape", x), net.const([0]))
    rows = [net.op("Concat", count, net.const([k, 8]), axis=0) for k in (2, 3)]
    registers = net.op("Expand", net.const(net.weights(1, 2, 8)), rows[0])
    x = net.op("Concat", registers, x, axis=1)
    queries = net.op("Add", net.op("Expand", net.const(net.weights(1, 3, 8)), rows[1]), net.const(net.weights(1, 3, 8)))
    q = net.op("MatMul", queries, net.const(net.weights(8, 10)))
    k = net.op("Transpose", net.op("MatMul", x, net.const(net.weights(8, 10))), perm=[0, 2, 1])
    v = net.op("MatMul", x, net.const(net.weights(8, 7)))
    x = net.op("MatMul", net.op("Softmax", net.op("MatMul", q, k), axis=-1), v)
    return net.model(net.linear(net.op("ReduceMean", x, axes=[1], keepdims=0), 7, CLASSES, out="logits"))


@network
def position_table_resized(rng):
    """Positions that were learned for pictures of another size: the graph brings them to the size of its own."""
    net = Net(rng)
    x = net.conv(net.image(size=8), 3, 8)
    size = net.op("Slice", net.op("Shape", x), net.const([2]), net.const([4]), net.const([0]))
    sizes = net.op("Concat", net.const([1, 8]), size, axis=0)
    table = net.op("Resize", net.const(net.weights(1, 8, 3, 3)), "", "", sizes, mode="linear")
    return net.model(net.head(net.relu(net.op("Add", x, table)), 8))


@network
def pooled_tokens(rng):
    """A pool over tokens whose window sees one channel at a time."""
    net = Net(rng)
    x = net.op("MatMul", net.input(["N", 4, 6], "tokens"), net.const(net.weights(6, 8)))
    pooled = net.op("AveragePool", net.op("Unsqueeze", x, net.const([1])), kernel_shape=[2, 1], strides=[2, 1])
    x = net.op("MatMul", net.op("Squeeze", pooled, net.const([1])), net.const(net.weights(8, 5)))
    return net.model(net.linear(net.op("ReduceMean", x, axes=[1], keepdims=0), 5, CLASSES, out="logits"))


@network
def rotary_from_the_shape(rng):
    """Pictures: coordinates are computed from the shape."""
    return _rotary_from_the_shape(rng, 10)


def _rotary_from_the_shape(rng, count):
    net = Net(rng)
    x = net.input(["N", 5, 6], "tokens")
    length = net.op("Gather", net.op("Shape", x), net.const(1))
    places = net.op("Cast", net.op("Range", net.const(0), length, net.const(1)), to=TensorProto.FLOAT)
    angles = net.op("Div", net.op("Unsqueeze", places, net.const([1])), net.const(net.vector(count, 1.0, 9.0)))
    angles = net.op("Tile", angles, net.const([1, 2]))
    cos, sin = net.op("Cos", angles), net.op("Sin", angles)
    q, k = (_rotated(net, _heads(net, x, 6, 2, 2 * count), cos, sin, 2 * count) for _ in range(2))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    return net.model((_merged(net, net.op("MatMul", scores, _heads(net, x, 6, 2, 3)), 6), ["N", 5, 5]))
