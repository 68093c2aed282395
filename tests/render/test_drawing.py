import io
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxvis.errors import PictureError, UsageError
from onnxvis.kernels.upsample import upsample_bilinear
from onnxvis.render.colorbar import color_bar
from onnxvis.render.colormap import DIVERGING, NEUTRAL, SEQUENTIAL
from onnxvis.render.figure import figure
from onnxvis.render.fit import fit_picture, plan_fit, resize_values
from onnxvis.render.overlay import fit_values, heat_layer, heatmap, overlay, soften
from onnxvis.render.png import png_bytes
from onnxvis.render.scale import Scale, format_value, nice_ticks
from onnxvis.render.sheet import SheetCell, SheetColumn, SheetRow, contact_sheet
from onnxvis.render.text import clean, elide, text_width, wrap


def picture(height=60, width=90, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_signed_scale_is_symmetric_and_shared():
    scale = Scale.for_maps([np.array([1.0, -3.0]), np.array([[2.0]])], signed=True, units="change of logit")
    assert (scale.lo, scale.hi, scale.kind, scale.note) == (-3.0, 3.0, "diverging", "")
    assert not scale.clipped_low
    assert not scale.clipped_high


def test_an_unsigned_scale_starts_at_zero_not_at_the_minimum():
    scale = Scale.for_maps([np.array([5.0, 7.0])], signed=False, units="u")
    assert (scale.lo, scale.hi, scale.kind) == (0.0, 7.0, "sequential")
    with pytest.raises(UsageError, match="1 of 2 values are negative"):
        Scale.for_maps([np.array([-1.0, 7.0])], signed=False, units="u")


def test_a_percentile_says_how_much_it_clips():
    values = np.concatenate([np.linspace(-1, 1, 199), [50.0]])
    scale = Scale.for_maps([values], signed=True, units="u", percentile=99.5)
    assert scale.hi == pytest.approx(np.percentile(np.abs(values), 99.5))
    assert scale.note == ("clipped at the 99.5th percentile: 0.5 % of the values lie outside (largest: 50)")
    assert scale.clipped_high
    assert not scale.clipped_low


@pytest.mark.parametrize(
    ("values", "hi", "note"),
    [
        ([0.0, 0.0, np.nan], 1.0, "all values are 0"),
        ([np.nan, np.nan], 1.0, "the map holds no finite value"),
        ([], 1.0, "the map holds no finite value"),
        ([1e-30, -5e-31], 1e-30, ""),
        ([3e38, 1.0], 3e38, ""),
        ([2.0, np.inf], 2.0, "1 values are infinite and drawn in the color of the nearest end"),
    ],
)
def test_degenerate_maps(values, hi, note):
    grid = np.array([values], np.float32) if values else np.zeros((1, 0), np.float32)
    scale = Scale.for_maps([grid], signed=True, units="u")
    assert scale.hi == pytest.approx(hi)
    assert scale.note == note
    if grid.size:
        colors = np.asarray(heatmap(grid, scale))[0]
        for value, color in zip(grid[0], colors, strict=True):
            if value == 0:
                assert tuple(color) == NEUTRAL
            elif value >= hi:
                assert np.abs(color.astype(int) - DIVERGING.opaque[255]).max() <= 1


def test_a_mostly_zero_map_is_not_clipped_to_nothing():
    values = np.zeros(1000)
    values[0] = 4.0
    scale = Scale.for_maps([values], signed=True, units="u", percentile=99)
    assert scale.hi == 4.0
    assert "not clipped" in scale.note


def test_a_scale_survives_the_manifest():
    scale = Scale.for_maps([np.linspace(-1, 9, 1000)], signed=True, units="ü", percentile=95)
    assert Scale.from_dict(json.loads(json.dumps(scale.to_dict()))) == scale


@pytest.mark.parametrize("bad", [(1.0, 1.0), (0.0, float("inf")), (-1.0, 2.0)])
def test_a_scale_refuses_unusable_limits(bad):
    with pytest.raises(UsageError):
        Scale(bad[0], bad[1], "diverging", "u")


@settings(max_examples=200, deadline=None)
@given(
    lo=st.floats(-1e6, 1e6, allow_nan=False),
    span=st.floats(1e-6, 1e6),
    count=st.integers(2, 9),
)
def test_ticks_are_nice_inside_and_even(lo, span, count):
    if abs(lo) > 1e6 * span:
        lo = 0.0
    ticks = nice_ticks(lo, lo + span, count)
    assert 1 <= len(ticks) <= count
    assert all(lo - 1e-6 * span <= t <= lo + span + 1e-6 * span for t in ticks)
    if len(ticks) > 2:
        steps = np.diff(ticks)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
        mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
        assert min(abs(mantissa - m) for m in (1, 2, 5)) < 1e-4


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (0, True, "0"),
        (0.25, True, "+0.25"),
        (-1.5, False, "\N{MINUS SIGN}1.5"),
        (2e-5, False, "2e\N{MINUS SIGN}5"),
        (1.25e-30, False, "1.25e\N{MINUS SIGN}30"),
        (123456.0, False, "1.23e5"),
        (12000.0, False, "1.2e4"),
        (100.0, False, "100"),
    ],
)
def test_numbers_for_people(value, signed, text):
    assert format_value(value, signed=signed) == text


def linear_luminance(colors):
    srgb = colors / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_color_maps_are_transparent_at_zero_and_grow_darker_with_size():
    assert (DIVERGING.lut[127:129, 3] == 0).all()
    assert SEQUENTIAL.lut[0, 3] == 0
    assert (np.diff(SEQUENTIAL.lut[:, 3].astype(int)) >= 0).all()
    assert (np.diff(DIVERGING.lut[128:, 3].astype(int)) >= 0).all()
    np.testing.assert_array_equal(DIVERGING.lut[::-1, 3], DIVERGING.lut[:, 3])
    for ramp in (SEQUENTIAL.opaque, DIVERGING.opaque[128:], DIVERGING.opaque[127::-1]):
        assert (np.diff(linear_luminance(ramp)) < 4e-3).all()
    red, blue = DIVERGING.opaque[230].astype(int), DIVERGING.opaque[25].astype(int)
    assert red[0] - red[2] > 80
    assert blue[2] - blue[0] > 80


# Viénot, Brettel and Mollon 1999, in linear RGB.
PROTAN = [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]
DEUTAN = [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]


@pytest.mark.parametrize("matrix", [PROTAN, DEUTAN])
def test_for_and_against_differ_for_the_color_blind(matrix):
    def seen(colors):
        srgb = colors / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4) @ np.array(matrix).T
        linear = np.clip(linear, 0, 1)
        return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)

    size = np.arange(40, 128)
    distance = np.linalg.norm(seen(DIVERGING.opaque[128 + size]) - seen(DIVERGING.opaque[127 - size]), axis=1)
    assert distance.min() > 60


def test_an_overlay_keeps_the_soft_picture_at_zero_and_colors_the_rest():
    rgb = picture()
    values = np.zeros((60, 90), np.float32)
    values[:, 60:] = 2.0
    values[:, :30] = -2.0
    scale = Scale.for_maps([values], signed=True, units="u")
    out = np.asarray(overlay(rgb, values, scale)).astype(int)
    soft = soften(rgb).astype(int)
    np.testing.assert_array_equal(out[:, 30:60], soft[:, 30:60])
    for part, row in ((slice(60, 90), 255), (slice(0, 30), 0)):
        color, alpha = DIVERGING.lut[row, :3].astype(float), DIVERGING.lut[row, 3] / 255
        expected = soft[:, part] * (1 - alpha) + color * alpha
        assert np.abs(out[:, part] - expected).max() <= 1


def test_what_the_model_never_saw_is_hatched_and_nothing_else():
    rgb = picture()
    values = np.full((60, 90), 1.0, np.float32)
    scale = Scale.for_maps([values], signed=True, units="u")
    whole = np.asarray(overlay(rgb, values, scale))
    values[:, :20] = np.nan
    part = np.asarray(overlay(rgb, values, scale))
    np.testing.assert_array_equal(part[:, 20:], whole[:, 20:])
    unseen = part[:, :20].astype(int)
    assert len(np.unique(np.asarray(heat_layer(values, scale))[:, :20].reshape(-1, 4), axis=0)) == 2
    assert np.abs(unseen - soften(rgb)[:, :20]).mean() > 20


def test_a_layer_over_the_picture_is_the_overlay():
    rgb = picture(40, 50)
    values = np.random.default_rng(2).standard_normal((40, 50)).astype(np.float32)
    values[5:9, 7:30] = np.nan
    scale = Scale.for_maps([values], signed=True, units="u")
    base = Image.fromarray(soften(rgb)).convert("RGBA")
    layered = np.asarray(Image.alpha_composite(base, heat_layer(values, scale)).convert("RGB")).astype(int)
    assert np.abs(layered - np.asarray(overlay(rgb, values, scale))).max() <= 2


def test_a_small_map_covers_the_whole_picture():
    rgb = picture(64, 48)
    small = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    scale = Scale.for_maps([small], signed=True, units="u")
    expected = overlay(rgb, upsample_bilinear(small, (64, 48)), scale)
    np.testing.assert_array_equal(np.asarray(overlay(rgb, small, scale)), np.asarray(expected))
    small[0, 0] = np.nan
    assert np.isnan(upsample_bilinear(small, (64, 48))).any()
    overlay(rgb, small, scale)


def test_overlay_refuses_what_does_not_fit():
    scale = Scale(-1.0, 1.0, "diverging", "u")
    with pytest.raises(PictureError):
        overlay(np.zeros((4, 4)), np.zeros((4, 4)), scale)
    with pytest.raises(UsageError, match="larger"):
        overlay(picture(4, 4), np.zeros((5, 4)), scale)
    with pytest.raises(UsageError):
        overlay(picture(4, 4), np.zeros((4, 4, 1)), scale)


def test_shrinking_a_map_averages_what_was_seen():
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_allclose(fit_values(values, (2, 3)), values.reshape(2, 2, 3, 2).mean((1, 3)))
    values[0, 0] = np.nan
    assert fit_values(values, (2, 3))[0, 0] == pytest.approx((1 + 6 + 7) / 3)
    values[:2, :2] = np.nan
    assert np.isnan(fit_values(values, (2, 3))[0, 0])
    assert np.isfinite(fit_values(values, (2, 3))).sum() == 5


@settings(max_examples=80, deadline=None)
@given(h=st.integers(1, 4000), w=st.integers(1, 30000), most=st.integers(60, 700))
def test_a_fit_stays_in_its_box(h, w, most):
    fit = plan_fit(h, w, (most, most))
    assert 1 <= fit.height <= max(most, 24)
    assert 1 <= fit.width <= max(most, 24)
    if fit.factor:
        assert (fit.height, fit.width) == (h * fit.factor, w * fit.factor)
    else:
        assert f"{w} x {h}" in fit.note


def test_enlarging_keeps_the_pixels_square_and_the_map_in_place():
    rgb = picture(28, 28)
    fit = plan_fit(28, 28, (560, 560))
    assert fit.factor == 20
    big = fit_picture(rgb, fit)
    np.testing.assert_array_equal(big[::20, ::20], rgb)
    np.testing.assert_array_equal(big[19::20, 19::20], rgb)
    values = np.random.default_rng(0).standard_normal((28, 28)).astype(np.float32)
    np.testing.assert_array_equal(resize_values(values, fit)[7::20, 3::20], values)


def bar_colors(bar, vertical):
    pixels = np.asarray(bar)
    return pixels[:, 8] if vertical else pixels[8]


@pytest.mark.parametrize("vertical", [True, False])
def test_the_color_bar_shows_the_colors_of_the_heat_map(vertical):
    scale = Scale(-2.0, 2.0, "diverging", "change of logit")
    bar = color_bar(scale, 300, orientation="vertical" if vertical else "horizontal")
    line = bar_colors(bar, vertical)
    inside = np.flatnonzero((line != 255).any(axis=1))
    line = line[inside[0] + 2 : inside[-1] - 1]
    line = line[::-1] if vertical else line
    # Red is up and right.
    assert int(line[-1][0]) - int(line[-1][2]) > 60
    assert int(line[0][2]) - int(line[0][0]) > 60
    expected = DIVERGING.opaque[np.rint(np.linspace(0, 255, len(line))).astype(int)].astype(int)
    assert np.abs(line - expected).max() <= 12


def test_a_clipped_end_is_an_arrow():
    plain = np.asarray(color_bar(Scale(-2.0, 2.0, "diverging", "u"), 200))
    clipped = np.asarray(color_bar(Scale(-2.0, 2.0, "diverging", "u", clipped_high=True), 200))
    above = slice(0, 8)
    assert (plain[above, 7:9] == 255).all()
    assert (clipped[4:8, 8] != 255).any()
    np.testing.assert_array_equal(plain[120:], clipped[120:])


@pytest.mark.parametrize("scale", [Scale(0.0, 3e-7, "sequential", "u" * 500), Scale(-4e38, 4e38, "diverging", "")])
@pytest.mark.parametrize("orientation", ["vertical", "horizontal"])
def test_color_bars_of_odd_scales(scale, orientation):
    bar = color_bar(scale, 240, orientation=orientation)
    assert (bar.height if orientation == "vertical" else bar.width) == 240
    assert max(bar.size) == 240
    with pytest.raises(UsageError):
        color_bar(scale, 20, orientation=orientation)


HOSTILE = "<script>\x00\x1b[31m\u202e\u2066evil\n\ttab 日本語 é" + "A" * 10_000


def test_hostile_text_becomes_one_drawable_line():
    line = clean(HOSTILE)
    assert len(line) < 2600
    assert all(c.isprintable() for c in line)
    assert "\u202e" not in line
    assert clean("\u65e5") != clean("\u672c")
    assert clean("0 \N{MINUS SIGN} 1") == "0 - 1"


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=300), width=st.integers(30, 600), most=st.integers(1, 4))
@example(text="00\u064100", width=30, most=2)
def test_wrapped_lines_fit(text, width, most):
    lines = wrap(text, 15, width, most)
    assert len(lines) <= most
    assert all(text_width(line, 15) <= width + 15 for line in lines)
    assert text_width(elide(text, 15, width), 15) <= width
    if len(lines) < most:
        assert "".join("".join(lines).split()) == "".join(clean(text).split())


@pytest.mark.parametrize("size", [(28, 28), (1, 1), (300, 451), (2160, 3840), (50, 20000), (3000, 20)])
def test_figures_of_every_size(size):
    rgb = np.zeros((*size, 3), np.uint8)
    values = np.ones((min(size[0], 60), min(size[1], 60)), np.float32)
    scale = Scale.for_maps([values], signed=True, units="change of logit")
    image = figure(rgb, values, scale, title=HOSTILE, subtitle=HOSTILE, notes=[HOSTILE])
    assert image.width <= 1500
    assert image.height <= 1500
    pixels = np.asarray(image).astype(int)
    # The overlay of a map at its limit is red, whatever the size of the picture.
    red = (pixels[..., 0] - pixels[..., 2] > 60).sum()
    assert red > 500
    # Nothing is cut off: the outermost pixels are paper.
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, -4:] == 255).all()
    assert (pixels[-4:] == 255).all()


def test_a_contact_sheet_has_every_cell_on_its_column_s_scale():
    rgb = np.full((40, 60, 3), 128, np.uint8)
    strong = np.full((40, 60), 4.0, np.float32)
    weak = np.full((40, 60), 0.02, np.float32)
    scale = Scale.for_maps([strong, weak], signed=True, units="u")
    columns = [SheetColumn("Occlusion " * 20, scale), SheetColumn("Saliency", scale)]
    rows = [
        SheetRow("first", rgb, [SheetCell(strong), SheetCell(weak)]),
        SheetRow(HOSTILE, rgb, [None, SheetCell(-strong)]),
    ]
    pixels = np.asarray(contact_sheet(rows, columns, title="t", cell=240)).astype(int)
    strength = pixels[..., 0] - pixels[..., 2]
    left = [28 + 150 + 14 + k * 254 for k in range(3)]
    middle = {k: strength[:, x + 120] for k, x in enumerate(left)}
    assert (middle[1] > 80).sum() > 100
    assert (middle[2] < -60).sum() > 100
    assert ((middle[2] > 60).sum()) < 40
    with pytest.raises(UsageError, match="2 columns"):
        contact_sheet([SheetRow("r", rgb, [None])], columns)
    with pytest.raises(UsageError):
        contact_sheet([], columns)


def test_headings_of_a_contact_sheet_are_whole():
    rgb = np.full((40, 60, 3), 128, np.uint8)
    scale = Scale(-1.0, 1.0, "diverging", "u")
    row = SheetRow("r", rgb, [SheetCell(np.zeros((40, 60), np.float32))])

    def ink(heading):
        sheet = np.asarray(contact_sheet([row], [SheetColumn(heading, scale)], cell=240)).astype(int)
        x = 28 + 150 + 14 + 254
        return np.flatnonzero((sheet[28:60, x : x + 200].sum(axis=2) < 400).any(axis=1))

    # A letter that hangs below the line is drawn to its end, and paper stands between it and the cell.
    assert ink("gypq").max() > ink("oxen").max() + 2
    pixels = ink("gypq")
    assert pixels.size == pixels.max() - pixels.min() + 1


def test_png_carries_its_text():
    image = Image.fromarray(picture())
    data = png_bytes(image, Title="Occlusion", Label="日本")
    back = Image.open(io.BytesIO(data))
    assert back.text == {"Title": "Occlusion", "Label": "日本"}
    np.testing.assert_array_equal(np.asarray(back), np.asarray(image))
