"""Receptive fields of every tensor in one walk through the graph."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from onnx.onnx_pb import ModelProto

from onnxvis.errors import ModelError, did_you_mean
from onnxvis.graph.index import GraphIndex, Shapes
from onnxvis.graph.receptive import layout as moves
from onnxvis.graph.receptive import spatial
from onnxvis.graph.receptive.field import COLS, ROWS, ImageAxis, ReceptiveField, TensorField
from onnxvis.graph.receptive.state import State, Step

__all__ = ["guess_layout", "receptive_fields"]

Rule = Callable[[Step], State | list[State]]

_LOCAL = "Conv FusedConv QLinearConv ConvInteger NhwcConv NhwcFusedConv MaxPool AveragePool LpPool"
_GLOBAL = "GlobalAveragePool GlobalMaxPool GlobalLpPool QLinearGlobalAveragePool"
_REDUCE = (
    "ReduceMean ReduceMax ReduceMin ReduceSum ReduceL1 ReduceL2 ReduceProd ReduceLogSum ReduceLogSumExp "
    "ReduceSumSquare QLinearReduceMean ArgMax ArgMin"
)
_ELEMENTWISE = (
    "Abs Acos Add And Asin Atan BatchNormalization BiasAdd BiasGelu BitShift Cast CastLike Ceil Celu Clip "
    "Cos Cosh DequantizeLinear Div Dropout DynamicQuantizeLinear Elu Equal Erf Exp Expand FastGelu Floor "
    "Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LRN LeakyRelu Less LessOrEqual "
    "Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow QLinearAdd QLinearLeakyRelu QLinearMul "
    "QLinearSigmoid QuantizeLinear QuickGelu Reciprocal Relu ReorderInput ReorderOutput Round Selu Shrink "
    "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Trilu Where Xor"
)
_NORMALIZE = (
    "InstanceNormalization GroupNormalization GroupNorm LayerNormalization RMSNormalization "
    "SimplifiedLayerNormalization SkipLayerNormalization MeanVarianceNormalization LpNormalization CumSum"
)


def _table() -> dict[str, Rule]:
    rules: dict[str, Rule] = {
        "Concat": moves.concat,
        "ConvTranspose": spatial.transposed_convolution,
        "DepthToSpace": spatial.depth_to_space,
        "Flatten": moves.reshape,
        "Gather": spatial.gather,
        "Pad": spatial.pad,
        "QLinearAveragePool": spatial.convolution,
        "QLinearConcat": moves.concat,
        "Reshape": moves.reshape,
        "Slice": spatial.slicing,
        "SpaceToDepth": spatial.space_to_depth,
        "Split": spatial.split,
        "Squeeze": moves.squeeze,
        "Tile": spatial.tile,
        "Transpose": moves.transpose,
        "Unsqueeze": moves.unsqueeze,
    }
    many: list[tuple[str, Rule]] = [
        (_LOCAL, spatial.convolution),
        (_GLOBAL, spatial.global_pool),
        (_REDUCE, spatial.reduction),
        (_ELEMENTWISE, moves.elementwise),
        (_NORMALIZE, moves.normalization),
        ("Softmax LogSoftmax Hardmax QLinearSoftmax", moves.softmax),
        ("Resize Upsample", spatial.resize),
        ("Gemm FusedGemm QGemm", moves.gemm),
        ("MatMul FusedMatMul QLinearMatMul MatMulInteger MatMulIntegerToFloat", moves.matmul),
        ("DynamicQuantizeMatMul MatMulNBits GemmFloat8", moves.matmul),
    ]
    for names, rule in many:
        rules |= dict.fromkeys(names.split(), rule)
    return rules


_RULES = _table()


def guess_layout(shape: tuple[int, ...]) -> str:
    """``"NHWC"`` where only the last axis has a picture's 1, 3 or 4 channels, else ``"NCHW"``."""
    if len(shape) == 3:
        return "HWC" if shape[-1] in (1, 3, 4) and shape[0] not in (1, 3, 4) else "CHW"
    return "NHWC" if shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4) else "NCHW"


def receptive_fields(
    model: ModelProto,
    shapes: Shapes,
    input_name: str | None = None,
    layout: str | None = None,
    *,
    index: GraphIndex | None = None,
) -> dict[str, TensorField]:
    """What every tensor's units see of the image.

    Args:
        model: the graph, of any opset; its weights need not be loaded.
        shapes: concrete shape of every tensor, from one run (padding under ``auto_pad`` depends on it).
        input_name: the image input; default the first input with four axes.
        layout: one letter for each axis of the input, with ``H`` and ``W`` for the image's rows and columns
            (``"NCHW"``, ``"NHWC"``, ``"CHW"``); default :func:`guess_layout`.
        index: an index of the same model and shapes, to save building one.

    Returns:
        A field for each tensor that depends on the image, in topological order.

    Raises:
        ModelError: if the input does not exist or the layout does not fit it.
    """
    index = index or GraphIndex(model, shapes)
    name = _image_input(index, input_name)
    states = {name: _start(name, tuple(shapes[name]), layout)}
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 17)
    for node in index.nodes:
        outputs = [t for t in node.output if t and not index.is_constant(t)]
        if not outputs or not any(t in states for t in index.reads(node)):
            continue
        result = _apply(Step(node, index, states, opset))
        each = result if isinstance(result, list) else [result] * len(node.output)
        for tensor, state in zip(node.output, each, strict=True):
            # The scale of a dynamic quantization depends on the image as a whole, but only as rounding.
            if tensor and not (node.op_type == "DynamicQuantizeLinear" and tensor != node.output[0]):
                states[tensor] = state
    return {tensor: state.public() for tensor, state in states.items()}


def _apply(step: Step) -> State | list[State]:
    rule = _RULES.get(step.node.op_type)
    unmeasured = [t for t in (*step.tracked, step.node.output[0]) if t not in step.index.shapes]
    if rule is None or not step.tracked:
        return moves.lost(step, f"{step.label} does not keep positions")
    if unmeasured:
        return moves.lost(step, f"the shape of {unmeasured[0]!r} at {step.label} is not known")
    return rule(step)


def _image_input(index: GraphIndex, name: str | None) -> str:
    if name is not None:
        if name not in index.inputs:
            raise ModelError(
                f"The graph has no input {name!r}; it has {', '.join(index.inputs)}.{did_you_mean(name, index.inputs)}"
            )
        return name
    ranks = {t: len(index.shapes.get(t, ())) for t in index.inputs}
    found = next((t for t in index.inputs if ranks[t] == 4), None) or next(
        (t for t in index.inputs if ranks[t] == 3), None
    )
    if found is None:
        raise ModelError(f"No input of this graph looks like a picture (3 or 4 axes); inputs: {ranks}. Name the input.")
    return found


def _start(name: str, shape: tuple[int, ...], layout: str | None) -> State:
    if len(shape) < 3:
        raise ModelError(
            f"input {name!r} of shape {shape} is no picture: a picture has rows, columns and channels, (N, C, H, W) or "
            "(N, H, W, C). onnxvis explains networks that look at pictures, not tables or text."
        )
    letters = (layout or guess_layout(shape)).upper()
    if len(letters) == len(shape) + 1:
        letters = letters.removeprefix("N")
    if len(letters) != len(shape) or "H" not in letters or "W" not in letters:
        raise ModelError(
            f"Layout {letters!r} does not describe input {name!r} of shape {shape}: "
            "give one letter for each axis, with one H and one W."
        )
    axes: dict[int, ReceptiveField] = {}
    image_axes: list[tuple[ImageAxis, str]] = [(ROWS, "H"), (COLS, "W")]
    for image_axis, letter in image_axes:
        axis = letters.index(letter)
        pixels = np.arange(shape[axis], dtype=np.int64)
        axes[axis] = ReceptiveField(
            image_axis, axis, Fraction(1), Fraction(0), Fraction(1), True, np.stack([pixels, pixels], axis=1)
        )
    return State(axes)
