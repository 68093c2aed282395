"""Whole networks: the graph made of ONNX operators against the torch backend.

In float64 (the new graph itself run in torch, for onnxruntime has no such convolution) both agree to rounding. In
float32 onnxruntime and torch round differently, and a unit that rounding moves over a kink (a ReLU at 0, two places of
a max pool that tie) moves a gradient by 1e-3 or more; so float32 is compared exactly on smooth twins of the networks,
and by its direction on the networks themselves.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support import zoo
from support.onnx_nodes import Array, run_onnxruntime

from onnxvis.converters import convert
from onnxvis.graph.canonical import canonicalize
from onnxvis.graph.gradient import build_vjp
from onnxvis.runtime.torch_gradients import TorchGradients

SIZE = 96
FAST = [("resnet18", "dynamo"), ("squeezenet1_1", "legacy"), ("mobilenet_v3_small", "dynamo"), ("lite0", "legacy")]
SLOW = [
    pytest.param(name, exporter, marks=pytest.mark.slow)
    for name, exporter in (
        ("lite0", "dynamo"),
        ("resnet18", "legacy"),
        ("mobilenet_v3_small", "legacy"),
        *((n, e) for n in ("googlenet", "densenet121", "shufflenet_v2_x1_0") for e in ("dynamo", "legacy")),
        *((n, e) for n in ("efficientnet_b0", "convnext_tiny", "mobilenet_v2") for e in ("dynamo", "legacy")),
        *((n, e) for n in ("inception_v3", "mnasnet1_0", "regnet_y_400mf") for e in ("dynamo", "legacy")),
        ("vgg11_bn", "dynamo"),
        *(("deeplabv3_mobilenet_v3_large", e) for e in ("dynamo", "legacy")),
    )
]


@functools.lru_cache(maxsize=3)
def dialect(name: str, exporter: str) -> onnx.ModelProto:
    if name == "lite0":
        from onnxvis.demo import lite0

        path: Path = lite0(exporter)
    else:
        path = zoo.export(name, exporter, 18 if exporter == "dynamo" else 17, SIZE, dynamic_batch=True)  # type: ignore[arg-type]
    return canonicalize(onnx.load(path)).model


def picture(name: str, batch: int = 1) -> tuple[str, Array]:
    if name != "lite0":
        return zoo.INPUT, zoo.image(SIZE, batch=batch, seed=7)
    import onnxvis
    from onnxvis.demo import lite0, photo

    return "image", np.concatenate([onnxvis.load(lite0("legacy")).prepare(photo()).tensor] * batch)


def seed_for(model: onnx.ModelProto, name: str, x: Array) -> Array:
    shape = run_onnxruntime(model, {picture_input(model): x}, ["logits"])[0].shape
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def picture_input(model: onnx.ModelProto) -> str:
    return str(model.graph.input[0].name)


def in_double(graph: onnx.ModelProto, feeds: dict[str, Array], fetch: str) -> Array:
    """Run a graph in torch, in float64, without autograd."""
    tensors = {name: torch.from_numpy(array).double() for name, array in feeds.items()}
    with torch.no_grad():
        return np.asarray(convert(graph).to_dtype(torch.float64)(tensors, [fetch])[fetch].numpy())


def error(found: Array, expected: Array) -> float:
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("name", "exporter"), [*FAST, *SLOW])
def test_float64_gradients_are_those_of_torch(name: str, exporter: str) -> None:
    model = dialect(name, exporter)
    entry, x = picture(name)
    cotangent = seed_for(model, name, x)
    graph = build_vjp(model, "logits", [entry], "seed")
    ours = in_double(graph, {entry: x, "seed": cotangent}, f"gradient/{entry}")
    theirs = TorchGradients(model, float64=True).vjp({entry: x}, "logits", [cotangent], [entry])
    assert error(ours, theirs.grads[0][entry]) < 1e-12


@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
@pytest.mark.parametrize(("name", "exporter"), FAST[:2] + FAST[3:])
def test_float64_rules_are_those_of_torch(name: str, exporter: str, rule: str) -> None:
    model = dialect(name, exporter)
    entry, x = picture(name)
    cotangent = seed_for(model, name, x)
    graph = build_vjp(model, "logits", [entry], "seed", rule)
    ours = in_double(graph, {entry: x, "seed": cotangent}, f"gradient/{entry}")
    torch_backend = TorchGradients(model, float64=True)
    theirs = torch_backend.vjp({entry: x}, "logits", [cotangent], [entry], rule).grads[0][entry]
    assert error(ours, theirs) < 1e-12
    plain = torch_backend.vjp({entry: x}, "logits", [cotangent], [entry]).grads[0][entry]
    assert error(ours, plain) > 1e-2


def smooth(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network without kinks: Softplus for every rectifier, mean pools for max pools."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    for node in twin.graph.node:
        if node.op_type in ("Relu", "Clip"):
            node.op_type = "Softplus"
            del node.input[1:]
        elif node.op_type == "MaxPool":
            node.op_type = "AveragePool"
            kept = [a for a in node.attribute if a.name not in ("dilations", "storage_order")]
            del node.attribute[:]
            node.attribute.extend(kept)
    return twin


@pytest.mark.parametrize(("name", "exporter"), [*FAST[:2], FAST[3], ("googlenet", "legacy")])
def test_float32_in_onnxruntime_on_the_smooth_twin(name: str, exporter: str) -> None:
    model = smooth(dialect(name, exporter))
    entry, x = picture(name)
    cotangent = seed_for(model, name, x)
    graph = build_vjp(model, "logits", [entry], "seed")
    (ours,) = run_onnxruntime(graph, {entry: x, "seed": cotangent}, [f"gradient/{entry}"])
    exact, rounded = (
        TorchGradients(model, float64=double).vjp({entry: x}, "logits", [cotangent], [entry]).grads[0][entry]
        for double in (True, False)
    )
    assert error(ours, exact) < max(1e-5, 2 * error(rounded, exact))
    assert error(rounded, exact) < 3e-5


@pytest.mark.parametrize(("name", "exporter"), FAST)
def test_float32_in_onnxruntime_on_the_network_itself(name: str, exporter: str) -> None:
    model = dialect(name, exporter)
    entry, x = picture(name)
    cotangent = seed_for(model, name, x)
    graph = build_vjp(model, "logits", [entry], "seed")
    (ours,) = run_onnxruntime(graph, {entry: x, "seed": cotangent}, [f"gradient/{entry}"])
    theirs = TorchGradients(model).vjp({entry: x}, "logits", [cotangent], [entry]).grads[0][entry]
    assert 1 - np.vdot(ours, theirs) / (np.linalg.norm(ours) * np.linalg.norm(theirs)) < 1e-4


def test_a_batch_gives_the_rows() -> None:
    model = dialect("resnet18", "dynamo")
    x = zoo.image(SIZE, batch=3, seed=3)
    cotangent = seed_for(model, "resnet18", x)
    graph = build_vjp(model, "logits", [zoo.INPUT], "seed")
    names = [f"gradient/{zoo.INPUT}"]
    (together,) = run_onnxruntime(graph, {zoo.INPUT: x, "seed": cotangent}, names)
    for i in range(3):
        (alone,) = run_onnxruntime(graph, {zoo.INPUT: x[i : i + 1], "seed": cotangent[i : i + 1]}, names)
        assert error(together[i : i + 1], alone) < 1e-5


def test_only_standard_operators_and_no_weight_twice() -> None:
    model = dialect("resnet18", "dynamo")
    graph = build_vjp(model, "logits", [zoo.INPUT], "seed")
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(graph))
    assert graph.ByteSize() < model.ByteSize() + 100_000
    before = model.SerializeToString()
    build_vjp(model, "logits", [zoo.INPUT], "seed")
    assert model.SerializeToString() == before


def test_outputs_are_the_output_the_values_and_the_gradients() -> None:
    model = dialect("resnet18", "dynamo")
    layer = next(n.input[0] for n in model.graph.node if n.op_type == "GlobalAveragePool" or "Mean" in n.op_type)
    graph = build_vjp(model, "logits", [layer, zoo.INPUT], "seed")
    names = [value.name for value in graph.graph.output]
    assert names == ["logits", layer, zoo.INPUT, f"gradient/{layer}", f"gradient/{zoo.INPUT}"]
    x = zoo.image(SIZE)
    cotangent = seed_for(model, "resnet18", x)
    found: dict[str, Any] = dict(
        zip(names, run_onnxruntime(graph, {zoo.INPUT: x, "seed": cotangent}, names), strict=True)
    )
    (alone,) = run_onnxruntime(
        build_vjp(model, "logits", [zoo.INPUT], "seed"), {zoo.INPUT: x, "seed": cotangent}, [names[-1]]
    )
    np.testing.assert_array_equal(found[names[-1]], alone)
    # What goes into the mean and out of it: every place gets the same share.
    share = found[f"gradient/{layer}"]
    np.testing.assert_allclose(share, np.broadcast_to(share.mean((2, 3), keepdims=True), share.shape), rtol=1e-6)


@pytest.mark.parametrize("form", ["qdq", "qoperator", "dynamic"])
def test_quantized_networks(form: Any) -> None:
    from support.formats import convnet, quantized

    model = canonicalize(quantized(convnet(), form)).model
    entry, size = picture_input(model), 16
    x = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    output = str(model.graph.output[0].name)
    cotangent = np.random.default_rng(1).standard_normal(run_onnxruntime(model, {entry: x}, [output])[0].shape)
    seed = cotangent.astype(np.float32)
    (ours,) = run_onnxruntime(
        build_vjp(model, output, [entry], "seed"), {entry: x, "seed": seed}, [f"gradient/{entry}"]
    )
    theirs = TorchGradients(model).vjp({entry: x}, output, [seed], [entry]).grads[0][entry]
    assert error(ours, theirs) < 1e-5
