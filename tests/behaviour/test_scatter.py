"""The scatter page: harmless with any names, and usable as a person uses it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.browser import Page, browser_path, open_page

from onnxvis.behaviour import scatter
from onnxvis.behaviour.scatter import ScatterPage, ScatterPoint, build_scatter_page, sprite_side, verdict
from onnxvis.behaviour.thumbnails import Thumbnails
from onnxvis.cli import main

OWNED = "document.title='owned'"
HOSTILE = [
    f"</script><script>{OWNED}</script>",
    f'"><img src=x onerror="{OWNED}">',
    f"<!--<script>{OWNED}",
    "\u202ereversed\u2066",
    "a\u2028b\u2029c",
    "{{ 7 * 7 }}",
    "x" * 5000,
    "\udcff surrogate",
]


def page_of(names: list[str], count: int = 0, classes: int = 3, side: int = 16) -> str:
    count = count or len(names)
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    centers = np.array([(np.cos(a), np.sin(a)) for a in 2 * np.pi * np.arange(classes) / classes]) * 10
    points = centers[labels] + rng.standard_normal((count, 2))
    pixels = np.zeros((count, side, side, 3), np.uint8)
    pixels[:] = (60 + 40 * (labels % 5))[:, None, None, None]
    pictures = [
        ScatterPoint(
            i, names[i % len(names)], f"class {labels[i]}", f"class {(labels[i] + (i % 10 == 0)) % classes}", 0.5,
            "wrong" if i % 10 == 0 else "right",
        )
        for i in range(count)
    ]  # fmt: skip
    thumbnails = Thumbnails(np.arange(count), pixels, np.ones(count, bool))
    return build_scatter_page(
        ScatterPage(names[0], points, pictures, thumbnails, [("fact", names[1])], [names[0]], "m")
    )


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))


def test_hostile_names_stay_names() -> None:
    page, harmless = page_of(HOSTILE), page_of(["plain"] * len(HOSTILE))
    page.encode("utf-8", "replace")
    assert [t for t, _ in Tags(page).tags] == [t for t, _ in Tags(harmless).tags]
    assert not [n for _, attributes in Tags(page).tags for n in attributes if n.startswith("on") or n == "style"]
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.S)
    assert "<" not in text
    data = json.loads(text)
    assert data["name"][0] == HOSTILE[0][:120]
    assert "\u202e" not in "".join(data["name"])
    assert len(data["name"][6]) == 120
    assert "49" not in page.split("</h1>", 1)[0].split("<h1>", 1)[1]


def test_the_policy_names_the_only_style_and_script() -> None:
    page = page_of(["a", "b", "c"])
    policy = next(str(a["content"]) for t, a in Tags(page).tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for _, attributes in Tags(page).tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))


def test_points_keep_their_proportions_and_y_points_upwards() -> None:
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    thumbnails = Thumbnails(np.arange(3), pixels, np.ones(3, bool))
    points = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 1.0]])
    pictures = [ScatterPoint(i, f"{i}") for i in range(3)]
    page = build_scatter_page(ScatterPage("t", points, pictures, thumbnails))
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, flags=re.S)[0])
    assert data["x"][1] - data["x"][0] == pytest.approx(65535, abs=1)
    assert data["y"][0] - data["y"][2] == pytest.approx(65535 / 4, abs=1)
    assert data["label"] == [-1, -1, -1]
    assert data["score"] == [None] * 3


def test_verdicts() -> None:
    top = ((281, "tabby, tabby cat", 0.9), (282, "tiger cat", 0.05))
    assert verdict("Tabby Cat", top) == "right"
    assert verdict("281", top) == "right"
    assert verdict("tiger cat", top) == "wrong"
    assert verdict(None, top) == ""
    assert verdict("x", ()) == ""


def test_sprites_are_bounded_and_in_their_places(monkeypatch: Any) -> None:
    assert sprite_side(10) == 96
    assert sprite_side(20_000) == 21
    assert sprite_side(10**7) == 8
    rng = np.random.default_rng(0)
    pixels = np.repeat(rng.integers(0, 256, (10, 1, 1, 3), dtype=np.uint8), 16, axis=1).repeat(16, axis=2)
    thumbnails = Thumbnails(np.arange(10), pixels, np.ones(10, bool))
    uri, side, columns = scatter._sprites(thumbnails)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")).astype(int)
    assert (side, columns, sheet.shape) == (16, 4, (48, 64, 3))
    for k in range(10):
        color = sheet[k // 4 * 16 + 8, k % 4 * 16 + 8]
        assert np.abs(color - pixels[k, 0, 0]).max() <= 6
    noise = Thumbnails(np.arange(40), rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), np.ones(40, bool))
    monkeypatch.setattr(scatter, "MOST_SPRITE_BYTES", 20_000)
    uri, side, _ = scatter._sprites(noise)
    assert len(base64.b64decode(uri.split(",")[1])) <= 20_000
    assert 8 <= side < 32


def test_the_command_writes_all_of_it(room: Any, tmp_path: Path) -> None:
    store = str(room.folder / "store")
    assert main(["project", store, "--seed", "1", "-o", str(tmp_path), "--quiet"]) == 0
    rows = list(csv.DictReader((tmp_path / "points.csv").open()))
    assert [int(r["id"]) for r in rows] == list(range(len(room.photos)))
    assert {r["label"] for r in rows} == {"plain", "striped"}
    assert len({r["grid_cell"] for r in rows}) == len(rows)
    said = json.loads((tmp_path / "projection.json").read_text())
    assert said["parameters"]["seed"] == 1
    assert 0 < said["trustworthiness"] <= 1
    assert Image.open(tmp_path / "grid.png").size[0] > 100
    assert (tmp_path / "index.html").stat().st_size > 10_000
    assert main(["project", store, "--method", "pca", "-o", str(tmp_path / "pca"), "--quiet"]) == 0
    assert main(["project", store, "--method", "taxi", "-o", str(tmp_path), "--quiet"]) == 2


# --- in a browser ----------------------------------------------------------------------------------


def opened(tmp_path: Path, page: str, width: int = 1280) -> Page:
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8", errors="replace")
    found = open_page(file, width, 900)
    found.wait("document.getElementById('canvas').dataset.ready")
    return found


def card(page: Page) -> str:
    return page.text("#card") if not page.evaluate("document.getElementById('card').hidden") else ""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_can_use_it(tmp_path: Path, width: int) -> None:
    browser_path()
    with opened(tmp_path, page_of([*HOSTILE[:6], *(f"photo-{i:02}" for i in range(24))], 300), width) as page:
        assert page.evaluate("document.title") != "owned"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.text("#found") == "300 pictures"
        page.evaluate("document.getElementById('canvas').focus()")
        page.key("n")
        page.wait("!document.getElementById('card').hidden")
        assert "class 0" in card(page)
        page.key("Enter")
        page.wait("document.getElementById('card').classList.contains('pinned')")
        page.key("Escape")
        page.wait("document.getElementById('card').hidden")
        # Search, and zoom to what was found.
        page.type("#find", "photo-07")
        page.wait("document.getElementById('found').textContent.startsWith('10 of 300')")
        page.key("Enter")
        page.wait("!document.getElementById('card').hidden")
        assert "photo-07" in card(page)
        page.key("Escape")
        page.wait("document.getElementById('found').textContent === '300 pictures'")
        # The legend switches classes off; other colors are other classes.
        assert page.evaluate("document.querySelectorAll('#legend li').length") == 3
        page.evaluate("document.getElementById('pictures').click()")
        colors = """(() => { const c = document.getElementById('canvas');
            const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
            let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; })()"""
        page.click("#reset")
        page.evaluate("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
        before = page.evaluate(colors)
        page.click("#legend li:first-child input")
        page.evaluate("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
        assert 0.5 < page.evaluate(colors) / before < 0.8
        page.click("#none")
        page.evaluate("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
        assert page.evaluate(colors) == 0
        page.evaluate("(() => { const s = document.getElementById('color'); s.value = '2'; "
                      "s.dispatchEvent(new Event('change')); })()")  # fmt: skip
        assert page.text("#legend").split() == ["right", "270", "wrong", "30"]
        assert page.errors == []
        assert len(page.requests) == 1


@pytest.mark.browser
def test_mouse_wheel_and_drag_move_the_view(tmp_path: Path) -> None:
    browser_path()
    with opened(tmp_path, page_of(["a", "b", "c"], 60)) as page:
        x, y = page.place("#canvas")
        find = """(() => { const c = document.getElementById('canvas').getBoundingClientRect(); const found = [];
            for (let x = 5; x < c.width; x += 6) for (let y = 5; y < c.height; y += 6) {
              document.getElementById('canvas').dispatchEvent(new PointerEvent('pointermove',
                {clientX: c.x + x, clientY: c.y + y, pointerId: 9}));
              if (document.getElementById('canvas').classList.contains('over')) found.push([c.x + x, c.y + y]);
            } return found; })()"""
        places = page.evaluate(find)
        assert places
        page.mouse("mouseMoved", *places[0])
        page.wait("!document.getElementById('card').hidden")
        page.mouse("mousePressed", *places[0])
        page.mouse("mouseReleased", *places[0])
        page.wait("document.getElementById('card').classList.contains('pinned')")
        left = "document.getElementById('card').style.left"
        before = page.evaluate(left)
        page.drag((x, y), (x + 60, y + 10))
        page.wait(f"{left} !== {json.dumps(before)}")
        assert float(page.evaluate(left)[:-2]) - float(before[:-2]) == pytest.approx(60, abs=2)
        page.click("#reset")
        page.wait(f"{left} === {json.dumps(before)}")
        # The wheel zooms about the pointer: what is under it stays.
        page.mouse("mouseMoved", *places[0])
        page.wheel(*places[0], -300)
        page.wait("Number(document.getElementById('canvas').dataset.zoom) > 2")
        assert float(page.evaluate(left)[:-2]) == pytest.approx(float(before[:-2]), abs=60)
        page.key("0")
        assert page.errors == []


@pytest.mark.browser
def test_fingers_move_and_zoom(tmp_path: Path) -> None:
    browser_path()
    with opened(tmp_path, page_of(["a", "b", "c"], 60)) as page:
        page.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
        x, y = page.place("#canvas")

        def touch(kind: str, *places: tuple[float, float]) -> None:
            points = [{"x": px, "y": py, "id": k} for k, (px, py) in enumerate(places)]
            page.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

        page.evaluate("document.getElementById('canvas').focus()")
        page.key("n")
        page.key("Enter")
        page.wait("document.getElementById('card').classList.contains('pinned')")
        top = "parseFloat(document.getElementById('card').style.top)"
        before = page.evaluate(top)
        touch("touchStart", (x, y))
        for k in range(1, 5):
            touch("touchMove", (x, y + 12 * k))
        touch("touchEnd")
        page.wait(f"Math.abs({top} - {before} - 48) < 3")
        touch("touchStart", (x - 30, y))
        touch("touchStart", (x - 30, y), (x + 30, y))
        for k in range(1, 7):
            touch("touchMove", (x - 30 - 10 * k, y), (x + 30 + 10 * k, y))
        touch("touchEnd")
        page.wait("Math.abs(Number(document.getElementById('canvas').dataset.zoom) - 3) < 0.5")
        assert page.errors == []


@pytest.mark.browser
def test_twenty_thousand_pictures_stay_responsive(tmp_path: Path) -> None:
    browser_path()
    with opened(tmp_path, page_of([f"photo-{i:03}" for i in range(500)], 20_000, 10, side=8)) as page:
        frames = []
        page.evaluate("document.getElementById('canvas').focus()")
        for key in ("+", "+", "ArrowLeft", "ArrowUp", "-", "n", "0"):
            page.key(key)
            page.evaluate("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
            frames.append(float(page.evaluate("document.getElementById('canvas').dataset.ms")))
        page.type("#find", "photo-077")
        page.wait("document.getElementById('found').textContent === '40 of 20,000 found'")
        assert min(frames) < 100, frames  # milliseconds of one drawing, without a GPU
        assert page.errors == []
