"""Unit ablation of classifiers against float64 by hand, against graph editing, and through the command line."""

import json

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image
from support.nets import CLASSES, SmallNet, noise

import onnxvis
from onnxvis.behaviour.gan.classifier import unit_ablation
from onnxvis.cli.console import run
from onnxvis.errors import LayerError, ModelError, PictureError, UsageError
from onnxvis.graph.intervene import MASK, intervene

NET = SmallNet(seed=4)
COUNT = 10


def prepared(model, count=COUNT):
    return [model.prepare(noise(1, 3, 32, 32, seed=i)) for i in range(count)]


def by_hand(units):
    """Logits ``(N, K)`` with units of the hidden layer off."""
    x = np.concatenate([noise(1, 3, 32, 32, seed=i) for i in range(COUNT)])
    features = NET.features(x)
    features[:, units] = 0
    return features.mean(axis=(2, 3)) @ NET.w2.T.astype(np.float64) + NET.b2


@pytest.fixture(scope="module")
def model():
    return onnxvis.load(NET.model())


@pytest.mark.parametrize("shape", [None, [1, 3, 32, 32], [4, 3, 32, 32]])
def test_drops_are_those_of_the_formula(shape):
    model = onnxvis.load(NET.model(shape))
    found = unit_ablation(model, prepared(model), batch_size=4)
    assert found.layer.tensor == "features"
    base = by_hand([])
    classes = base.argmax(axis=1)
    rows = np.arange(COUNT)
    assert found.classes.tolist() == classes.tolist()
    np.testing.assert_allclose(found.base, base[rows, classes], atol=1e-5)
    for unit in range(NET.width):
        off = by_hand([unit])
        np.testing.assert_allclose(found.drops[:, unit], (base - off)[rows, classes], atol=2e-5)
        assert found.still_right[:, unit].tolist() == (off.argmax(axis=1) == classes).tolist()
    drops = np.stack([(base - by_hand([u]))[rows, classes] for u in range(NET.width)], axis=1)
    np.testing.assert_allclose(found.mean_drop, drops.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.drop_error, drops.std(axis=0, ddof=1) / np.sqrt(COUNT), atol=1e-5)
    assert found.ranked()[0] == int(drops.mean(axis=0).argmax())
    assert found.accuracy == 1.0
    assert found.together is None
    assert not any("negative values" in note for note in found.notes)
    before = unit_ablation(model, prepared(model, 2), "conv")
    assert "negative values" in before.notes[-1]


def test_given_units_alone_and_together_and_given_classes(model):
    truth = [i % CLASSES for i in range(COUNT)]
    found = unit_ablation(model, prepared(model), units=[5, 2], truth=truth)
    base, off, rows = by_hand([]), by_hand([5, 2]), np.arange(COUNT)
    assert found.units.tolist() == [5, 2]
    np.testing.assert_allclose(found.together[0], (base - off)[rows, truth], atol=2e-5)
    assert found.together[1].tolist() == (off.argmax(axis=1) == truth).tolist()
    assert found.accuracy == np.mean(base.argmax(axis=1) == truth)
    expected = np.mean(base.argmax(axis=1) == truth) - np.mean(by_hand([2]).argmax(axis=1) == truth)
    assert found.accuracy_loss[1] == pytest.approx(expected)


def test_classes_that_lose_most_come_first(model):
    truth = [i % 3 for i in range(COUNT)]
    found = unit_ablation(model, prepared(model), truth=truth)
    rows = found.by_class(0)
    assert sorted(r.index for r in rows) == [0, 1, 2]
    assert [r.drop for r in rows] == sorted((r.drop for r in rows), reverse=True)
    for row in rows:
        own = np.array(truth) == row.index
        assert row.pictures == own.sum()
        assert row.drop == pytest.approx(found.drops[own, 0].mean())
        assert row.accuracy_loss == pytest.approx(found.right[own].mean() - found.still_right[own, 0].mean())
    best = found.units_of_class(1, 2)
    means = found.drops[np.array(truth) == 1].mean(axis=0)
    assert best[0] == (int(means.argmax()), pytest.approx(means.max()))


def test_it_is_what_the_edited_graph_answers(model):
    found = unit_ablation(model, prepared(model), batch_size=COUNT)
    edited = ort.InferenceSession(intervene(NET.model(), "features", 4).model.SerializeToString())
    x = np.concatenate([noise(1, 3, 32, 32, seed=i) for i in range(COUNT)])
    mask = np.zeros((1, NET.width, 1, 1), np.float32)
    mask[:, 3] = 1
    base, off = (edited.run(None, {"image": x, MASK: m})[0] for m in (np.zeros_like(mask), mask))
    rows = np.arange(COUNT)
    np.testing.assert_allclose(found.drops[:, 3], (base - off)[rows, found.classes], atol=1e-5)


def test_stopped_early_it_returns_what_is_finished(model):
    def stop(stage, done, total):
        if done > total * 0.7:
            raise KeyboardInterrupt

    found = unit_ablation(model, prepared(model), batch_size=4, progress=stop)
    assert len(found.classes) == 4
    assert found.notes[0] == "interrupted: 4 of 10 pictures are finished"
    with pytest.raises(KeyboardInterrupt):
        unit_ablation(model, prepared(model), batch_size=COUNT, progress=stop)


def test_a_picture_that_cannot_be_read_costs_only_itself(tmp_path):
    model = onnxvis.load(NET.model(), preprocessing="imagenet", size=32)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    pictures = prepared(model, 3)
    found = unit_ablation(model, [pictures[0], str(broken), *pictures[1:]], truth=[0, 1, 2, 3])
    assert found.rows.tolist() == [0, 2, 3]
    assert found.classes.tolist() == [0, 2, 3]
    assert found.notes[0].startswith("left out: ")
    with pytest.raises(PictureError, match="no picture could be read"):
        unit_ablation(model, [str(broken)])


def test_refusals(model):
    with pytest.raises(UsageError, match="no pictures"):
        unit_ablation(model, [])
    with pytest.raises(UsageError, match="units 0 to 7, not 8"):
        unit_ablation(model, prepared(model, 1), units=[8])
    with pytest.raises(UsageError, match="1 classes were given for 2"):
        unit_ablation(model, prepared(model, 2), truth=[0])
    with pytest.raises(UsageError, match="classes 0 to 5"):
        unit_ablation(model, prepared(model, 1), truth=[6])
    with pytest.raises(LayerError):
        unit_ablation(model, prepared(model, 1), "nowhere")
    dense = onnxvis.load(NET.model(output="features"), output="features")
    with pytest.raises(ModelError, match="no classifier"):
        unit_ablation(dense, prepared(dense, 1))


def test_the_command(tmp_path, capsys):
    import onnx

    onnx.save(NET.model([1, 3, 32, 32]), tmp_path / "net.onnx")
    labels = tmp_path / "names.txt"
    labels.write_text("\n".join(f"thing {i}" for i in range(CLASSES)))
    rng = np.random.default_rng(0)
    for folder in ("thing 0", "thing 3"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                tmp_path / "photos" / folder / f"{i}.png"
            )
    common = ["ablate", str(tmp_path / "net.onnx"), str(tmp_path / "photos"), "--preprocessing", "imagenet"]
    common += ["--labels", str(labels), "--size", "32"]
    assert run([*common, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "on 6 pictures" in said
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(manifest["units"]) == NET.width
    page = (tmp_path / "out" / "index.html").read_text()
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert Image.open(tmp_path / "out" / "Units.png").size[0] == 900
    assert run([*common, "--truth", "folder", "--units", "1,2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["truth"] == "given"
    assert data["together"]["units"] == [1, 2]
    assert {c["index"] for u in data["units"] for c in u["classes"]} == {0, 3}
    assert run([*common, "--truth", "guess"]) == 2
    assert run([*common, "--units", "1.5"]) == 2
