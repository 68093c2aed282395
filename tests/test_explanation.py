"""The result: where it lands on the picture, what is written beside it, and what happens on a full disk."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.nets import SmallNet, bright_spot_net, noise

import onnxvis
from onnxvis.errors import OutputError, UsageError
from onnxvis.provenance import versions

FILES = ("attribution.npy", "figure.png", "manifest.json", "overlay.png")
TO_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
PREPARATIONS = {
    "stretched": {"resize": "stretch", "scale": 1 / 255},
    "cropped": {"resize": "shortest", "crop": True, "crop_fraction": 0.875, "scale": 1 / 255},
    "padded": {"resize": "longest", "pad_value": 0, "scale": 1 / 255},
    "padded at the end": {"resize": "longest", "pad_position": "top-left", "scale": 1 / 255},
}


def spot(size: tuple[int, int], corner: tuple[int, int], side: int) -> Image.Image:
    """A gray picture of (width, height) with a white square at (left, top)."""
    pixels = np.full((size[1], size[0], 3), 60, np.uint8)
    pixels[corner[1] : corner[1] + side, corner[0] : corner[0] + side] = 255
    return Image.fromarray(pixels)


def stored(upright: Image.Image, orientation: int) -> bytes:
    """A file whose EXIF tag says how its pixels are to be turned to give ``upright``."""
    turn = TO_STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    (upright.transpose(turn) if turn is not None else upright).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def check_peak(found: onnxvis.Explanation, size: tuple[int, int], corner: tuple[int, int], side: int) -> None:
    seen = found.on_picture()
    assert seen.shape == size[::-1]
    row, column = np.unravel_index(np.nanargmax(seen), seen.shape)
    assert corner[1] <= row < corner[1] + side
    assert corner[0] <= column < corner[0] + side
    overlay = found.overlay()
    assert overlay.size == size
    colors = np.asarray(overlay.convert("RGB")).astype(int)
    color = colors.max(axis=2) - colors.min(axis=2)  # the picture itself is gray
    inside = color[corner[1] : corner[1] + side, corner[0] : corner[0] + side]
    assert inside.max() == color.max() > 0


@pytest.mark.parametrize("how", PREPARATIONS)
@pytest.mark.parametrize(
    ("size", "corner", "side"),
    [((64, 64), (40, 12), 14), ((320, 200), (150, 90), 60), ((97, 333), (30, 120), 40), ((801, 640), (240, 300), 150)],
)
@pytest.mark.parametrize("method", ["grad-cam", "occlusion"])
def test_the_map_lands_on_the_square(
    how: str, size: tuple[int, int], corner: tuple[int, int], side: int, method: str
) -> None:
    model = onnxvis.load(bright_spot_net(64, 5), preprocessing=PREPARATIONS[how])
    options = {"window": 9, "stride": 3} if method == "occlusion" else {}
    found = onnxvis.explain(model, spot(size, corner, side), method, 0, **options)
    assert found.score > 0
    check_peak(found, size, corner, side)


@pytest.mark.parametrize("how", ["cropped", "padded"])
@pytest.mark.parametrize("orientation", TO_STORED)
def test_exif_orientation(orientation: int, how: str) -> None:
    size, corner, side = (90, 60), (56, 8), 14
    data = stored(spot(size, corner, side), orientation)
    model = onnxvis.load(bright_spot_net(48, 3), preprocessing=PREPARATIONS[how])
    check_peak(onnxvis.explain(model, data, "grad-cam", 0), size, corner, side)


def explanation(index: int | str = 1, method: str = "grad-cam", seed: int = 0, **options: Any) -> onnxvis.Explanation:
    model = onnxvis.load(SmallNet().model(), preprocessing={"resize": "none", "scale": 1 / 255})
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    found = onnxvis.explain(model, pixels, method, index, **options)
    assert isinstance(found, onnxvis.Explanation)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_saved(tmp_path: Path) -> None:
    model_path, picture_path = tmp_path / "net.onnx", tmp_path / "Müller's cat.png"
    model_path.write_bytes(SmallNet().model().SerializeToString())
    spot((50, 40), (10, 10), 12).save(picture_path)
    model = onnxvis.load(model_path, preprocessing={"resize": "stretch"}, labels=list("abcdef"))
    found = onnxvis.explain(model, picture_path, "grad-cam", "b")
    folder = found.save(tmp_path / "deep" / "out")
    assert sorted(contents(folder)) == list(FILES)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    values = np.load(folder / "attribution.npy")
    np.testing.assert_array_equal(values, found.attribution)
    assert values.dtype == np.float32
    assert manifest["map"]["sha256"] == hashlib.sha256(values.tobytes()).hexdigest()
    assert manifest["provenance"]["model"]["sha256"] == hashlib.sha256(model_path.read_bytes()).hexdigest()
    assert manifest["provenance"]["versions"] == versions()
    assert manifest["provenance"]["model"]["provider"] == "CPUExecutionProvider"
    assert manifest["picture"]["sha256"] == hashlib.sha256(picture_path.read_bytes()).hexdigest()
    assert manifest["picture"]["size"] == [50, 40]
    assert manifest["target"] == {"name": "b", "spec": "b", "index": 1, "score": found.score}
    assert manifest["layer"]["tensor"] == "features"
    assert "global average pool" in manifest["layer"]["reason"]
    assert manifest["parity"]["passed"] is True
    assert manifest["parity"]["output_error"] < 1e-5
    assert len(manifest["parity"]["gradient"]["directions"]) == 3
    assert manifest["prediction"]["top"][0]["label"] in "abcdef"
    assert manifest["geometry"]["picture_size"] == [50, 40]
    with Image.open(folder / "overlay.png") as overlay:
        assert overlay.size == (50, 40)


def test_a_notebook_shows_a_png() -> None:
    data = explanation()._repr_png_()
    with Image.open(io.BytesIO(data)) as shown:
        assert shown.format == "PNG"
        assert shown.size[0] >= 32


@pytest.mark.parametrize("method", ["grad-cam", "saliency", "occlusion"])
def test_the_raw_map_is_never_touched(method: str, tmp_path: Path) -> None:
    found = explanation("1 - 2", method)
    before = found.attribution.copy()
    found.overlay(), found.figure(), found.heat(), found.scale(), found.on_picture(), found.save(tmp_path)
    np.testing.assert_array_equal(found.attribution, before)
    assert found.attribution.dtype == np.float32
    assert (before < 0).any()
    assert (before > 0).any()
    assert found.signed


def test_the_drawn_map() -> None:
    saliency = explanation(method="saliency")
    np.testing.assert_array_equal(saliency.heat(), np.abs(saliency.attribution).max(axis=0))
    assert not saliency.drawn_signed
    product = explanation(method="saliency", times_input=True)
    np.testing.assert_allclose(product.heat(), product.attribution.sum(axis=0), atol=1e-6)
    assert product.drawn_signed
    with pytest.raises(UsageError, match="different units"):
        saliency.scale([product])
    relu = explanation(relu=True)
    np.testing.assert_array_equal(relu.layer_map, np.maximum(explanation().layer_map, 0))
    assert not relu.signed


def test_another_explanation_is_not_overwritten(tmp_path: Path) -> None:
    explanation(1).save(tmp_path)
    before = contents(tmp_path)
    others = [explanation(2), explanation(1, seed=1), explanation(1, "saliency"), explanation(1, relu=True)]
    others.append(explanation(1, layer="conv"))
    for other in others:
        with pytest.raises(OutputError, match="another explanation"):
            other.save(tmp_path)
        assert contents(tmp_path) == before
    explanation(1).save(tmp_path)
    explanation(2).save(tmp_path, overwrite=True)
    assert json.loads((tmp_path / "manifest.json").read_text())["target"]["index"] == 2


@pytest.mark.parametrize("text", ["[]", "{", '{"name": "web app"}', "null", '{"method": 1, "target": 2}'])
def test_a_foreign_manifest_is_not_overwritten(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(OutputError, match="something else"):
        explanation().save(tmp_path)
    assert contents(tmp_path) == {"manifest.json": text.encode()}


@pytest.mark.parametrize("call", range(1, 5))
@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, broken: str
) -> None:
    old, new = explanation(1), explanation(2)
    old.save(tmp_path / "old")
    before = contents(tmp_path / "old")
    owner: Any = os if broken == "fsync" else Path
    original, calls = getattr(owner, broken), []

    def fail(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args)

    with monkeypatch.context() as patched:
        patched.setattr(owner, broken, fail)
        with pytest.raises(OutputError, match=r"No space left on device"):
            new.save(tmp_path / "new")
        calls.clear()
        with pytest.raises(OutputError):
            new.save(tmp_path / "old", overwrite=True)
    left = contents(tmp_path / "new")
    assert set(left) <= set(FILES)  # no scratch file
    assert "manifest.json" not in left
    after = contents(tmp_path / "old")
    if broken == "fsync":
        assert left == {}
        assert after == before
    else:
        assert set(after) <= set(FILES)
        assert after == before or "manifest.json" not in after
    new.save(tmp_path / "new")
    assert sorted(contents(tmp_path / "new")) == list(FILES)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="cannot write"):
            explanation().save(place)


def test_a_ready_array_is_its_own_picture(tmp_path: Path) -> None:
    found = onnxvis.explain(onnxvis.load(SmallNet().model()), noise(1, 3, 32, 32), "grad-cam", 0)
    assert found.overlay().size == (32, 32)
    np.testing.assert_allclose(found.on_picture(), found.attribution, atol=1e-6)
    manifest = json.loads((found.save(tmp_path) / "manifest.json").read_text())
    assert manifest["preprocessing"] is None
