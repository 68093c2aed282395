"""The page of an audit: what is packed comes out again, nothing is loaded, strings from outside stay strings."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from support.audits import HOSTILE_LABELS, HOSTILE_NAMES, PLAN, small_model

from onnxvis.audit import report_page
from onnxvis.audit.report import AuditResult, audit
from onnxvis.audit.report_charts import curve_chart, dot_chart
from onnxvis.audit.report_maps import levels, packed, shared_limits, shrunk, values_of
from onnxvis.audit.report_words import interval, where
from onnxvis.preprocessing import Geometry
from onnxvis.render.html import house_style, readable

FLOATS = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-1e6, 1e6, width=32)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FLOATS, st.booleans())
def test_levels_stand_for_their_values_up_to_half_a_level(values: np.ndarray, signed: bool) -> None:
    values = values if signed else np.abs(values)
    found, most = levels(values, signed)
    assert most == np.abs(values).max()
    steps = 127 if signed else 254
    half = most * (2 * np.sqrt(np.abs(values) / (most or 1)) * 0.5 / steps + 0.25 / steps**2)
    assert (np.abs(values_of(found, most, signed) - values) <= half + 1e-9 * most).all()
    assert found.min() >= 1


def test_levels_keep_what_is_no_number_apart() -> None:
    found, most = levels(np.array([[np.nan, 0.0], [np.inf, -1.0]]), True)
    assert found.tolist() == [[0, 128], [255, 1]]
    assert most == 1.0
    assert np.isnan(values_of(found, most, True)[0, 0])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_packing_is_exact(values: np.ndarray) -> None:
    stored = np.frombuffer(zlib.decompress(base64.b64decode(packed(values))), np.uint8).reshape(values.shape)
    np.testing.assert_array_equal(np.cumsum(stored, axis=1, dtype=np.uint8), values)


def test_a_large_map_is_shown_as_means_of_blocks_of_what_the_model_saw() -> None:
    heat = np.arange(60, dtype=np.float32).reshape(6, 10)
    geometry = Geometry((8, 6), (10, 6), (1.0, 1.0), (1.0, 0.0))  # a column of padding on either side
    content = heat[:, 1:9]
    np.testing.assert_array_equal(shrunk(heat, geometry, 8), content)
    expected = [[content[r : r + 3, c : c + 3].mean() for c in (0, 3, 6)] for r in (0, 3)]
    np.testing.assert_allclose(shrunk(heat, geometry, 3), expected)


def test_one_scale_for_all_pictures_is_the_largest_and_never_of_two_units() -> None:
    maps = [("a", "u", 1.0), ("a", "u", 3.0), ("b", "u", 2.0), ("b", "v", 9.0)]
    entries = [{"maps": [{"method": m, "units": u, "scale": {"hi": hi}}]} for m, u, hi in maps]
    found = shared_limits(entries, ["a", "b"])
    assert [f["limit"] for f in found] == [3.0, None]


def test_where_a_map_is_strongest_is_said_in_words() -> None:
    grid = np.zeros((9, 9))
    grid[7, 1] = 5
    grid[0, 8] = -50
    assert where(grid) == "strongest support in the lower left"
    assert "nothing" in where(-np.ones((3, 3)))


def test_charts_place_values_where_their_axis_has_them() -> None:
    row = {"mean": 0.5, "low": 0.4, "high": 0.7, "missing": [], "curve": [[0.0, 1.0], [1.0, 0.0]]}
    metric = {"units": "u", "methods": [{"method": "a", **row}, {"method": "random", **row, "mean": 0.1, "low": 0.0}]}
    chart = dot_chart(metric, {"a": "A", "random": "Chance"})
    assert chart is not None
    ticks = {float(t.label): t.at for t in chart.ticks}
    (x0, a), (x1, b) = next(iter(ticks.items())), list(ticks.items())[-1]
    assert chart.rows[0].mean == pytest.approx(a + (b - a) * (0.5 - x0) / (x1 - x0), abs=0.2)
    assert [r.control for r in chart.rows] == [False, True]
    curves = curve_chart(metric, {"a": "A"})
    assert curves is not None
    assert curves.curves[0].points == "0.0,0.0 300.0,170.0"
    assert (
        dot_chart({"units": "u", "methods": [{**row, "method": "a", "mean": None, "low": None, "high": None}]}, {})
        is None
    )


def test_words() -> None:
    assert readable("a\u202eb\x00c\ud800") == "a\ufffdb\ufffdc\ufffd"
    assert len(readable("x" * 10_000)) == 400
    assert interval({"mean": 0.5, "low": 0.25, "high": 0.75}, True) == "50.0 % (25.0 % to 75.0 %)"
    assert interval({"mean": None, "low": None, "high": None}) == "\N{EN DASH}"


# --- colors ----------------------------------------------------------------------------------------


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.1."""
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_has_the_contrast_that_accessibility_asks_for(scheme: int) -> None:
    style = house_style("report_page.css", "onnxvis.audit")
    block = re.findall(r":root \{(.*?)\}", style, flags=re.S)[scheme]
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    pairs = [(ink, paper) for ink in ("ink", "soft", "accent") for paper in ("paper", "card")]
    pairs += [(name, f"{name}-paper") for name in ("good", "bad", "note")] + [("ink", "rail"), ("paper", "accent")]
    for ink, paper in pairs:
        light, dark = sorted((luminance(colors[ink]), luminance(colors[paper])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {paper}"


# --- strings from outside --------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def page_with(folder: Path, labels: tuple[str, ...], names: tuple[str, ...]) -> AuditResult:
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (36, 48, 3), np.uint8)).save(pictures / name, format="PNG")
    broken = pictures / f"broken {names[0]}"
    broken.write_bytes(b"no picture")
    given = [str(pictures / name) for name in names] + [str(broken)]
    plan = dataclasses.replace(PLAN, methods=("grad-cam",), options={}, metrics=("sparseness",))
    return audit(small_model(folder, labels), given, folder / "out", plan, command=labels[0])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    return page_with(tmp_path_factory.mktemp("hostile"), HOSTILE_LABELS, HOSTILE_NAMES)


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    labels = tuple(f"class {k}" for k in range(10))
    return page_with(tmp_path_factory.mktemp("harmless"), labels, tuple(f"p{k}.png" for k in range(len(HOSTILE_NAMES))))


def test_hostile_text_makes_no_tags_and_no_handlers(hostile: AuditResult, harmless: AuditResult) -> None:
    text = hostile.page.read_text(encoding="utf-8")
    tags, plain = Tags(text).tags, Tags(harmless.page.read_text(encoding="utf-8")).tags
    assert [t for t, _ in tags] == [t for t, _ in plain]
    names = {name for _, attributes in tags for name in attributes}
    assert not [n for n in names if n.startswith("on") or n == "style"]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x07]", text)
    assert "\u05d0\u05d1" in text
    assert text.count("A" * 301) == 0
    assert ">49<" not in text


def test_nothing_is_loaded_and_links_stay_in_the_folder(hostile: AuditResult) -> None:
    for tag, attributes in Tags(hostile.page.read_text(encoding="utf-8")).tags:
        for name in ("src", "href", "action", "data", "srcset", "poster", "formaction"):
            value = attributes.get(name) or ""
            allowed = ("data:image/webp;base64,",) if tag == "img" else ("#", "maps/")
            assert value == "" or value.startswith(allowed), (tag, name, value[:80])
            if value.startswith("maps/"):
                assert (hostile.folder / value).is_file()


def test_the_policy_names_the_hashes_of_the_only_style_and_script(hostile: AuditResult) -> None:
    text = hostile.page.read_text(encoding="utf-8")
    policy = next(str(a["content"]) for _, a in Tags(text).tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_data_blocks_hold_the_maps_and_the_true_strings(hostile: AuditResult) -> None:
    text = hostile.page.read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, flags=re.S)
    assert len(blocks) == len(HOSTILE_NAMES) + 1
    cards = [json.loads(block) for block in blocks[:-1]]
    for card, entry in zip(cards, hostile.data["entries"], strict=True):
        saved = np.load(hostile.folder / entry["maps"][0]["folder"] / "attribution.npy")
        raw: Any = np.frombuffer(zlib.decompress(base64.b64decode(card["maps"][0]["data"])), np.uint8)
        found = np.cumsum(raw.reshape(saved.shape), axis=1, dtype=np.uint8)
        shown = values_of(found, card["maps"][0]["most"], card["maps"][0]["signed"])
        np.testing.assert_allclose(shown, saved, atol=np.abs(saved).max() / 120)
    page = json.loads(blocks[-1])
    assert [e["id"] for e in page["entries"]] == [e["id"] for e in hostile.data["entries"]]
    assert html.escape(HOSTILE_LABELS[0], quote=True).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in text


def test_the_size_of_the_page_is_bounded(harmless: AuditResult, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = type("Folder", (), {"out": harmless.folder, "picture": lambda self, path: b"0" * 3000})()
    assert report_page._map_side(folder, harmless.data) == report_page._SIDES[0]
    monkeypatch.setattr(report_page, "_SIDES", (256, 16, 8))
    maps = sum(len(m["data"]) for e in harmless.data["entries"] for m in report_page.entry_maps(e, harmless.folder, 16))
    monkeypatch.setattr(report_page, "PAGE_BYTES", maps + 4000 * len(harmless.data["entries"]) + 1)
    assert report_page._map_side(folder, harmless.data) == 16
