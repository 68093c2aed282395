"""Real exports: the canonical model gives the same answers, is clean, and costs little time."""

from __future__ import annotations

import time
from collections import Counter

import onnx
import pytest
from support.formats import check
from support.zoo import Exporter, export, image

from onnxvis.graph.canonical import canonicalize
from onnxvis.graph.canonical.refusals import refusal

QUICK: list[tuple[str, Exporter, int]] = [
    ("resnet18", "legacy", 17),
    ("resnet18", "dynamo", 18),
    ("mobilenet_v3_small", "legacy", 17),
    ("squeezenet1_1", "dynamo", 18),
    ("densenet121", "legacy", 17),
]
MORE: list[tuple[str, Exporter, int]] = [
    ("convnext_tiny", "legacy", 17),
    ("convnext_tiny", "dynamo", 18),
    ("efficientnet_b0", "legacy", 13),
    ("efficientnet_b0", "dynamo", 20),
    ("googlenet", "dynamo", 18),
    ("mnasnet1_0", "legacy", 11),
    ("mobilenet_v2", "legacy", 9),
    ("mobilenet_v2", "dynamo", 22),
    ("regnet_y_400mf", "legacy", 17),
    ("shufflenet_v2_x1_0", "legacy", 17),
    ("shufflenet_v2_x1_0", "dynamo", 18),
    ("deeplabv3_mobilenet_v3_large", "legacy", 11),
    ("deeplabv3_mobilenet_v3_large", "legacy", 17),
    ("deeplabv3_mobilenet_v3_large", "dynamo", 18),
]
CLUTTER = {
    "Constant",
    "ConstantOfShape",
    "Identity",
    "Shape",
    "BatchNormalization",
    "Gelu",
    "Sum",
    "CastLike",
    "Dropout",
}


def judge(name: str, exporter: Exporter, opset: int, dynamic_batch: bool = False) -> Counter[str]:
    model = onnx.load(export(name, exporter, opset, 64, dynamic_batch=dynamic_batch))
    for batch in (1, 3) if dynamic_batch else (1,):
        result = check(model, {"input": image(64, batch)}, rtol=1e-3, atol=2e-5)
    assert result.opset == 17
    assert refusal(result.model) is None
    start = time.process_time()
    canonicalize(model)
    assert time.process_time() - start < 3
    onnx.checker.check_model(result.model)
    return Counter(node.op_type for node in result.model.graph.node)


@pytest.mark.parametrize(("name", "exporter", "opset"), QUICK)
def test_exports(name: str, exporter: Exporter, opset: int):
    assert not CLUTTER & set(judge(name, exporter, opset))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "exporter", "opset"), MORE)
def test_more_exports(name: str, exporter: Exporter, opset: int):
    assert not CLUTTER & set(judge(name, exporter, opset))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x1_0", "deeplabv3_mobilenet_v3_large"])
@pytest.mark.parametrize(("exporter", "opset"), [("legacy", 17), ("dynamo", 18)])
def test_a_free_batch_stays_free(name: str, exporter: Exporter, opset: int):
    judge(name, exporter, opset, dynamic_batch=True)


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
def test_efficientnet_lite_pads_in_its_convolutions(dynamo: bool):
    import io
    import warnings

    import torch

    package = pytest.importorskip("efficientnet_lite_pytorch")
    net = package.EfficientNet.from_name("efficientnet-lite0").eval()
    buffer, example = io.BytesIO(), torch.from_numpy(image(64, 2))
    names = {"input_names": ["input"], "output_names": ["logits"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(net, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
            model = program.model_proto
        else:
            axes = {"input": {0: "batch"}, "logits": {0: "batch"}}
            torch.onnx.export(net, (example,), buffer, dynamo=False, opset_version=17, dynamic_axes=axes, **names)
            model = onnx.load_from_string(buffer.getvalue())
    for batch in (1, 3):
        result = check(model, {"input": image(64, batch)}, rtol=1e-3, atol=2e-5)
    kinds = Counter(node.op_type for node in result.model.graph.node)
    assert not {"Pad", "Shape", "Concat", "Cast"} & set(kinds)
    assert sum(kinds.values()) == 94
