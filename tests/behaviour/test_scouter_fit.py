"""From a deployed classifier and labelled pictures to one file: what it holds, what it answers, and bad data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image
from support.scouter import CLASSES, classifier, digits, opened

import onnxvis
from onnxvis.behaviour.scouter import HeadSettings, TrainingSettings, evaluate, fit, read_samples
from onnxvis.behaviour.scouter.features import backbone_features
from onnxvis.behaviour.scouter.fitting import Fitted, split
from onnxvis.cli.console import run as run_cli
from onnxvis.errors import LayerError, ModelError, PictureError, UsageError

QUICK = TrainingSettings(epochs=2, device="cpu", learning_rate=5e-3)
SMALL = HeadSettings(dim=16)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module", params=["positive", "negative"])
def fitted(request: pytest.FixtureRequest, work: Path) -> Fitted:
    training = TrainingSettings(
        epochs=40, patience=40, device="cpu", learning_rate=4e-3, batch_size=16, area_weight=0.1
    )
    return fit(opened(classifier()), digits(), work, head=HeadSettings(request.param, dim=16), training=training)


def test_the_file_runs_alone_with_any_batch(fitted: Fitted, tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(fitted.save(tmp_path / "s.onnx"))
    assert [o.name for o in session.get_outputs()] == ["logits", "attention"]
    for count in (1, 3):
        x = np.random.default_rng(0).random((count, 1, 16, 16), dtype=np.float32)
        logits, attention = session.run(None, {"image": x})
        assert logits.shape == (count, 3)
        assert attention.shape == (count, 3, 8, 8)
        assert 0 <= attention.min() < attention.max() <= 1
        assert (logits * (1 if fitted.record["form"]["settings"]["explanation"] == "positive" else -1)).min() >= 0


def test_the_head_has_learned_the_digits(fitted: Fitted) -> None:
    found = evaluate(onnxvis.load(fitted.proto, provider="cpu"), digits(100, 200))
    assert found.accuracy > 0.75
    assert found.pictures == 100
    counted = sum(n * accuracy for n, accuracy in found.per_class.values()) / 100
    assert counted == pytest.approx(found.accuracy)


def test_the_backbone_keeps_its_bits(fitted: Fitted) -> None:
    x = np.random.default_rng(1).random((4, 1, 16, 16), dtype=np.float32)
    before = opened(classifier()).engine.forward(x, ("features",))["features"]
    after = onnxvis.load(fitted.proto, provider="cpu").engine.forward(x, ("features",))["features"]
    assert np.array_equal(before, after)
    names = {t.name: numpy_helper.to_array(t) for t in fitted.proto.graph.initializer}
    assert np.array_equal(names["w1"], np.random.default_rng(0).standard_normal((12, 1, 3, 3)).astype(np.float32))
    assert "w2" not in names


def test_the_file_tells_what_it_is(fitted: Fitted) -> None:
    model = onnxvis.load(fitted.proto, provider="cpu")
    assert model.labels.names == CLASSES
    assert model.preprocessing is not None
    assert model.preprocessing == opened(classifier()).preprocessing
    record = json.loads(model.metadata["onnxvis.scouter"])
    assert record["source_sha256"] == opened(classifier()).sha256
    assert record["pictures"] == {"fitted": 145, "held_back": 15}
    assert model.opset == 17


def test_features_and_training_are_not_computed_twice(fitted: Fitted, work: Path) -> None:
    again = fit(
        opened(classifier()), digits(), work,
        head=HeadSettings(fitted.record["form"]["settings"]["explanation"], dim=16),
        training=TrainingSettings(**fitted.record["training"]),
    )  # fmt: skip
    assert again.proto == fitted.proto
    assert again.trained.resumed == len(fitted.trained.history)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({"layout": "NHWC"}, "bit by bit"),
        ({"opset": 12}, "bit by bit"),
        ({"opset": 8}, "canonical form, because its operator set is older"),
        ({"batch": 1}, "bit by bit"),
    ],
)
def test_other_files(kind: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Channels last, old operator sets, a fixed batch: the same head on the same features."""
    head = HeadSettings(dim=16, slots=2)
    done = fit(opened(classifier(**kind)), digits(60), tmp_path, head=head, training=QUICK)
    plain = fit(opened(classifier()), digits(60), tmp_path, head=head, training=QUICK)
    assert any(said in note for note in done.notes)
    onnx.checker.check_model(done.proto, full_check=True)
    sample = digits(60).pictures[0]
    pair = [onnxvis.load(f.proto, provider="cpu") for f in (done, plain)]
    logits = [m.engine.forward(m.prepare(sample).tensor, ("logits",))["logits"] for m in pair]
    assert np.allclose(*logits, rtol=1e-4, atol=1e-6)
    assert done.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == (1 if kind.get("batch") == 1 else 0)


def test_the_backbone_can_be_trained_too(tmp_path: Path) -> None:
    training = TrainingSettings(epochs=6, device="cpu", learning_rate=5e-3, backbone_rate=1.0, batch_size=16)
    head = HeadSettings(dim=16)
    done = fit(opened(classifier()), digits(96), tmp_path, head=head, training=training, train_backbone=True)
    weights = {t.name: numpy_helper.to_array(t) for t in done.proto.graph.initializer}
    first = np.random.default_rng(0).standard_normal((12, 1, 3, 3)).astype(np.float32)
    assert 1e-3 < np.abs(weights["w1"] - first).max() < 1
    assert done.trained.history[-1].loss < done.trained.history[0].loss
    assert any("agree with the trained module" in note for note in done.notes)
    assert done.record["backbone"] == "trained"


# --- bad data --------------------------------------------------------------------------------------


def folder_of(path: Path, classes: dict[str, int]) -> Path:
    samples = digits()
    for index, (name, count) in enumerate(classes.items()):
        (path / name).mkdir(parents=True)
        rows = np.flatnonzero(samples.labels == index % 3)[:count]
        for row in rows:
            Image.fromarray(np.asarray(samples.pictures[row])).save(path / name / f"{row}.png")
    return path


def test_one_class_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one class only"):
        read_samples(folder_of(tmp_path / "d", {"zero": 3}))


def test_a_class_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'one' has no pictures"):
        read_samples(folder_of(tmp_path / "d", {"zero": 3, "one": 0, "two": 3}))


def test_a_broken_picture_is_skipped_and_reported(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"zero": 12, "one": 12})
    broken = folder / "zero" / "a.png"
    broken.write_bytes(b"no picture")
    samples = read_samples(folder)
    features = backbone_features(opened(classifier()), samples, "features", tmp_path / "w", 5)
    assert features.good.sum() == 24
    row = int(np.argmin(features.good))
    assert samples.pictures[row] == str(broken)
    assert str(broken) in features.problems[0]
    assert not features.values[row].any()
    done = fit(opened(classifier()), samples, tmp_path / "w", head=SMALL, training=QUICK, batch_size=5)
    assert done.problems == features.problems
    assert evaluate(onnxvis.load(done.proto, provider="cpu"), samples).problems == features.problems


def test_a_class_of_broken_pictures_is_an_error(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"zero": 4, "one": 0})
    (folder / "one" / "a.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="no picture of class 'one' can be read"):
        fit(opened(classifier()), read_samples(folder), tmp_path / "w", head=SMALL, training=QUICK)
    (folder / "two").mkdir()
    for old in (folder / "zero").iterdir():
        old.write_bytes(b"")
    with pytest.raises(UsageError, match="'two' has no pictures"):
        read_samples(folder)
    (folder / "two").rmdir()
    with pytest.raises(PictureError, match="none of the 5 pictures"):
        fit(opened(classifier()), read_samples(folder), tmp_path / "w", head=SMALL, training=QUICK)


def test_features_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    proto = classifier()
    log = [helper.make_node("Sub", ["c", "c"], ["zero"]), helper.make_node("Log", ["zero"], ["features"])]
    del proto.graph.node[1]
    for place, node in enumerate(log, 1):
        proto.graph.node.insert(place, node)
    with pytest.raises(ModelError, match=r"NaN or infinity at 'features' on picture 0 of digits"):
        fit(opened(proto), digits(20), tmp_path, head=SMALL, training=QUICK)


def test_csv_and_npz_say_the_same_as_a_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"one": 3, "zero": 2})
    plain = read_samples(folder)
    rows = [
        f"{Path(str(p)).relative_to(tmp_path)},{plain.classes[k]}"
        for p, k in zip(plain.pictures, plain.labels, strict=True)
    ]
    (tmp_path / "l.csv").write_text("path,label\n" + "\n".join(rows), encoding="utf-8")
    listed = read_samples(tmp_path / "l.csv")
    assert [Path(str(p)) for p in listed.pictures] == [Path(str(p)) for p in plain.pictures]
    assert (listed.classes, listed.labels.tolist()) == (("one", "zero"), plain.labels.tolist())
    x = np.stack([np.asarray(Image.open(str(p))) for p in plain.pictures])
    np.savez(tmp_path / "a.npz", x=x, y=plain.labels, labels=np.array(plain.classes))
    np.savez(tmp_path / "b.npz", x=x, y=np.array([7, 7, 7, 3, 3]))
    assert read_samples(tmp_path / "a.npz").classes == plain.classes
    assert read_samples(tmp_path / "b.npz").classes == ("3", "7")
    assert np.array_equal(np.asarray(read_samples(tmp_path / "b.npz").pictures[4]), x[4])


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.csv", "x.png\n", "is not path,label"),
        ("a.csv", "", "names no pictures"),
        ("a.npz", "nothing", "cannot be read as .npz"),
        ("a.txt", "", "not a form of labelled pictures"),
        ("missing", None, "there is no folder or file"),
    ],
)
def test_malformed_lists_are_errors(tmp_path: Path, name: str, content: str | None, word: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=word):
        read_samples(tmp_path / name)


def test_a_layer_without_places_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match=r"more than one place|no rows and columns"):
        fit(opened(classifier()), digits(20), tmp_path, head=SMALL, training=QUICK, layer="mean")


def test_a_killed_pass_goes_on(tmp_path: Path) -> None:
    model, samples = opened(classifier()), digits(40)
    whole = backbone_features(model, samples, "features", tmp_path / "a", 8)

    def stop(stage: str, done: int, total: int) -> None:
        if done >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backbone_features(model, samples, "features", tmp_path / "b", 8, stop)
    resumed = backbone_features(model, samples, "features", tmp_path / "b", 8)
    assert (whole.resumed, resumed.resumed) == (0, 24)
    assert np.array_equal(whole.values, resumed.values)
    assert backbone_features(model, samples, "features", tmp_path / "b", 8).resumed == 40
    other = backbone_features(opened(classifier(weights=1)), samples, "features", tmp_path / "b", 8)
    assert other.folder != resumed.folder


def test_the_split_keeps_every_class() -> None:
    samples = digits(100)
    good = np.ones(100, bool)
    good[:5] = False
    fitted_rows, held = split(samples, good, 0.25, 1)
    assert not set(fitted_rows) & set(held)
    assert sorted([*fitted_rows, *held]) == list(range(5, 100))
    for k in range(3):
        own = int(((samples.labels == k) & good).sum())
        assert int((samples.labels[held] == k).sum()) == round(0.25 * own)
    assert split(samples, good, 0.25, 2)[1].tolist() != held.tolist()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    onnx.save(classifier(), tmp_path / "m.onnx")
    folder = folder_of(tmp_path / "d", {"zero": 8, "one": 8})
    common = ["--quiet", "--channel-order", "gray", "--scale", "0.00392156862745098"]
    told = ["scouter", "fit", str(tmp_path / "m.onnx"), str(folder), "-o", str(tmp_path / "s.onnx"), "--epochs", "1"]
    told += ["--dim", "16", "--explanation", "negative", "--work", str(tmp_path / "w"), "--device", "cpu"]
    assert run_cli([*told, *common]) == 0
    picture = next((folder / "zero").iterdir())
    (tmp_path / "boxes.csv").write_text(f"path,x0,y0,x1,y1\nd/zero/{picture.name},0,0,8,16\n", encoding="utf-8")
    told = ["scouter", "evaluate", str(tmp_path / "s.onnx"), str(folder), "--boxes", str(tmp_path / "boxes.csv")]
    assert run_cli([*told, "--json", str(tmp_path / "e.json"), "--quiet"]) == 0
    found = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert (found["pictures"], found["boxed"], found["precision_chance"]) == (16, 1, 0.5)
    told = ["explain", str(tmp_path / "s.onnx"), str(picture), "-m", "scouter", "-t", "top1", "-t", "least"]
    assert run_cli([*told, "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert len(list((tmp_path / "out").rglob("manifest.json"))) == 2
    (folder / "one" / "zz.png").write_bytes(b"")
    assert run_cli(["scouter", "evaluate", str(tmp_path / "s.onnx"), str(folder), "--quiet"]) == 2
    assert "left out" in capsys.readouterr().err
