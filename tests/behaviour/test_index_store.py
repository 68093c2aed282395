"""`onnxvis index` against running every picture by hand: predictions, embeddings, strongest places, quantiles, maps."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image
from support.nets import CLASSES, SmallNet

import onnxvis
from onnxvis.behaviour.index import Store
from onnxvis.behaviour.index import rows as index_rows
from onnxvis.behaviour.index import store as index_store
from onnxvis.behaviour.index.layers import embedding_tap, unit_taps
from onnxvis.behaviour.index.run import IndexOptions, index, shards_of
from onnxvis.behaviour.index.shard import IndexSpec, index_shard
from onnxvis.cli import main
from onnxvis.errors import DependencyError, LayerError, OnnxvisError, OutputError, UsageError
from onnxvis.kernels.overlap import Overlap
from onnxvis.reading import list_pictures

pytest.importorskip("lance", reason="the store of `onnxvis index` needs the extra 'index'")
NET = SmallNet(width=5, seed=3)
COUNT, BROKEN = 23, 7
SETTINGS = IndexOptions(layers=("auto", "conv", "logits"), top_k=6, batch_size=4, keep_maps=True, shard_size=8)


def write_pictures(folder: Path, count: int = COUNT) -> list[str]:
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        path = folder / ("cats" if number % 2 else "dogs") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
        paths.append(str(path))
    return sorted(paths)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    Path(write_pictures(folder)[BROKEN]).write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def model() -> onnxvis.Model:
    return onnxvis.load(NET.model(), preprocessing="unit", labels=[f"kind {i}" for i in range(CLASSES)])


@pytest.fixture(scope="module")
def store(folder: Path, model: onnxvis.Model, tmp_path_factory: pytest.TempPathFactory) -> Store:
    done = index(model, [str(folder)], tmp_path_factory.mktemp("store") / "s", SETTINGS, command="as asked")
    assert (done.pictures, done.failed, done.run) == (COUNT, 1, COUNT)
    return done.store


@pytest.fixture(scope="module")
def inputs(folder: Path, model: onnxvis.Model) -> dict[int, np.ndarray]:
    paths = sorted(folder.rglob("*.png"))
    return {n: model.prepare(path).tensor for n, path in enumerate(paths) if n != BROKEN}


def test_rows(store: Store, folder: Path, model: onnxvis.Model, inputs: dict[int, np.ndarray]) -> None:
    rows = store.pictures()
    assert store.complete
    assert [row.id for row in rows] == list(range(COUNT))
    assert [row.path for row in rows] == [str(p) for p in sorted(folder.rglob("*.png"))]
    assert [row.label for row in rows] == [Path(row.path).parent.name for row in rows]
    assert [bool(row.error) for row in rows] == [n == BROKEN for n in range(COUNT)]
    assert "Pillow" in rows[BROKEN].error
    assert rows[BROKEN].top == ()
    logits = NET.reference(np.concatenate(list(inputs.values())))
    for (number, _), row in zip(inputs.items(), logits, strict=True):
        order = np.argsort(-row)[:5]
        probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        assert [index for index, _, _ in rows[number].top] == order.tolist()
        assert [name for _, name, _ in rows[number].top] == [f"kind {i}" for i in order]
        np.testing.assert_allclose([score for _, _, score in rows[number].top], probabilities[order], rtol=1e-4)
        assert (rows[number].width, rows[number].height, len(rows[number].sha256)) == (32, 32, 64)


def test_embeddings_and_neighbors(store: Store, inputs: dict[int, np.ndarray]) -> None:
    ids, vectors = store.embeddings()
    assert ids.tolist() == list(inputs)
    features = NET.features(np.concatenate(list(inputs.values()))).mean(axis=(2, 3))
    np.testing.assert_allclose(vectors, features, rtol=1e-5, atol=1e-6)
    assert store.embedding_layer == "pooled"
    assert "last linear layer" in store.manifest["embedding"]["reason"]
    query = vectors[4] + np.float32(0.01)
    plain = vectors.astype(np.float64)
    euclidean = np.linalg.norm(plain - query.astype(np.float64), axis=1)
    cosine = 1 - plain @ query / np.linalg.norm(plain, axis=1) / np.linalg.norm(query.astype(np.float64))
    for metric, distances in (("euclidean", euclidean), ("cosine", cosine)):
        found, far = store.nearest(query, 9, metric)  # type: ignore[arg-type]
        order = np.argsort(distances)[:9]
        np.testing.assert_array_equal(found, ids[order])
        np.testing.assert_allclose(far, distances[order], rtol=1e-6, atol=1e-9)
    assert len(store.nearest(query, 99)[0]) == COUNT - 1
    with pytest.raises(UsageError, match="5 finite numbers"):
        store.nearest(query[:3], 1)


def test_units_equal_brute_force(store: Store, model: onnxvis.Model, inputs: dict[int, np.ndarray]) -> None:
    features = NET.features(np.concatenate(list(inputs.values())))
    assert store.layers == ("features", "conv", "logits")
    numbers = list(inputs)
    kept = store.maps("features", numbers)
    assert kept is not None
    np.testing.assert_allclose(kept, features, rtol=1e-3, atol=1e-4)
    for layer in ("features", "conv"):
        exact = np.concatenate([model.engine.forward(x, (layer,))[layer] for x in inputs.values()])
        top = store.top(layer)
        for unit in range(NET.width):
            spots = [(exact[i, unit].max(), numbers[i], *divmod(int(exact[i, unit].argmax()), 32)) for i in range(22)]
            expected = sorted(spots, key=lambda s: (-s[0], s[1]))[:6]
            np.testing.assert_allclose(top.values[unit], [s[0] for s in expected], rtol=1e-5)
            assert top.picture[unit].tolist() == [s[1] for s in expected]
            assert list(zip(top.row[unit], top.col[unit], strict=True)) == [s[2:] for s in expected]
        ranked = np.sort(exact.transpose(1, 0, 2, 3).reshape(NET.width, -1), axis=1)
        for q in (0, 0.1, 0.5, 0.995, 1):
            expected_q = ranked[:, int(q * (ranked.shape[1] - 1))]
            np.testing.assert_allclose(store.quantile(layer, q), expected_q, rtol=0.0081, atol=1e-6)
        assert store.not_numbers(layer).tolist() == [0] * NET.width
    assert (store.top("logits").row[:, 0] == 0).all()
    assert store.maps("logits", [0, 1]).shape == (2, CLASSES, 1, 1)  # type: ignore[union-attr]


def test_what_a_store_refuses(store: Store, tmp_path: Path) -> None:
    with pytest.raises(LayerError, match=r"no layer 'feature'.*'features'"):
        store.top("feature")
    with pytest.raises(UsageError, match=f"picture {BROKEN} failed"):
        store.maps("features", [0, BROKEN])
    with pytest.raises(UsageError, match="no picture number 99"):
        store.maps("features", [99])
    assert store.iou("features") is None
    with pytest.raises(OnnxvisError, match="Make one: onnxvis index"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(OnnxvisError, match="holds no finished or begun index"):
        Store.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"onnxvis_store": 99}')
    with pytest.raises(OnnxvisError, match="format 99"):
        Store.open(tmp_path)


def test_the_manifest_says_what_was_asked(store: Store, model: onnxvis.Model) -> None:
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert manifest["model"]["sha256"] == model.sha256
    assert manifest["preprocessing"] == json.loads(json.dumps(model.preprocessing.to_dict()))  # type: ignore[union-attr]
    assert manifest["command"] == "as asked"
    assert manifest["pictures"]["count"] == manifest["pictures"]["labeled"] == COUNT
    assert manifest["options"]["top_k"] == 6


def test_shards_are_pure_and_merge_in_any_order_to_what_the_store_answers(
    store: Store, folder: Path, model: onnxvis.Model
) -> None:
    listed, options = list_pictures([str(folder)]), SETTINGS
    taps = unit_taps(model, options.layers)
    spec = IndexSpec(taps, embedding_tap(model, None), top_k=6, batch_size=4, keep_maps=True)
    shards = pickle.loads(pickle.dumps(shards_of(listed, options.shard_size)))  # as a worker elsewhere gets them
    parts = [pickle.loads(pickle.dumps(index_shard(model, spec, shards[n]))) for n in (2, 0, 1)]
    whole = parts.pop(0)
    for part in parts:
        whole.merge(part)
    assert [answer.row for answer in whole.answers] == store.pictures()
    vectors = np.stack([a.embedding for a in whole.answers if a.embedding is not None])
    np.testing.assert_array_equal(vectors, store.embeddings()[1])
    for layer, tally in whole.tally.layers.items():
        top = store.top(layer)
        np.testing.assert_array_equal(tally.places().values, top.values)
        np.testing.assert_array_equal(tally.places().col, top.col)
        np.testing.assert_array_equal(tally.sketch.quantile(0.7), store.quantile(layer, 0.7))
    kept = store.maps("conv", [5])
    assert kept is not None
    np.testing.assert_array_equal(whole.answers[5].maps[1], kept[0])


def test_batches_and_shards_change_nothing_but_rounding(
    store: Store, folder: Path, model: onnxvis.Model, tmp_path: Path
) -> None:
    other = index(model, [str(folder)], tmp_path / "s", IndexOptions(batch_size=3, shard_size=5, top_k=6)).store
    np.testing.assert_allclose(other.embeddings()[1], store.embeddings()[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(other.top("features").picture, store.top("features").picture)
    np.testing.assert_allclose(other.quantile("features", 0.9), store.quantile("features", 0.9), rtol=0.017)
    assert other.maps("features", [0]) is None


def test_another_question_is_refused(folder: Path, model: onnxvis.Model, tmp_path: Path) -> None:
    images, options = [str(folder)], IndexOptions(shard_size=8)
    path = tmp_path / "s"
    first = index(model, images, path, options)
    assert index(model, images, path, options).run == 0
    for other, word in (
        (IndexOptions(shard_size=8, top_k=5), "option top_k"),
        (IndexOptions(shard_size=9), "option shard_size"),
        (IndexOptions(shard_size=8, layers=("conv",)), "set of layers"),
        (IndexOptions(shard_size=8, embedding="conv"), "embedding"),
    ):
        with pytest.raises(UsageError, match=f"begun with another {word}"):
            index(model, images, path, other)
    with pytest.raises(UsageError, match="number of pictures"):
        index(model, [str(folder / "cats")], path, options)
    other_net = onnxvis.load(SmallNet(width=5, seed=4).model(), preprocessing="unit")
    with pytest.raises(UsageError, match="another model"):
        index(other_net, images, path, options)
    with pytest.raises(UsageError, match="another preprocessing"):
        index(onnxvis.load(NET.model(), preprocessing="none", labels=model.labels.names), images, path, options)
    assert Store.open(path).fingerprint() == first.store.fingerprint()
    with pytest.raises(UsageError, match="--shard-size 26214 or less"):
        index(model, images, path, IndexOptions(keep_maps=True, shard_size=30000))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(OutputError, match=r"holds other things \(thesis.txt"):
        index(model, images, tmp_path / "mine", options)


def test_pictures_that_make_the_model_fail_are_recorded(tmp_path: Path) -> None:
    net = SmallNet(width=3)
    middle = [
        helper.make_node("Log", ["features"], ["logged"], "log"),  # NaN for no value, -inf for 0
        helper.make_node("GlobalAveragePool", ["features"], ["gap"], "gap"),
        helper.make_node("Div", ["gap", "gap"], ["ones"], "div"),  # NaN where a unit is silent everywhere
        helper.make_node("Flatten", ["ones"], ["pooled"], "flatten"),
    ]
    net.b1[:] = -0.5
    net.w1[:] = np.abs(net.w1)
    model = onnxvis.load(net.model(middle=middle), preprocessing="unit")
    paths = write_pictures(tmp_path / "p", 6)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(paths[2])
    store = index(model, [str(tmp_path / "p")], tmp_path / "s", IndexOptions(layers=("features",), batch_size=4)).store
    assert [row.id for row in store.pictures() if row.error] == [2]
    assert "NaN or infinity" in store.pictures()[2].error
    assert 2 not in store.top("features").picture
    assert 2 not in store.embeddings()[0]


def test_activations_that_are_not_numbers_are_counted_apart(tmp_path: Path) -> None:
    net = SmallNet(width=3)
    pool = [
        helper.make_node("Sqrt", ["conv"], ["root"], "sqrt"),  # NaN below zero
        helper.make_node("GlobalAveragePool", ["features"], ["gap"], "gap"),
        helper.make_node("Flatten", ["gap"], ["pooled"], "flatten"),
    ]
    proto = net.model(middle=pool)
    proto.graph.output.append(helper.make_tensor_value_info("root", onnx.TensorProto.FLOAT, None))
    model = onnxvis.load(proto, preprocessing="unit", output="logits")
    paths = write_pictures(tmp_path / "p", 5)
    store = index(model, [str(tmp_path / "p")], tmp_path / "s", IndexOptions(layers=("root",), top_k=5)).store
    conv = np.concatenate([model.engine.forward(model.prepare(p).tensor, ("conv",))["conv"] for p in paths])
    negative = (conv < 0).transpose(1, 0, 2, 3).reshape(3, -1)
    assert negative.any()
    np.testing.assert_array_equal(store.not_numbers("root"), negative.sum(axis=1))
    best = np.sqrt(conv.max(axis=(2, 3)))
    np.testing.assert_allclose(store.top("root").values, -np.sort(-best.T, axis=1), rtol=1e-5)


def test_concepts_are_counted_as_in_network_dissection(folder: Path, model: onnxvis.Model, tmp_path: Path) -> None:
    masks, rng = tmp_path / "masks", np.random.default_rng(5)
    masks.mkdir()
    (masks / "concepts.txt").write_text("sky\ngrass\n")
    truth = {}
    for number in (0, 3, BROKEN, 9, 20):
        path = sorted(folder.rglob("*.png"))[number]
        labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (32, 32))
        Image.fromarray(labels).save(masks / path.name)
        truth[number] = labels.astype(np.int64)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(masks / sorted(folder.rglob("*.png"))[11].name)
    options = IndexOptions(masks=str(masks), top=0.1, shard_size=8, batch_size=4)
    store = index(model, [str(folder)], tmp_path / "s", options).store
    counts = store.iou("features")
    assert counts is not None
    assert (counts.names, counts.pictures, counts.quantile) == (("sky", "grass"), 4, 0.9)
    np.testing.assert_array_equal(counts.thresholds, store.quantile("features", 0.9))
    slow = Overlap(counts.thresholds, 3)
    for number, labels in truth.items():
        if number != BROKEN:
            x = model.prepare(store.pictures()[number].path).tensor
            slow.add(model.engine.forward(x, ("features",))["features"], np.where(labels == 255, -1, labels)[None])
    np.testing.assert_array_equal(counts.both, slow.both[:, :2])
    np.testing.assert_array_equal(counts.masked, slow.masked)
    np.testing.assert_array_equal(counts.labeled, slow.labeled[:2])
    np.testing.assert_allclose(counts.iou(), slow.iou()[:, :2])
    assert store.manifest["masks"]["errors"] == 2
    assert index(model, [str(folder)], tmp_path / "s", options).run == 0
    (masks / "concepts.txt").write_text("sky\nlawn\n")
    with pytest.raises(UsageError, match="other masks"):
        index(model, [str(folder)], tmp_path / "s", options)


def test_an_index_of_many_vectors_finds_the_same(
    folder: Path, model: onnxvis.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxvis.behaviour.index.folder.ANN_FROM", 10)
    store = index(model, [str(folder)], tmp_path / "s", IndexOptions(shard_size=8)).store
    assert "IVF_SQ" in store.nearest_how()
    assert store.nearest_how("cosine").startswith("exact")
    ids, vectors = store.embeddings()
    for metric in ("euclidean", "cosine"):
        found, far = store.nearest(vectors[3], 5, metric)  # type: ignore[arg-type]
        exact = index_store.exact_nearest(ids, vectors, vectors[3], 5, metric)
        np.testing.assert_array_equal(found, exact[0])
        np.testing.assert_array_equal(far, exact[1])


def test_without_lance_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lance", None)
    with pytest.raises(DependencyError, match=r'pip install "onnxvis\[index\]"'):
        index_rows.lance_module()
    with pytest.raises(DependencyError):
        Store.open(tmp_path)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(NET.model(), path)
    command = [
        "index",
        str(path),
        str(folder),
        "--preprocessing",
        "unit",
        "-o",
        str(tmp_path / "s"),
        "--layers",
        "auto,conv",
    ]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert f"{COUNT}, 1 failed" in printed.out
    assert "pictures/s" in printed.out
    assert "1 of 23 pictures were left out" in printed.err
    assert Store.open(tmp_path / "s").layers == ("features", "conv")
    assert main(command) == 0
    assert "nothing was left to do" in capsys.readouterr().out
    assert main([*command[:3], "-o", str(tmp_path / "t")]) == 2
    assert "does not guess" in capsys.readouterr().err
    assert main([*command, "--top-k", "3"]) == 2


def test_a_model_in_nhwc(tmp_path: Path, folder: Path) -> None:
    to_nchw = [helper.make_node("Transpose", ["image"], ["x"], "to_nchw", perm=[0, 3, 1, 2])]
    middle = [
        helper.make_node("Transpose", ["features"], ["last"], "to_nhwc", perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["last"], ["pooled"], "mean", axes=[1, 2], keepdims=0),
    ]
    nhwc = onnxvis.load(NET.model(["N", 32, 32, 3], before=to_nchw, middle=middle), preprocessing="unit")
    nchw = onnxvis.load(NET.model(), preprocessing="unit")
    a = index(nhwc, [str(folder)], tmp_path / "a", IndexOptions(layers=("last",))).store
    b = index(nchw, [str(folder)], tmp_path / "b", IndexOptions(layers=("features",))).store
    np.testing.assert_allclose(a.top("last").values, b.top("features").values, rtol=1e-5)
    np.testing.assert_array_equal(a.top("last").col, b.top("features").col)
    np.testing.assert_allclose(a.embeddings()[1], b.embeddings()[1], rtol=1e-5, atol=1e-6)
