"""Patches: which places, which pixels, and what in them excites the unit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import LAYERS, MadeUpPlaces, MadeUpRow, small_model

from onnxvis.behaviour.opening import layer_field, model_of, pictures_of
from onnxvis.behaviour.patch_pass import PatchOptions, equal_notes, layer_patches
from onnxvis.behaviour.patches import choose_units, cut_unit, seen_box
from onnxvis.behaviour.stored import Pictures, choose_layers
from onnxvis.behaviour.unit_projection import UnitProjector, drawn_projection
from onnxvis.errors import LayerError, ModelError, ParityError, PictureError, UsageError
from onnxvis.preprocessing import Geometry

PAD = 80


def slow_patch(display: np.ndarray, content: tuple[int, ...], box: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Pixel by pixel: what the box shows, and whether it shows the picture."""
    x0, y0, x1, y1 = box
    pixels, inside = np.zeros((y1 - y0, x1 - x0, 3), np.uint8), np.zeros((y1 - y0, x1 - x0), bool)
    for y in range(y0, y1):
        for x in range(x0, x1):
            if content[1] <= y < content[3] and content[0] <= x < content[2]:
                pixels[y - y0, x - x0], inside[y - y0, x - x0] = display[y, x], True
    return pixels, inside


@pytest.mark.parametrize("layer", LAYERS)
def test_patches_are_the_strongest_places_cut_by_their_field(room: Any, layer: str) -> None:
    places, maps = room.store.top(layer), room.maps[layer]
    pictures, field = pictures_of(room.store, room.model), layer_field(room.model, layer)
    for unit in range(maps.shape[1]):
        best = maps[:, unit].reshape(len(maps), -1)
        order = np.lexsort((np.arange(len(maps)), -best.max(axis=1)))[:4]
        cut = cut_unit(layer, unit, places, field, pictures, 4)
        assert [p.picture for p in cut.patches] == order.tolist()
        outside = np.ones_like(cut.patches[0].inside)
        for patch in cut.patches:
            place = best[patch.picture].argmax()
            assert (patch.row, patch.col) == divmod(int(place), maps.shape[3])
            assert patch.value == best[patch.picture].max()
            assert patch.box == field.box(patch.row, patch.col, clip=False)
            prepared = room.model.prepare(room.photos[patch.picture])
            pixels, inside = slow_patch(prepared.display(), prepared.geometry.content_box, patch.shown)
            np.testing.assert_array_equal(patch.inside, inside)
            np.testing.assert_array_equal(patch.pixels[inside], pixels[inside])
            assert patch.inside.shape == outside.shape
            outside &= ~inside
            # Whatever of the box lies in the picture is shown.
            assert slow_patch(prepared.display(), prepared.geometry.content_box, patch.box)[1].sum() == inside.sum()
        # What was trimmed off lay outside in all of them: no edge of the rest does.
        assert not any(edge.all() for edge in (outside[0], outside[-1], outside[:, 0], outside[:, -1]))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(4, 20), st.integers(4, 20)),
    st.lists(st.tuples(st.integers(-3, 8), st.integers(-3, 8)), min_size=1, max_size=4),
    st.integers(1, 30),
    st.integers(0, 4),
)
def test_any_box_shows_what_lies_in_it(size: tuple[int, int], at: list[Any], side: int, margin: int) -> None:
    height, width = size
    rng = np.random.default_rng(height * width + side)
    display = rng.integers(1, 256, (height + 2 * margin, width + 2 * margin, 3), dtype=np.uint8)
    content = (margin, margin, margin + width, margin + height)
    geometry = Geometry((width, height), (width + 2 * margin, height + 2 * margin), (1.0, 1.0), (margin, margin))
    prepared = SimpleNamespace(geometry=geometry, display=lambda: display)
    axis = SimpleNamespace(support=range(9))
    field = SimpleNamespace(
        rows=axis, cols=axis, box=lambda r, c, clip: (3 * c - side, 3 * r - side, 3 * c + side, 3 * r + side)
    )
    pictures: Any = SimpleNamespace(prepared=lambda i: prepared, name=lambda i: "p", row=lambda i: MadeUpRow(i))
    rows, cols = (np.array([[p[k] for p in at]]) for k in (0, 1))
    values = -np.arange(len(at), dtype=np.float32)[None]
    places = MadeUpPlaces(values, np.arange(len(at))[None], rows, cols)
    cut = cut_unit("layer", 0, places, field, pictures, 9)  # type: ignore[arg-type]
    for patch, (row, col) in zip(cut.patches, at, strict=True):
        _, everywhere = slow_patch(display, content, field.box(row, col, clip=False))
        pixels, inside = slow_patch(display, content, patch.shown)
        np.testing.assert_array_equal(patch.inside, inside)
        np.testing.assert_array_equal(patch.pixels * inside[..., None], pixels)
        assert inside.sum() == everywhere.sum()
        assert patch.shown[2] - patch.shown[0] <= 2 * side
        x, y = patch.center
        assert (x + patch.shown[0], y + patch.shown[1]) == (3 * col, 3 * row)
    assert len({p.pixels.shape for p in cut.patches}) == 1


def test_a_place_beyond_the_usual_size_is_named(room: Any) -> None:
    field = layer_field(room.model, LAYERS[0])
    assert field is not None
    with pytest.raises(UsageError, match=r"row 12, column 3, .* 12 x 16 places .* 40 x 60 pixels.*--size"):
        seen_box(field, 12, 3, (40, 60))


def test_a_layer_without_places_shows_the_whole_input() -> None:
    assert seen_box(None, 0, 0, (24, 32)) == (0, 0, 32, 24)


def test_units_are_chosen_in_words() -> None:
    values = np.array([[1, 0.5], [4, 3], [9, -np.inf], [0, 0]], np.float32)
    picture = np.array([[0, 1], [0, 1], [0, -1], [0, 1]])
    places = MadeUpPlaces(values, picture, picture, picture)
    assert choose_units("top 3", places) == [2, 1, 0]
    assert choose_units("0, 2-3,2", places) == [0, 2, 3]
    assert choose_units("all", places) == [0, 1, 2, 3]
    for wrong in ("4", "top", "top 0", "a", "", "1-9", "-1", "top x", "3-1", "0-99999999999"):
        with pytest.raises(UsageError):
            choose_units(wrong, places)


def test_equal_activations_are_told_from_silent_ones() -> None:
    assert equal_notes([[3.0, 2.0], [5.0], [0.0, -1.0]]) == []
    silent, equal = equal_notes([[0.0, 0.0], [6.0, 6.0], [6.0, 6.0, 6.0], [2.0, 1.0]])
    assert silent.startswith("all patches of 1 of 4 units have the activation 0")
    assert equal.startswith("all patches of 2 of 4 units have the same activation")


def test_layers_are_looked_up_with_a_hint(room: Any) -> None:
    assert choose_layers(room.store, ()) == LAYERS
    with pytest.raises(LayerError, match="Did you mean 'Relu1'"):
        choose_layers(room.store, ["relu1"])


def test_a_picture_that_moved_or_changed_is_an_error(room: Any, tmp_path: Path) -> None:
    good = room.photos[0].read_bytes()
    path = tmp_path / "p.png"
    rows = [MadeUpRow(0, str(path), room.store.pictures()[0].sha256)]
    pictures = Pictures(rows, room.model.prepare)
    with pytest.raises(PictureError, match="picture 0 of the store cannot be opened again"):
        pictures.prepared(0)
    path.write_bytes(room.photos[1].read_bytes())
    with pytest.raises(PictureError, match="not the one that was indexed"):
        pictures.prepared(0)
    path.write_bytes(good)
    assert pictures.prepared(0).picture is None
    with pytest.raises(UsageError, match="numbered 0 to 0"):
        pictures.prepared(3)


def test_the_model_must_be_the_one(room: Any, tmp_path: Path) -> None:
    assert model_of(room.store).preprocessing == room.model.preprocessing
    with pytest.raises(ModelError, match="not the model that the store was made with"):
        model_of(room.store, small_model(tmp_path, bounded=True).file.path)
    with pytest.raises(ModelError, match="--model"):
        model_of(room.store, tmp_path / "gone.onnx")


def by_hand(model: Any, x: np.ndarray, unit: int, row: int, col: int, rule: str, start: float) -> np.ndarray:
    """The rule written out for the small network's second layer, in float64."""
    import torch
    from torch.nn import functional as f

    weights = {t.name: torch.from_numpy(np.array(onnx_array(t))).double() for t in model.file.proto.graph.initializer}
    kernels = [w for w in weights.values() if w.ndim == 4]
    image = torch.from_numpy(x.astype(np.float64))
    a = f.conv2d(image, kernels[0], stride=2, padding=2)
    pooled, where = f.max_pool2d(a.clamp(min=0), 2, 1, return_indices=True)
    signal = torch.zeros_like(f.conv2d(pooled, kernels[1], stride=2))
    signal[0, unit, row, col] = start
    up = f.conv_transpose2d(signal, kernels[1], stride=2)
    up = f.pad(up, (0, pooled.shape[3] - up.shape[3], 0, pooled.shape[2] - up.shape[2]))
    spread = torch.zeros(a.shape[1], a.shape[2] * a.shape[3], dtype=torch.float64)
    spread.scatter_add_(1, where[0].flatten(1), up[0].flatten(1))
    spread = spread.reshape(a.shape).clamp(min=0) * ((a > 0) if rule == "guided" else 1)
    return f.conv_transpose2d(spread, kernels[0], stride=2, padding=2, output_padding=1)[0].numpy()


def onnx_array(tensor: Any) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(tensor)


@pytest.mark.parametrize(
    ("kind", "rule"), [("guided-backprop", "guided"), ("deconvnet", "deconvnet"), ("zfnet-deconvnet", "deconvnet")]
)
def test_projections_follow_the_papers(room: Any, kind: str, rule: str) -> None:
    layer, pictures = LAYERS[1], pictures_of(room.store, room.model)
    projector = UnitProjector(room.model, layer, kind, batch_size=2)
    field = layer_field(room.model, layer)
    for unit in (0, 3, 7):
        cut = cut_unit(layer, unit, room.store.top(layer), field, pictures, 3)
        prepared = [pictures.prepared(p.picture) for p in cut.patches]
        for values, patch, one in zip(projector(unit, cut.patches, prepared), cut.patches, prepared, strict=True):
            start = patch.value if kind == "zfnet-deconvnet" else float(patch.value > 0)
            expected = by_hand(room.model, one.tensor, unit, patch.row, patch.col, rule, start)
            np.testing.assert_allclose(values, expected, atol=1e-5 * np.abs(expected).max())
            x0, y0, x1, y1 = field.box(patch.row, patch.col)
            outside = np.ones(values.shape[1:], bool)
            outside[y0:y1, x0:x1] = False
            assert (np.abs(values).max() > 0) == (patch.value > 0)
            assert np.abs(values[:, outside]).max(initial=0) == 0
    assert projector.worst < 1e-5


def test_a_saturated_unit_is_projected_too(room: Any, tmp_path: Path) -> None:
    model = small_model(tmp_path, bounded=True)
    layer, prepared = "Clip1", model.prepare(room.photos[1])
    maps = model.engine.forward(prepared.tensor, (layer,))[layer][0]
    unit, row, col = (int(v) for v in np.argwhere(maps == 1.5)[0])
    patch: Any = SimpleNamespace(picture=0, row=row, col=col, value=1.5, name="p")
    projector = UnitProjector(model, layer, "guided-backprop")
    (values,) = projector(unit, [patch], [prepared])
    kernel = next(onnx_array(t) for t in model.file.proto.graph.initializer if len(t.dims) == 4)
    padded = np.zeros((3, 24 + 8, 32 + 8))
    padded[:, 2 + 2 * row : 7 + 2 * row, 2 + 2 * col : 7 + 2 * col] = kernel[unit]
    np.testing.assert_allclose(values, padded[:, 4:-4, 4:-4], atol=1e-6)
    assert any("below the unit's own rectifier" in note for note in projector.notes)


def test_a_projection_that_disagrees_with_the_store_is_refused(room: Any) -> None:
    prepared = room.model.prepare(room.photos[0])
    patch: Any = SimpleNamespace(picture=0, row=1, col=1, value=99.0, name="p")
    with pytest.raises(ParityError, match="row 1, column 1 of p"):
        UnitProjector(room.model, LAYERS[1], "deconvnet")(0, [patch], [prepared])
    kept = UnitProjector(room.model, LAYERS[1], "deconvnet", allow_unverified=True)
    kept(0, [patch], [prepared])
    assert kept.unverified
    with pytest.raises(UsageError, match="Did you mean 'deconvnet'"):
        UnitProjector(room.model, LAYERS[1], "deconv")


def test_drawn_projections_have_gray_zero_and_the_right_channel_order() -> None:
    values = np.zeros((3, 6, 6), np.float32)
    values[0, 2, 3], values[2, 3, 3] = 2.0, -2.0
    patch: Any = SimpleNamespace(shown=(2, 1, 6, 5), inside=np.ones((4, 4), bool))
    for order, red in (("rgb", 0), ("bgr", 2)):
        drawn, _ = drawn_projection(values, patch, order)
        assert drawn[0, 0].tolist() == [128, 128, 128]
        assert drawn[1, 1, red] == 255
        assert drawn[2, 1, 2 - red] == 0
    gray, _ = drawn_projection(values[:1], patch)
    assert gray[1, 1].tolist() == [255, 255, 255]


def test_a_layer_drawn_whole(room: Any) -> None:
    options = PatchOptions(units="0,2", per_unit=3, projection="deconvnet", masks=True, top=0.05)
    found = layer_patches(room.store, room.model, LAYERS[1], options)
    assert [d.unit.unit for d in found.units] == [0, 2]
    for drawing in found.units:
        assert len(drawing.projections) == len(drawing.masks) == 3
        assert all(m.shape == (24, 32, 3) for m in drawing.masks)
        assert all(
            image.shape == p.pixels.shape for image, p in zip(drawing.projections, drawing.unit.patches, strict=True)
        )
    assert any("run again" in note for note in found.notes)
    assert any("5 % of its activations" in note for note in found.notes)


def test_layers_go_by_their_other_names_too(room: Any) -> None:
    assert choose_layers(room.store, ["node_Relu4", "Relu1"], room.model.layer) == ("Relu4", "Relu1")
    with pytest.raises(LayerError, match="made with Relu1, Relu4"):
        choose_layers(room.store, ["node_Conv0"], room.model.layer)


def test_a_layer_without_places_has_patches_but_no_masks(room: Any, tmp_path: Path) -> None:
    from onnxvis.behaviour.index.run import IndexOptions, index

    made = index(room.model, [str(room.folder / "photos")], tmp_path / "s", IndexOptions(layers=("Gemm7",)))
    found = layer_patches(made.store, room.model, "Gemm7", PatchOptions(units="1", per_unit=2, masks=True))
    (drawing,) = found.units
    assert [p.box for p in drawing.unit.patches] == [(0, 0, 32, 24)] * 2
    assert drawing.masks == []
    assert len(drawing.projections) == 2
    assert any("no masks" in note for note in found.notes)


def test_places_that_the_store_did_not_keep_are_said(room: Any) -> None:
    for wanted, said in ((5, False), (6, True)):
        options = PatchOptions(units="0", per_unit=wanted, projection="none")
        found = layer_patches(room.store, room.model, LAYERS[0], options)
        assert len(found.units[0].unit.patches) == 5
        assert any("keeps 5 places" in note for note in found.notes) == said
