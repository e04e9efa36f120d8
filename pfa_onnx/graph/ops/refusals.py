"""Operators that are left alone for a reason that the user can do something about: data, nothing else.

An operator that has a rule is not in here. One that is in neither is "without a rule".
"""

from __future__ import annotations

import onnx_ir as ir

from pfa_onnx.graph.model import Graph

NO_RULE = "which has no rule"
LOST = "behind which a cut of its channels cannot be followed"
QUANTISED = "a quantised operator: prune the float model, then quantise it"
FUSED = "which an optimiser fused: prune the model before it is optimised"
BLOCKED = "which works in onnxruntime's own layout: prune the model before it is optimised for a device"
CHOSEN = "which picks or writes positions that are computed from data"
BRANCH = "whose branch the input decides: export with fixed shapes, or let onnxslim or onnxsim fix them"
ROUNDS = "whose rounds are not known, or too many to write out"
LISTS = "of a sequence whose length or places the file does not fix"
RANDOM = "which draws random numbers, others for every shape"

_MICROSOFT = "com.microsoft"

# fmt: off
_BY_OPERATOR: dict[str, dict[str, tuple[str, ...]]] = {
    "": {
        QUANTISED: ("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
        CHOSEN: (
            "Compress", "NonMaxSuppression", "NonZero", "TensorScatter", "Unique",
        ),
        BRANCH: ("If",),
        ROUNDS: ("Loop", "Scan"),
        LISTS: (
            "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceErase", "SequenceInsert",
            "SequenceLength", "SplitToSequence",
        ),
        RANDOM: ("Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"),
    },
    _MICROSOFT: {
        QUANTISED: (
            "DequantizeBFP", "DequantizeWithOrder", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul",
            "GatherBlockQuantized", "GemmFloat8", "MatMulBlockQuantizedFp4Weight", "MatMulBlockQuantizedFp8Weight",
            "MatMulBnb4", "MatMulFpQ4", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits", "MatMulNBitsMlp",
            "MatMulNBitsQkv", "MulInteger", "NhwcMaxPool", "QAttention", "QEmbedLayerNormalization", "QGemm",
            "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool",
            "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
            "QMoE", "QOrderedAttention", "QOrderedGelu", "QOrderedLayerNormalization", "QOrderedLongformerAttention",
            "QOrderedMatMul", "QuantizeBFP", "QuantizeWithOrder", "ReduceSumInteger",
        ),
        FUSED: (
            "Attention", "BiasAdd", "BiasDropout", "BiasSoftmax", "BiasSplitGelu", "BitmaskBiasDropout",
            "BitmaskDropout", "DecoderAttention", "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention",
            "EmbedLayerNormalization", "FusedMatMulActivation", "GatedRelativePositionBias", "GemmFastGelu",
            "GroupNorm", "GroupQueryAttention", "LongformerAttention", "MoE", "NhwcConv", "NhwcFusedConv",
            "PackedAttention", "PackedMultiHeadAttention", "PagedAttention", "RelativePositionBias", "RemovePadding",
            "RestorePadding", "SkipGroupNorm", "SparseAttention",
        ),
    },
}
# fmt: on
_BY_DOMAIN = {"com.microsoft.nchwc": BLOCKED, "com.ms.internal.nhwc": BLOCKED}

REFUSALS: dict[tuple[str, str], str] = {
    (domain, operator): why
    for domain, families in _BY_OPERATOR.items()
    for why, operators in families.items()
    for operator in operators
}

_WAYS_OUT = {
    QUANTISED: ("quantised operators", "prune the float model, then quantise it"),
    FUSED: ("operators that an optimiser fused", "prune the model before it is optimised"),
    BLOCKED: ("operators in onnxruntime's own layout", "prune the model before it is optimised for a device"),
}


def refusal(node: ir.Node) -> str:
    """Say why an operator without a rule is left alone."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return REFUSALS.get((domain, node.op_type), _BY_DOMAIN.get(domain, NO_RULE))


def way_out(graph: Graph) -> tuple[str, str, str] | None:
    """Say what stands in place of layers, if anything known: (what these operators are, their kinds, what to do)."""
    found: dict[str, dict[str, None]] = {}
    for node in graph.nodes:
        found.setdefault(refusal(node), {})[node.op_type] = None
    for why, (what, fix) in _WAYS_OUT.items():
        if why in found:
            return what, ", ".join(found[why]), fix
    return None
