"""`onnxvis index` on files as they come: 8 bits, half precision, a fixed batch, free sizes, dense outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support.formats import convnet, half, quantized
from support.nets import SmallNet

import onnxvis
from onnxvis.behaviour.index.run import IndexOptions, index

pytest.importorskip("lance", reason="the store of `onnxvis index` needs the extra 'index'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(7):
        smooth = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((16, 16), Image.Resampling.BICUBIC)
        smooth.save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_an_8_bit_file_predicts_as_it_is(folder: Path, tmp_path: Path, form: str) -> None:
    model = onnxvis.load(quantized(convnet(size=16, batch="N"), form), preprocessing="unit")  # type: ignore[arg-type]
    store = index(model, [str(folder)], tmp_path / "s", IndexOptions(top_k=3)).store
    answers = model.predict([row.path for row in store.pictures()])
    assert isinstance(answers, list)
    for row, answer in zip(store.pictures(), answers, strict=True):
        assert [index for index, _, _ in row.top] == [c.index for c in answer.top]
        np.testing.assert_array_equal([s for _, _, s in row.top], [c.probability for c in answer.top])
    assert np.isfinite(store.top(store.layers[0]).values).all()


def test_half_precision(folder: Path, tmp_path: Path) -> None:
    plain = onnxvis.load(convnet(size=16, batch="N"), preprocessing="unit")
    small = onnxvis.load(half(convnet(size=16, batch="N")), preprocessing="unit")
    a = index(plain, [str(folder)], tmp_path / "a", IndexOptions(top_k=3)).store
    b = index(small, [str(folder)], tmp_path / "b", IndexOptions(top_k=3)).store
    np.testing.assert_allclose(b.embeddings()[1], a.embeddings()[1], rtol=2e-2, atol=2e-3)
    np.testing.assert_allclose(b.top(b.layers[0]).values, a.top(a.layers[0]).values, rtol=2e-2, atol=2e-3)


def test_a_fixed_batch_changes_nothing(folder: Path, tmp_path: Path) -> None:
    stores = []
    for batch in ("N", 1, 3):
        model = onnxvis.load(convnet(size=16, batch=batch), preprocessing="unit")
        stores.append(index(model, [str(folder)], tmp_path / f"s{batch}", IndexOptions(top_k=3)).store)
    for other in stores[1:]:
        np.testing.assert_allclose(other.embeddings()[1], stores[0].embeddings()[1], rtol=1e-4, atol=1e-6)
        layer = stores[0].layers[0]
        np.testing.assert_array_equal(other.top(layer).picture, stores[0].top(layer).picture)


def test_pictures_of_several_sizes(tmp_path: Path) -> None:
    net, rng = SmallNet(width=4), np.random.default_rng(1)
    model = onnxvis.load(net.model(["N", 3, "H", "W"]), preprocessing={"resize": "none", "scale": 1 / 255})
    (tmp_path / "p").mkdir()
    sizes = [(16, 16), (9, 20), (16, 16), (20, 9), (9, 20), (16, 16)]
    for number, size in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "p" / f"{number}.png")
    options = IndexOptions(top_k=6, keep_maps=True)
    store = index(model, [str(tmp_path / "p")], tmp_path / "s", options).store
    top, rows = store.top("features"), store.pictures()
    for unit in range(4):
        for value, picture, row, col in zip(
            top.values[unit], top.picture[unit], top.row[unit], top.col[unit], strict=True
        ):
            exact = net.features(model.prepare(rows[picture].path).tensor)[0, unit]
            assert exact.shape == sizes[picture]
            np.testing.assert_allclose(value, exact.max(), rtol=1e-5)
            np.testing.assert_allclose(exact[row, col], exact.max(), rtol=1e-6)
    assert sorted(top.picture[0]) == list(range(6))
    maps = store.maps("features", [1, 4])
    assert maps is not None
    assert maps.shape == (2, 4, 9, 20)
    with pytest.raises(onnxvis.OnnxvisError, match="different sizes"):
        store.maps("features", [0, 1])


def test_a_dense_output(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w1": rng.standard_normal((4, 3, 3, 3)), "w2": rng.standard_normal((3, 4, 1, 1))}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w1"], ["conv"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["conv"], ["features"], "relu"),
            helper.make_node("Conv", ["features", "w2"], ["scores"], "classify"),
        ],
        "dense",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    model = onnxvis.load(proto, preprocessing="unit")
    store = index(model, [str(folder)], tmp_path / "s").store
    x = np.concatenate([model.prepare(row.path).tensor for row in store.pictures()])
    found = model.engine.forward(x, ("features", "scores"))
    np.testing.assert_allclose(store.embeddings()[1], found["features"].mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
    best = found["scores"].mean(axis=(2, 3)).argmax(axis=1)
    assert [row.top[0][0] for row in store.pictures()] == best.tolist()
