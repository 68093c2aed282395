"""The backend that needs no torch: the protocol, its sessions, its choice, and what users see of it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support import zoo
from support.nets import CLASSES, SmallNet, noise
from typer.testing import CliRunner

import onnxvis
from onnxvis.errors import ConversionError, DependencyError, LayerError, ModelError, UsageError
from onnxvis.graph.canonical import canonicalize
from onnxvis.runtime.choose_gradients import gradient_backend
from onnxvis.runtime.onnx_gradients import OnnxGradients
from onnxvis.runtime.providers import choose_provider
from onnxvis.runtime.torch_gradients import TorchGradients

NET = SmallNet()
MODEL = canonicalize(NET.model()).model
X = noise(2, 3, 32, 32)
CPU = choose_provider("cpu")


def one_hot(index: int, rows: int = 2) -> np.ndarray:
    seed = np.zeros((rows, CLASSES), np.float32)
    seed[:, index] = 1
    return seed


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-6) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("rule", ["backprop", "guided", "deconvnet"])
def test_the_protocol_agrees_with_torch(rule: str) -> None:
    seeds = [one_hot(1), one_hot(4)]
    asked: dict[str, Any] = {"output": "logits", "cotangents": seeds, "wrt": ["image", "features"], "rule": rule}
    ours = OnnxGradients(MODEL).vjp({"image": X}, **asked)
    close(ours.output, NET.reference(X), 1e-5)
    assert set(ours.values) == {"image", "features"}
    np.testing.assert_array_equal(ours.values["image"], X)
    torch_backend = TorchGradients(MODEL)
    for name in ("image", "features"):  # one by one: torch makes a watched tensor a leaf
        theirs = torch_backend.vjp({"image": X}, "logits", seeds, [name], rule)
        for mine, other in zip(ours.grads, theirs.grads, strict=True):
            close(mine[name], other[name])
        assert ours.notes == theirs.notes


def test_a_fed_layer_is_where_the_graph_is_cut() -> None:
    features = NET.features(X).astype(np.float32)
    found = OnnxGradients(MODEL).vjp({"features": features, "image": X}, "logits", [one_hot(2)], ["features"])
    weights = NET.w2[2] / (features.shape[2] * features.shape[3])
    close(found.grads[0]["features"], np.broadcast_to(weights[None, :, None, None], features.shape))
    np.testing.assert_array_equal(found.values["features"], features)


def test_no_cotangent_gives_values_alone() -> None:
    found = OnnxGradients(MODEL).vjp({"image": X}, "logits", [], ["features"])
    assert found.grads == []
    close(found.values["features"], NET.features(X), 1e-5)


def test_sessions_are_kept_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxvis.runtime.onnx_gradients as module

    opened: list[onnx.ModelProto] = []
    original = module.open_session
    monkeypatch.setattr(module, "open_session", lambda graph, *rest: (opened.append(graph), original(graph, *rest))[1])
    backend = OnnxGradients(MODEL)
    for _ in range(3):
        backend.vjp({"image": X}, "logits", [one_hot(0), one_hot(1)], ["image"])
    assert len(opened) == 1
    backend.vjp({"image": X}, "logits", [one_hot(0)], ["image"], "guided")
    backend.vjp({"image": X}, "logits", [one_hot(0)], ["features"])
    assert len(opened) == 3
    for name in ("conv", "gap", "pooled"):
        for rule in ("backprop", "guided", "deconvnet"):
            backend.vjp({"image": X}, "logits", [one_hot(0)], [name], rule)
    assert len(backend._programs) == 8


def test_float64_works_where_onnxruntime_has_the_kernels() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((12, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("Flatten", ["t"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", 1, ["N", 3, 2, 2])]
    outputs = [helper.make_tensor_value_info("y", 1, ["N", 5])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x, seed = rng.standard_normal((2, 3, 2, 2)), rng.standard_normal((2, 5))
    found = OnnxGradients(model, float64=True).vjp({"x": x}, "y", [seed], ["x"]).grads[0]["x"]
    exact = (seed @ weight.T.astype(np.float64)).reshape(x.shape) * (1 - np.tanh(x) ** 2)
    assert found.dtype == np.float64
    close(found, exact, 1e-14)


def test_float64_is_refused_where_it_has_none() -> None:
    with pytest.raises(ConversionError, match=r"no double precision kernel.*Conv.*gradients='torch'"):
        OnnxGradients(MODEL, float64=True).vjp({"image": X}, "logits", [one_hot(0)], ["image"])


def test_unknown_tensors_and_wrong_shapes_are_refused() -> None:
    backend = OnnxGradients(MODEL)
    with pytest.raises(LayerError, match=r"no tensor 'featurs'.*'features'"):
        backend.vjp({"image": X}, "logits", [one_hot(0)], ["featurs"])
    with pytest.raises(ModelError, match="cannot compute the gradient"):
        backend.vjp({"image": X}, "logits", [one_hot(0, rows=3)], ["image"])
    with pytest.raises(ModelError):
        backend.vjp({"image": X[:, :2]}, "logits", [one_hot(0)], ["image"])


# --- the choice --------------------------------------------------------------------------------------


def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else original(name))


def test_auto_takes_torch_where_it_is_installed() -> None:
    assert gradient_backend("auto", MODEL, CPU, False).name == "torch"
    assert gradient_backend("onnx", MODEL, CPU, False).name == "onnx"


def test_auto_without_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    without_torch(monkeypatch)
    assert gradient_backend("auto", MODEL, CPU, False).name == "onnx (torch is not installed)"
    with pytest.raises(DependencyError, match=r"onnxvis\[torch\]"):
        gradient_backend("torch", MODEL, CPU, False)


def test_auto_falls_back_and_gives_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxvis.converters

    def refuse(_model: onnx.ModelProto) -> None:
        raise ConversionError("Relu is not for today")

    monkeypatch.setattr(onnxvis.converters, "convert", refuse)
    assert gradient_backend("auto", MODEL, CPU, False).name == "onnx (torch refused: Relu is not for today)"
    with pytest.raises(ConversionError, match="not for today"):
        gradient_backend("torch", MODEL, CPU, False)
    unknown = SmallNet().model(middle=[helper.make_node("Det", ["features"], ["pooled"])])
    with pytest.raises(ConversionError, match="not for today"):
        gradient_backend("auto", unknown, CPU, False)


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(UsageError, match="auto, torch, onnx"):
        onnxvis.load(NET.model(), gradients="jax")


# --- what users see ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grad-cam", "layer-cam", "saliency", "guided-backprop", "integrated-gradients"])
def test_explanations_agree_and_name_who_made_them(method: str) -> None:
    model, other = onnxvis.load(NET.model(), gradients="onnx"), onnxvis.load(NET.model(), gradients="torch")
    ours = onnxvis.explain(model, X[:1], method, 3)
    theirs = onnxvis.explain(other, X[:1], method, 3)
    close(ours.attribution, theirs.attribution, 1e-5)
    assert ours.parity.backend == "onnx"
    assert theirs.parity.backend == "torch"
    assert ours.parity.output_error < 1e-6
    assert model.describe()["gradients"] == "onnx"


def test_explaining_needs_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    without_torch(monkeypatch)
    monkeypatch.setattr("onnxvis.runtime.torch_gradients.TorchGradients.__init__", None)
    found = onnxvis.explain(onnxvis.load(NET.model()), X[:1], "grad-cam", 0)
    assert found.parity.backend == "onnx (torch is not installed)"


_NO_TORCH = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import numpy as np, onnxvis
model = onnxvis.load(sys.argv[1])
for method in ("grad-cam", "saliency", "guided-backprop"):
    found = onnxvis.explain(model, np.load(sys.argv[2]), method, 3)
    print(found.parity.backend, float(abs(found.attribution).max()) > 0)
"""


def test_a_process_without_torch(tmp_path: Any) -> None:
    onnx.save(NET.model(), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", X[:1])
    arguments = [sys.executable, "-c", _NO_TORCH, str(tmp_path / "net.onnx"), str(tmp_path / "x.npy")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["onnx (torch is not installed) True"] * 3


def test_a_network_with_a_fixed_batch_runs_rows_one_by_one() -> None:
    path = zoo.export("resnet18", "legacy", 17, 96)
    # Pictures on which no ReLU stands so near its kink that rounding decides it: there both gradients are exact.
    x = [one[None] for one in zoo.image(96, batch=2, seed=6)]
    ours = onnxvis.explain(onnxvis.load(path, gradients="onnx"), x, "saliency", 7, allow_unverified=True)
    theirs = onnxvis.explain(onnxvis.load(path, gradients="torch"), x, "saliency", 7, allow_unverified=True)
    for mine, other in zip(ours, theirs, strict=True):
        a, b = mine.attribution.astype(np.float64), other.attribution.astype(np.float64)
        assert 1 - (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()) < 1e-8


def test_the_command_line_has_the_choice(tmp_path: Any) -> None:
    from onnxvis.cli.app import app

    path = tmp_path / "net.onnx"
    path.write_bytes(NET.model().SerializeToString())
    done = CliRunner().invoke(app, ["check", str(path), "--gradients", "onnx", "--json", "--size", "32"])
    assert done.exit_code == 0, done.output
    assert "onnx vs onnxruntime" in done.output
