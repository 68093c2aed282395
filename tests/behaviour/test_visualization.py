"""Class visualization: the score rises on the deployed file, the same seed gives the same picture, nothing is lost."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from support import squeezenet
from support.formats import convnet, half, quantized
from support.nets import bright_spot_net

import onnxvis
from onnxvis.behaviour import visual_ascent
from onnxvis.behaviour.visual_ascent import stage_steps
from onnxvis.behaviour.visual_recipe import RECIPES, recipe
from onnxvis.behaviour.visual_target import visual_target
from onnxvis.behaviour.visualization import Visualization, visualize
from onnxvis.cli import main
from onnxvis.demo import imagenet_labels, photo
from onnxvis.errors import PreprocessingError, TargetError, UsageError
from onnxvis.model import Model


@functools.cache
def trained() -> Model:
    return onnxvis.load(squeezenet.export(), preprocessing=squeezenet.PREPROCESSING, labels=imagenet_labels())


def small(gradients: str = "auto", preprocessing: Any = "unit", size: int = 16) -> Model:
    return onnxvis.load(convnet(size=size, batch="N"), preprocessing=preprocessing, gradients=gradients)


def one(model: Model, target: int | str = 3, **options: Any) -> Visualization:
    return visualize(model, target, **{"steps": 12, **options})[0]


@functools.cache
def espresso() -> Visualization:
    return one(trained(), "espresso", steps=40, rate=0.2)


# --- what it is for ----------------------------------------------------------------------------


def test_the_deployed_score_rises_far_above_that_of_any_photo() -> None:
    model, found = trained(), espresso()
    photos = [photo(n) for n in ("coffee.png", "chelsea.png", "rocket.jpg", "astronaut.png")]
    index = model.labels.find("espresso")
    x = np.concatenate([model.prepare(path).tensor for path in photos])
    natural = model.engine.forward(x, (model.logits.tensor,))[model.logits.tensor][:, index]
    assert natural.argmax() == 0  # the photo of an espresso
    assert found.score > 1.5 * natural.max()
    assert found.score > found.start_score + 20
    assert found.best.prediction.top[0].label == "espresso"
    scores = [stage.score for stage in found.best.stages]
    assert scores[-1] == max(scores) == found.score


def test_the_score_is_that_of_the_saved_file(tmp_path: Path) -> None:
    model, found = trained(), espresso()
    folder = found.save(tmp_path / "x")
    data = json.loads((folder / "manifest.json").read_text())
    prediction = model.predict(folder / "picture.png")
    assert prediction.top[0].logit == pytest.approx(data["score"], rel=1e-5)  # type: ignore[union-attr]
    assert data["restarts"][0]["prediction"]["top"][0]["label"] == "espresso"
    assert data["recipe"] == dataclasses.asdict(recipe("legible", steps=40, rate=0.2))
    assert data["parity"]["passed"] is True
    assert data["parity"]["gradient"]["error"] < 0.1
    assert [s["step"] for s in data["restarts"][0]["stages"]] == stage_steps(40)
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 5 * 224


def test_the_paper_recipe_rises_too() -> None:
    found = one(trained(), "zebra", recipe="simonyan", steps=16)
    assert found.score > found.start_score + 20
    assert found.recipe.source.startswith("Simonyan")


def test_the_known_optimum_of_a_hand_made_net() -> None:
    """Nothing is brighter than white: the mean over a threshold of 0.5 ends near 100 * (1 - 0.5)."""
    model = onnxvis.load(bright_spot_net(24, 5), preprocessing="unit")
    found = one(model, 0, steps=80, rate=0.5, start_noise=0.5)
    white = model.engine.forward(np.ones((1, 3, 24, 24), np.float32), ("logits",))["logits"][0, 0]
    assert 0.85 * white < found.score <= white
    assert found.best.picture.mean() > 230


# --- repeating, stopping, going on -------------------------------------------------------------


def test_the_same_seed_gives_the_same_picture_and_another_one_another() -> None:
    model = small()
    first, again, other = one(model, seed=1), one(model, seed=1), one(model, seed=2)
    np.testing.assert_array_equal(first.best.picture, again.best.picture)
    assert first.best.trace == again.best.trace
    assert first.key == again.key != other.key
    assert (first.best.picture != other.best.picture).mean() > 0.5


def test_a_restart_is_the_same_alone_and_in_a_batch() -> None:
    model = small()
    alone, together = one(model, seed=4), one(model, seed=4, restarts=3)
    pixels = together.restarts[0].picture.astype(int) - alone.restarts[0].picture
    assert np.abs(pixels).max() <= 1
    assert together.score == max(r.score for r in together.restarts)
    assert len({r.picture.tobytes() for r in together.restarts}) == 3


@pytest.mark.parametrize("at", [1, 7, 11])
def test_an_interrupted_climb_goes_on_bit_for_bit(at: int, tmp_path: Path) -> None:
    model = small()

    def stop(stage: str, done: int, total: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    whole = one(model, restarts=2)
    part = one(model, restarts=2, checkpoint=tmp_path, progress=stop)
    assert (part.interrupted, part.steps_done) == (True, at)
    assert any(f"stopped after {at} of 12" in note for note in part.notes)
    assert len(list(tmp_path.iterdir())) == 1
    rest = one(model, restarts=2, checkpoint=tmp_path)
    assert list(tmp_path.iterdir()) == []
    for a, b in zip(whole.restarts, rest.restarts, strict=True):
        np.testing.assert_array_equal(a.picture, b.picture)
        assert a.trace == b.trace
        assert [(s.step, s.score) for s in a.stages] == [(s.step, s.score) for s in b.stages]
    assert part.restarts[0].trace == whole.restarts[0].trace[:at]


def test_a_state_of_something_else_or_a_damaged_one_is_not_gone_on_from(tmp_path: Path) -> None:
    model = small()

    def stop(stage: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    assert one(model, checkpoint=tmp_path, progress=stop).interrupted
    (path,) = tmp_path.iterdir()
    kept = path.read_bytes()
    other = one(model, seed=9, checkpoint=tmp_path)
    np.testing.assert_array_equal(other.best.picture, one(model, seed=9).best.picture)
    path.write_bytes(kept[: len(kept) // 2])
    found = one(model, checkpoint=tmp_path)
    assert any("set aside" in note for note in found.notes)
    np.testing.assert_array_equal(found.best.picture, one(model).best.picture)


def test_the_command_stops_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = tmp_path / "m.onnx", tmp_path / "out"
    onnx.save(convnet(batch="N"), model)
    command = ["visualize", str(model), "-t", "3", "-t", "r1:3", "--preprocessing", "unit", "--steps", "6", "-q"]
    assert main([*command, "-o", str(tmp_path / "whole")]) == 0
    honest, calls = visual_ascent._advanced, []

    def slow(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return honest(*given)

    monkeypatch.setattr(visual_ascent, "_advanced", slow)
    assert main([*command, "-o", str(out)]) == 130
    assert len(list((out / "visualize" / "partial").iterdir())) == 1
    assert main([*command, "-o", str(out)]) == 0
    assert not (out / "visualize" / "partial").exists()
    assert len(calls) == 6 + 3 + 1 + 3  # the finished target is not climbed again
    for path in (tmp_path / "whole" / "visualize").rglob("picture.png"):
        again = out / "visualize" / path.parent.name / "picture.png"
        assert again.read_bytes() == path.read_bytes()


# --- targets -----------------------------------------------------------------------------------


def test_targets_are_numbers_that_onnxruntime_computes() -> None:
    model = small()
    x = np.random.default_rng(0).random((2, 3, 16, 16)).astype(np.float32)
    tensors = model.engine.forward(x, ("r1", "c2", "logits"))
    logits = tensors["logits"]
    expected: dict[int | str, np.ndarray] = {
        4: logits[:, 4],
        "class 4 - class 7": logits[:, 4] - logits[:, 7],
        "r1:2": tensors["r1"][:, 2].mean(axis=(1, 2)),
        "c2:5 @ 3,1": tensors["c2"][:, 5, 3, 1],
        "r1:7@center": tensors["r1"][:, 7, 8, 8],
        "logits:4": logits[:, 4],
    }
    for spec, values in expected.items():
        given = "4 - 7" if spec == "class 4 - class 7" else spec
        target = visual_target(model, given, logits[0])
        np.testing.assert_allclose(target.value(tensors[target.tensor]), values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("spec", ["r1:2 @ 4,4", "r1:2"])
def test_a_silent_unit_is_climbed_before_its_rectifier(spec: str) -> None:
    model = small()
    target = visual_target(model, spec, np.zeros(10))
    assert (target.tensor, target.before) == ("r1", "c1")
    found = one(model, spec, steps=25, rate=0.3)
    assert found.start_score == 0
    assert found.score > (0.1 if "@" in spec else 0.005)
    assert any("before its rectifier" in note for note in found.notes)


def test_a_silent_unit_behind_a_pool_begins_from_stronger_noise() -> None:
    woken = one(small(), "p1:2", steps=12, rate=0.3)
    assert woken.start_score == 0
    assert woken.score > 0
    assert any("stronger noise" in note for note in woken.notes)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("top1", "there is none yet"),
        (99, "no class 99"),
        ("r1:8", "has no unit 8"),
        ("r1:2 @ 16,0", "16 rows"),
        ("logits:2@0,0", "no places"),
        ("nothing:2", "names no unit"),
        ("r1:x", "neither a label nor"),
        ("dog", "dog"),
    ],
)
def test_targets_that_do_not_exist_are_refused_before_the_first_step(spec: int | str, words: str) -> None:
    with pytest.raises(TargetError, match=words):
        visualize(small(), [3, spec], progress=lambda *_: pytest.fail("climbed"))


# --- models ------------------------------------------------------------------------------------


def test_both_backends_climb_the_same_way() -> None:
    torch, onnx_ = one(small("torch"), steps=4), one(small("onnx"), steps=4)
    assert (torch.parity.backend, onnx_.parity.backend) == ("torch", "onnx")
    np.testing.assert_allclose(torch.best.trace, onnx_.best.trace, rtol=1e-3, atol=1e-4)
    assert np.abs(torch.best.picture.astype(int) - onnx_.best.picture).max() <= 3


@pytest.mark.parametrize("form", ["qdq", "qoperator", "half"])
def test_files_of_fewer_bits_are_climbed_and_say_so(form: str) -> None:
    net = half(convnet()) if form == "half" else quantized(convnet(), form)  # type: ignore[arg-type]
    found = one(onnxvis.load(net, preprocessing="unit"), steps=20)
    assert found.score > found.start_score
    assert any("float32 twin" in note for note in found.notes)
    assert found.parity.gradient is None


@pytest.mark.parametrize(
    "spec",
    [
        {"channel_order": "gray", "scale": 1 / 255},
        {"channel_order": "bgr", "mean": 120.0, "std": 60.0},
        {"scale": 1 / 255, "resize": "shortest", "crop": True, "crop_fraction": 0.875},
        {"resize": "longest", "scale": 1 / 127.5, "mean": 1.0},
    ],
)
def test_any_preprocessing_is_gone_through(spec: dict[str, Any], tmp_path: Path) -> None:
    model = small(preprocessing=spec)
    found = one(model, steps=25, rate=0.2)
    assert found.score > found.start_score
    picture = found.save(tmp_path) / "picture.png"
    logits = model.engine.forward(model.prepare(picture).tensor, ("logits",))["logits"]
    assert logits[0, 3] == pytest.approx(found.score, rel=1e-4, abs=1e-5)
    with Image.open(picture) as image:
        assert image.mode == ("L" if spec.get("channel_order") == "gray" else "RGB")


def test_a_model_whose_range_nobody_knows_is_refused() -> None:
    with pytest.raises(PreprocessingError, match="does not guess"):
        visualize(onnxvis.load(convnet()), 3)


# --- recipes -----------------------------------------------------------------------------------


def test_settings_are_checked_by_name() -> None:
    assert recipe("legible", tv=0.5, steps=None) == dataclasses.replace(RECIPES["legible"], tv=0.5)
    for name, changes, words in (
        ("lucid", {}, "no recipe 'lucid'"),
        ("legible", {"stepz": 3}, "Did you mean 'steps'"),
        ("legible", {"steps": 0}, "at least 1"),
        ("legible", {"tv": float("nan")}, "tv is a number"),
        ("legible", {"decorrelate": 1}, "true or false"),
        ("legible", {"zoom_out": 1.3}, "above zoom_in"),
        ("legible", {"parametrization": "wavelet"}, "fourier or pixel"),
    ):
        with pytest.raises(UsageError, match=words):
            recipe(name, **changes)
    with pytest.raises(UsageError, match="not both"):
        visualize(small(), 3, recipe=RECIPES["legible"], steps=3)
    with pytest.raises(UsageError, match="at least 1"):
        visualize(small(), 3, restarts=0)


def test_a_total_variation_penalty_makes_the_picture_smoother() -> None:
    model = small(size=32)

    def roughness(tv: float) -> float:
        picture = one(model, steps=30, tv=tv, rate=0.2).best.picture.astype(float)
        return float(sum(np.abs(np.diff(picture, axis=a)).mean() for a in (0, 1)) / picture.std())

    assert roughness(2.0) < 0.8 * roughness(0.0)


def test_stages_double_towards_the_end() -> None:
    assert stage_steps(256) == [8, 16, 32, 64, 128, 256]
    assert stage_steps(1) == [1]
    assert stage_steps(5)[-1] == 5
