"""Which tensor holds the logits: endings, several outputs, dense outputs."""

from __future__ import annotations

import pytest
from support.graphs import Builder
from support.heads import CLASSES, gap_gemm, gemm, pooled, read_head, softmax_written_out, stem

from onnxvis.errors import ModelError, UsageError


def test_log_softmax_and_sigmoid_endings() -> None:
    for ending, expected in (("LogSoftmax", "log-softmax"), ("Sigmoid", "sigmoid")):
        b = Builder([1, 3, 15, 15])
        scores = gap_gemm(b)
        logits, _ = read_head(b.model(b.node("Cast", b.node(ending, scores), to=1)))
        assert (logits.tensor, logits.activation, logits.skipped) == (scores, expected, ("Cast", ending))
    for build in (_log_of_softmax, _log_sum_exp, _shifted_log_sum_exp):
        b = Builder([1, 3, 15, 15])
        scores = gap_gemm(b)
        logits, _ = read_head(b.model(build(b, scores)))
        assert (logits.tensor, logits.activation) == (scores, "log-softmax")


def _log_of_softmax(b: Builder, x: str) -> str:
    return str(b.node("Log", softmax_written_out(b, x, shifted=False)))


def _log_sum_exp(b: Builder, x: str) -> str:
    return str(b.node("Sub", x, b.node("ReduceLogSumExp", x, axes=[1])))


def _shifted_log_sum_exp(b: Builder, x: str) -> str:
    z = b.node("Sub", x, b.node("ReduceMax", x, axes=[1]))
    total = b.node("ReduceSum", b.node("Exp", z), b.constant([1]))
    return str(b.node("Sub", z, b.node("Log", total)))


def test_class_indices_lead_back_to_the_scores() -> None:
    b = Builder([1, 3, 15, 15])
    scores = b.conv(stem(b), 4, CLASSES, 1)
    logits, head = read_head(b.model(b.node("Cast", b.node("ArgMax", scores, axis=1), to=6)))
    assert (logits.tensor, logits.kind, logits.skipped) == (scores, "dense", ("Cast", "ArgMax"))
    assert head.kind == "dense"


def test_unit_axes_before_the_activation_do_not_hide_it() -> None:
    b = Builder([1, 3, 15, 15])
    scores = b.conv(b.node("GlobalAveragePool", stem(b)), 4, CLASSES, 1, signed=True)
    flat = b.node("Squeeze", b.node("Softmax", scores, axis=1), b.constant([2, 3]))
    logits, head = read_head(b.model(flat))
    assert (logits.tensor, logits.skipped, logits.class_axis) == (scores, ("Squeeze", "Softmax"), 1)
    assert head.kind == "gap-conv1x1"


def test_a_flattening_for_the_softmax_alone_is_passed() -> None:
    """The old softmax of opsets below 13, written for a newer one."""
    b = Builder([1, 3, 15, 15])
    scores = b.conv(b.node("GlobalAveragePool", stem(b)), 4, CLASSES, 1, signed=True)
    chances = b.node("Softmax", b.node("Flatten", scores), axis=1)
    logits, _ = read_head(b.model(b.node("Reshape", chances, b.constant([1, CLASSES, 1, 1]))))
    assert (logits.tensor, logits.skipped) == (scores, ("Reshape", "Softmax", "Flatten"))


def test_the_main_output_of_several() -> None:
    b = Builder([1, 3, 15, 15])
    x = stem(b)
    aux = gemm(b, pooled(b, x))
    deep = b.node("Relu", b.conv(x, 4, 4, 3, signed=True))
    embedding = gemm(b, pooled(b, deep), 4, 64)
    main = gemm(b, embedding, 64, CLASSES)
    small = gemm(b, pooled(b, deep), 4, 2)
    model = b.model(aux, embedding, small, deep, main)
    logits, head = read_head(model)
    assert logits.output == main
    assert set(logits.others) == {aux, embedding, small, deep}
    assert "deepest" in logits.reason
    assert head.cam_layer == deep
    asked, _ = read_head(model, output=aux)
    assert asked.output == aux
    with pytest.raises(UsageError, match="has no output 'x'"):
        read_head(model, output="x")


def test_a_softmax_tells_classes_from_boxes_and_landmarks() -> None:
    """As in MTCNN: (N, 4) box, (N, 10) landmarks, (N, 2) face or not."""
    b = Builder([1, 3, 15, 15])
    features = pooled(b, stem(b))
    box, landmarks, scores = (gemm(b, features, 4, n) for n in (4, 10, 2))
    logits, _ = read_head(b.model(box, landmarks, b.node("Softmax", scores, axis=1)))
    assert logits.tensor == scores
    assert "the only one with a softmax" in logits.reason
    logits, _ = read_head(b.model(box, landmarks))
    assert logits.tensor == landmarks
    assert "most classes" in logits.reason


def test_an_output_without_the_picture_is_refused() -> None:
    b = Builder([1, 3, 15, 15])
    constant = b.node("Identity", b.weight(1, 5))
    with pytest.raises(ModelError, match="does not depend on the picture"):
        read_head(b.model(constant))


def test_detections_and_sequences_are_told_apart() -> None:
    b = Builder([1, 3, 15, 15])
    rows = b.node("Reshape", b.conv(stem(b), 4, 4 + CLASSES, 1), b.constant([1, 4 + CLASSES, -1]))
    logits, head = read_head(b.model(rows))
    assert (logits.kind, logits.class_axis) == ("detection", 1)
    assert (head.kind, head.cam_shape) == ("dense", (1, 4, 7, 7))
    turned = b.node("Transpose", rows, perm=[0, 2, 1])
    logits, _ = read_head(b.model(turned))
    assert (logits.kind, logits.class_axis) == ("detection", 2)
    logits, head = read_head(b.model(b.node("Softmax", turned, axis=2)))
    assert (logits.kind, logits.tensor, logits.class_axis) == ("dense", turned, 2)


def test_one_channel_and_channels_last_segmentation() -> None:
    b = Builder([1, 16, 16, 1])
    x = b.node("Relu", b.conv(b.node("Transpose", b.name, perm=[0, 3, 1, 2]), 1, 4, 3, strides=[2, 2]))
    scores = b.node("Transpose", b.conv(x, 4, CLASSES, 1), perm=[0, 2, 3, 1])
    logits, head = read_head(b.model(b.node("Softmax", scores, axis=3)))
    assert (logits.tensor, logits.kind) == (scores, "dense")
    assert (logits.class_axis, logits.spatial_axes) == (3, (1, 2))
    assert (head.cam_layer, head.spatial_axes) == (x, (2, 3))
