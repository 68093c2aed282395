"""Values that no question can be asked with: each is one clear error, before any work is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from support.gan import squares_model
from support.graphs import Builder
from support.stores import small_model

from onnxvis.behaviour.activations import activations
from onnxvis.behaviour.gan import open_generator
from onnxvis.behaviour.projection import project
from onnxvis.behaviour.visual_recipe import recipe
from onnxvis.cli.console import run
from onnxvis.errors import LayerError, ModelError, UsageError


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_that_no_generator_takes(seed: int) -> None:
    with pytest.raises(UsageError, match="a seed is a whole number"):
        project(np.zeros((8, 3), np.float32), seed=seed)


def test_samples_have_numbers_from_0() -> None:
    generator = open_generator(squares_model())
    for ids, seed in (([0], -1), ([-1], 0)):
        with pytest.raises(UsageError, match="0 or more"):
            generator.sample(ids, seed=seed)


@pytest.mark.parametrize("truncation", [1e-9, 0.0, float("nan")])
def test_a_truncation_that_would_draw_for_ever(truncation: float) -> None:
    with pytest.raises(UsageError, match=r"from 0\.05"):
        open_generator(squares_model(), truncation=truncation)


def test_latents_of_the_smallest_truncation_are_drawn() -> None:
    feeds = open_generator(squares_model(), truncation=0.05).feeds(range(50), 0)["z"]
    assert 0.04 < np.abs(feeds).max() <= 0.05


def test_pictures_that_are_no_numbers_are_not_black() -> None:
    proto = squares_model()
    node = next(n for n in proto.graph.node if n.op_type == "Tanh")
    node.op_type = "Log"  # of numbers that are mostly negative
    with pytest.raises(ModelError, match=r"NaN in .* samples"):
        open_generator(proto, value_range="tanh").sample(range(4))


def test_a_network_that_changes_pictures_is_no_generator() -> None:
    b = Builder(["n", 3, 16, 16], seed=1)
    b_out = b.node("Tanh", b.conv(b.node("Relu", b.conv(b.name, 3, 4, 3, pads=[1] * 4)), 4, 3, 3, pads=[1] * 4))
    with pytest.raises(ModelError, match="changes pictures and draws none"):
        open_generator(b.model(b_out))
    assert open_generator(b.model(b_out), latent=b.name).sample([0]).pictures.shape == (1, 16, 16, 3)
    # A latent with a few places is none.
    b = Builder(["n", 4, 2, 2], seed=1)
    up = b.node("ConvTranspose", b.name, b.weight(4, 3, 4, 4), strides=[4, 4])
    assert open_generator(b.model(b.node("Tanh", up))).sample([0]).pictures.shape == (1, 8, 8, 3)


def test_insertion_takes_finite_values_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(squares_model(), tmp_path / "squares.onnx")
    command = ["gan", "insert", str(tmp_path / "squares.onnx"), "--units", "0", "--samples", "4", "-q"]
    assert run([*command, "--value", "nan", "-o", str(tmp_path / "a")]) == 2
    assert "finite" in capsys.readouterr().err
    for out in ("squares.onnx", "squares.onnx/sub"):
        assert run([*command, "--value", "1", "-o", str(tmp_path / out)]) == 2
        assert "squares.onnx is a file" in capsys.readouterr().err.replace("\n", "")


def test_a_unit_that_the_layer_lacks(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    Image.new("RGB", (32, 24), (9, 90, 200)).save(tmp_path / "p.png")
    found = activations(model, [tmp_path / "p.png"], "Relu1")
    for units in ([0, 99], [-1]):
        with pytest.raises(LayerError, match="has no unit"):
            found.sheet(units=units)


@pytest.mark.parametrize("accuracy", [0.0, 1e-9, 0.9, float("nan")])
def test_an_accuracy_out_of_range_begins_no_store(tmp_path: Path, accuracy: float) -> None:
    pytest.importorskip("lance", reason="stores need the 'index' extra")
    from onnxvis.behaviour.index.run import IndexOptions, index

    model = small_model(tmp_path)
    Image.new("RGB", (32, 24), (9, 90, 200)).save(tmp_path / "p.png")
    with pytest.raises(UsageError, match="relative error"):
        index(model, [str(tmp_path / "p.png")], tmp_path / "store", IndexOptions(accuracy=accuracy))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(("name", "value"), [("jitter", 16), ("zoom_in", 1e9), ("zoom_out", 11.0)])
def test_views_that_show_nothing_of_the_picture(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is at most 1.* view"):  # jitter is a part, not a number of pixels
        recipe("legible", **{name: value})
