import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onnxvis.errors import PictureError, UsageError
from onnxvis.kernels import blend, upsample
from onnxvis.kernels.blend import blend_map, blend_overlay, color_index
from onnxvis.kernels.upsample import upsample_bilinear

SEED = st.integers(0, 2**32 - 1)
SIDE = st.integers(1, 23)
LARGE = st.integers(1, 61)


def slow_bilinear(source, size):
    """Bilinear interpolation from its definition, one output pixel after another, in float64."""
    h, w = source.shape
    out = np.empty(size)
    for y in range(size[0]):
        fy = min(max((y + 0.5) * h / size[0] - 0.5, 0), h - 1)
        for x in range(size[1]):
            fx = min(max((x + 0.5) * w / size[1] - 0.5, 0), w - 1)
            total = 0.0
            for j in range(int(fy), min(int(fy) + 2, h)):
                for i in range(int(fx), min(int(fx) + 2, w)):
                    weight = max(0, 1 - abs(fy - j)) * max(0, 1 - abs(fx - i))
                    if weight > 0:
                        total += weight * float(source[j, i])
            out[y, x] = total
    return out


@pytest.fixture(params=["numpy", "compiled"])
def way(request, monkeypatch):
    least = 1 if request.param == "compiled" else 1 << 60
    monkeypatch.setattr(upsample, "COMPILED_FROM", least)
    monkeypatch.setattr(blend, "COMPILED_FROM", least)
    return request.param


def each_way(call):
    """The results of the numpy way and of the compiled way."""
    results = []
    for least in (1 << 60, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(upsample, "COMPILED_FROM", least)
            patch.setattr(blend, "COMPILED_FROM", least)
            results.append(call())
    return results


@settings(max_examples=60, deadline=None)
@given(h=SIDE, w=SIDE, height=LARGE, width=LARGE, seed=SEED)
def test_equals_definition(h, w, height, width, seed):
    source = np.random.default_rng(seed).standard_normal((h, w)).astype(np.float32)
    expected = slow_bilinear(source, (height, width))
    for out in each_way(lambda: upsample_bilinear(source, (height, width))):
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, expected, atol=3e-6)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(st.integers(1, 3), SIDE, SIDE), height=LARGE, width=LARGE, seed=SEED)
def test_equals_torch(shape, height, width, seed):
    torch = pytest.importorskip("torch")
    source = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(source).double()[None], (height, width), mode="bilinear", align_corners=False
    )[0].numpy()
    for out in each_way(lambda: upsample_bilinear(source, (height, width))):
        np.testing.assert_allclose(out, expected, atol=3e-6)


@settings(max_examples=40, deadline=None)
@given(h=SIDE, w=SIDE, height=LARGE, width=LARGE, seed=SEED)
@example(h=2, w=3, height=1, width=47, seed=0)
def test_nan_reaches_exactly_the_positions_it_has_a_weight_in(h, w, height, width, seed):
    rng = np.random.default_rng(seed)
    source = np.where(rng.random((h, w)) < 0.2, np.nan, rng.standard_normal((h, w)))
    expected = slow_bilinear(source, (height, width))
    for out in each_way(lambda: upsample_bilinear(source, (height, width))):
        # Weights below float32's resolution next to a source position may round to zero or back.
        close = slow_bilinear(np.nan_to_num(source), (height, width))
        same = np.isnan(out) == np.isnan(expected)
        assert same.all()
        seen = ~np.isnan(expected)
        np.testing.assert_allclose(out[seen], close[seen], atol=3e-6)


def test_any_memory_layout_and_type(way):
    base = np.random.default_rng(0).standard_normal((9, 14))
    view = base[::2, ::-3]
    assert not view.flags.c_contiguous
    np.testing.assert_allclose(upsample_bilinear(view, (40, 31)), slow_bilinear(view, (40, 31)), atol=2e-6)
    fortran = np.asfortranarray(base)
    np.testing.assert_allclose(upsample_bilinear(fortran, (40, 31)), slow_bilinear(base, (40, 31)), atol=2e-6)
    half = base.astype(np.float16)
    np.testing.assert_allclose(upsample_bilinear(half, (12, 31)), slow_bilinear(half, (12, 31)), atol=2e-6)


def test_same_size_is_the_map_itself(way):
    source = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)
    np.testing.assert_array_equal(upsample_bilinear(source, (6, 5)), source)


@pytest.mark.parametrize(("shape", "size"), [((4,), (8, 8)), ((0, 4), (8, 8)), ((4, 4), (0, 8)), ((4, 4), (8, 8, 8))])
def test_refuses_what_is_no_map(shape, size):
    with pytest.raises(UsageError):
        upsample_bilinear(np.zeros(shape), size)


def exact_blend(picture, values, lut, limits):
    """The blend in float64, from its definition."""
    place = np.floor(np.clip((values - limits[0]) / (limits[1] - limits[0]) * 255 + 0.5, 0, 255))
    seen = ~np.isnan(values)
    colors = lut[np.where(seen, place, 0).astype(int)].astype(np.float64)
    alpha = np.where(seen, colors[..., 3] / 255, 0)[..., None]
    return picture * (1 - alpha) + colors[..., :3] * alpha


@settings(max_examples=60, deadline=None)
@given(
    h=st.integers(1, 40),
    w=st.integers(1, 70),
    seed=SEED,
    power=st.sampled_from([-38, -30, -6, 0, 5, 30, 37]),
    signed=st.booleans(),
)
def test_both_blends_are_equal_and_right(h, w, seed, power, signed):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
    lut = rng.integers(0, 256, (256, 4), dtype=np.uint8)
    values = (rng.integers(-1000, 1000, (h, w)) / 700 * 10.0**power).astype(np.float32)
    values[rng.random((h, w)) < 0.1] = np.nan
    values[rng.random((h, w)) < 0.05] = np.inf
    limits = (-(10.0**power), 10.0**power) if signed else (0.0, 10.0**power)
    plain, compiled = each_way(lambda: blend_overlay(picture, values, lut, limits))
    np.testing.assert_array_equal(plain, compiled)
    unseen = np.isnan(values)
    np.testing.assert_array_equal(plain[unseen], picture[unseen])
    # Where a value lies on the border of two colors, float32 may choose the other one: compare off borders.
    place = (values.astype(np.float64) - limits[0]) / (limits[1] - limits[0]) * 255
    with np.errstate(invalid="ignore"):
        off = unseen | np.isinf(values) | (np.abs(np.mod(place, 1) - 0.5) > 1e-3)
    expected = exact_blend(picture, values.astype(np.float64), lut, limits)
    assert np.abs(plain - expected)[off].max(initial=0) <= 1.0


def test_opaque_and_transparent_are_exact(way):
    picture = np.random.default_rng(0).integers(0, 256, (8, 256, 3), dtype=np.uint8)
    values = np.tile(np.arange(256, dtype=np.float32), (8, 1))
    lut = np.random.default_rng(1).integers(0, 256, (256, 4), dtype=np.uint8)
    lut[:, 3] = 0
    np.testing.assert_array_equal(blend_overlay(picture, values, lut, (0, 255)), picture)
    lut[:, 3] = 255
    out = blend_overlay(picture, values, lut, (0, 255))
    np.testing.assert_array_equal(out, np.tile(lut[:, :3], (8, 1, 1)))


@settings(max_examples=30, deadline=None)
@given(h=SIDE, w=SIDE, height=LARGE, width=LARGE, seed=SEED)
def test_blending_a_small_map_is_up_sampling_and_blending(h, w, height, width, seed):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    lut = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
    small = rng.standard_normal((h, w)).astype(np.float32)
    small[rng.random((h, w)) < 0.1] = np.nan
    for out in each_way(lambda: blend_map(picture, small, lut, (-2, 2))):
        full = upsample_bilinear(small, (height, width))
        near = [blend_overlay(picture, full + d, lut, (-2, 2)) for d in (-1e-5, 0, 1e-5)]
        assert (out >= np.min(near, axis=0)).all()
        assert (out <= np.max(near, axis=0)).all()


def test_color_index_clamps_and_marks_nan():
    index = color_index([[-9.0, -1.0, 0.0, 1.0, 9.0, np.nan, np.inf]], (-1.0, 1.0))
    assert index.tolist() == [[0, 0, 128, 255, 255, 256, 255]]


def test_refuses_wrong_pictures_tables_and_limits():
    picture = np.zeros((4, 5, 3), np.uint8)
    lut = np.zeros((256, 4), np.uint8)
    with pytest.raises(PictureError, match=r"\(5, 4\)"):
        blend_overlay(picture, np.zeros((5, 4)), lut, (0, 1))
    with pytest.raises(PictureError, match="uint8"):
        blend_overlay(picture.astype(float), np.zeros((4, 5)), lut, (0, 1))
    with pytest.raises(UsageError, match="table"):
        blend_overlay(picture, np.zeros((4, 5)), lut[:, :3], (0, 1))
    for limits in [(1, 1), (2, 1), (0, np.inf), (np.nan, 1)]:
        with pytest.raises(UsageError, match="limits"):
            blend_overlay(picture, np.zeros((4, 5)), lut, limits)


PROBE = """
import sys
import numpy as np
import onnxvis.kernels
from onnxvis.kernels.blend import blend_overlay
from onnxvis.kernels.upsample import upsample_bilinear
size = {size}
values = upsample_bilinear(np.random.rand(14, 14), size)
out = blend_overlay(np.zeros((*size, 3), np.uint8), values, np.full((256, 4), 200, np.uint8), (0, 1))
print("numba" in sys.modules, int(out.min()))
"""


def probe(size, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(size=size)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split(), done.stderr


def test_a_224_pixel_map_loads_no_numba():
    assert probe((224, 224))[0][0] == "False"


@pytest.mark.slow
def test_no_writable_cache_folder_is_said_and_survived():
    """Numba finds no place for its cache: the kernels must still run, and say what it costs."""
    script = (
        "import logging; logging.basicConfig()\n"
        "from numba.core import caching\n"
        "caching.FunctionCache._impl_class._locator_classes.clear()\n" + PROBE.format(size=(2048, 2048))
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "157"]
    assert "NUMBA_CACHE_DIR" in done.stderr
