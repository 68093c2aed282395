"""The page of an audit clicked through in a real browser, with names and labels that attack it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.audits import HOSTILE_LABELS, HOSTILE_NAMES, PLAN, small_model
from support.browser import Page, browser_path, open_page

from onnxvis.audit.report import AuditResult, audit
from onnxvis.audit.report_maps import entry_maps, levels, values_of
from onnxvis.kernels.blend import color_index
from onnxvis.render.colormap import DIVERGING, SEQUENTIAL

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    browser_path()
    root = tmp_path_factory.mktemp("browser")
    pictures = root / "pictures"
    rng = np.random.default_rng(0)
    truths = ["0", "1", "2", "3"]
    rows = ["path,label"]
    pictures.mkdir()
    for number, name in enumerate(HOSTILE_NAMES):
        small = rng.integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(small).resize((48, 36), Image.Resampling.BICUBIC).save(pictures / name, format="PNG")
        quoted = name.replace('"', '""')
        rows.append(f'"pictures/{quoted}",{truths[number % 4]}')
    (root / "list.csv").write_text("\n".join(rows), encoding="utf-8", newline="")
    model = small_model(root, HOSTILE_LABELS)
    model.preprocessing = model.preprocessing.override(resize="shortest", crop=True) if model.preprocessing else None
    return audit(
        model, [str(root / "list.csv")], root / "out", dataclasses.replace(PLAN, metrics=("insertion", "deletion"))
    )


@pytest.fixture
def page(report: AuditResult) -> Iterator[Page]:
    with open_page(report.page) as opened:
        opened.evaluate("document.getElementById('pictures').scrollIntoView()")
        opened.wait("document.querySelector('.card[data-drawn]')")
        yield opened
        assert opened.evaluate("document.title").startswith("Audit of ")
        assert not opened.evaluate("document.title.includes('owned')")
        assert opened.errors == []
        assert opened.requests == [report.page.as_uri()]


def order(page: Page) -> list[int]:
    return [
        int(n)
        for n in page.evaluate("[...document.querySelectorAll('.card:not([hidden])')].map(c => c.dataset.number)")
    ]


def pick(page: Page, selector: str, value: str) -> None:
    """Choose an entry of a list, and tell the page as a browser does."""
    page.evaluate(
        f"""(() => {{ const s = document.querySelector("{selector}"); s.value = {value!r};
        s.dispatchEvent(new Event("input", {{bubbles: true}})); return s.value; }})()"""
    )


def drawn(page: Page, card: int, method: int) -> np.ndarray:
    """The pixels of a map as the browser has them, ``(h, w, 4)``."""
    found = page.evaluate(
        f"""(() => {{
        const c = document.querySelector('.card[data-number="{card}"] [data-method="{method}"] canvas.heat');
        return [c.height, c.width, [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]]; }})()"""
    )
    return np.array(found[2], np.uint8).reshape(found[0], found[1], 4)


def expected(report: AuditResult, card: int, method: int, limit: float) -> np.ndarray:
    entry = report.data["entries"][card]
    name = report.data["methods"][method]["name"]
    k = next(i for i, m in enumerate(entry["maps"]) if m["method"] == name and m["target"]["number"] == 0)
    content = entry_maps(entry, report.folder, 256)[k]["content"]
    signed = entry["maps"][k]["drawn_signed"]
    shown = values_of(*levels(content, signed), signed).astype(np.float32)
    table = (DIVERGING if signed else SEQUENTIAL).lut
    return np.asarray(table[color_index(shown, (-limit if signed else 0.0, limit))])


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal colors where they are seen: a browser stores colors multiplied by their opacity, and levels may round."""
    a, b = (v[..., :3].astype(float) * v[..., 3:] / 255 for v in (found, wanted))
    assert np.abs(a - b).max() <= 6
    assert np.abs(found[..., 3].astype(int) - wanted[..., 3]).max() <= 6


def test_maps_have_the_colors_of_their_values_on_both_scales(report: AuditResult, page: Page) -> None:
    maps = report.data["entries"][0]["maps"]
    for method in (0, 1):
        name = report.data["methods"][method]["name"]
        own = next(m["scale"]["hi"] for m in maps if m["method"] == name)
        close(drawn(page, 0, method), expected(report, 0, method, own))
    pick(page, "#scale", "shared")
    for method in (0, 1):
        name = report.data["methods"][method]["name"]
        shared = max(m["scale"]["hi"] for e in report.data["entries"] for m in e["maps"] if m["method"] == name)
        close(drawn(page, 0, method), expected(report, 0, method, shared))
    before = drawn(page, 0, 0)
    pick(page, "#colors", "gray")
    gray = drawn(page, 0, 0)
    assert set(np.unique(gray[gray[..., 3] > 8][:, :3])) <= {0, 255}
    assert (before != gray).any()


def test_view_opacity_size_and_methods(page: Page) -> None:
    heat = "getComputedStyle(document.querySelector('.card .heat'))"
    page.click('#view input[value="picture"]')
    assert page.evaluate(f"{heat}.visibility") == "hidden"
    page.click('#view input[value="heat"]')
    assert page.evaluate("getComputedStyle(document.querySelector('.map .photo')).visibility") == "hidden"
    page.click('#view input[value="overlay"]')
    pick(page, "#opacity", "40")
    assert page.evaluate(f"{heat}.opacity") == "0.4"
    width = "document.querySelector('.card .map').getBoundingClientRect().width"
    medium = page.evaluate(width)
    pick(page, "#size", "large")
    assert page.evaluate(width) > medium * 1.5
    page.click('#methods input[value="0"]')
    shown = "[...document.querySelectorAll('.card figure.map:not([hidden])')].map(f => f.dataset.method)"
    assert set(page.evaluate(shown)) == {"1"}


def test_a_linked_picture_lies_below_the_switches_at_every_width(page: Page, report: AuditResult) -> None:
    name = report.data["entries"][2]["id"]
    for width in (1280, 900):
        page.resize(width, 800)
        page.evaluate("location.hash = ''")
        page.evaluate(f"location.hash = '#{name}'")
        page.wait(
            f"""(() => {{ const top = document.getElementById("{name}").querySelector("h3").getBoundingClientRect().top;
            return Math.abs(top - document.getElementById("controls").getBoundingClientRect().bottom) < 40
            && top >= document.getElementById("controls").getBoundingClientRect().bottom; }})()"""
        )


def test_search_filter_sort_and_targets(report: AuditResult, page: Page) -> None:
    entries = report.data["entries"]
    page.type("#search", "GNP.txt")
    assert [entries[k]["name"] for k in order(page)] == [HOSTILE_NAMES[2]]
    page.type("#search", "nothing is called like this")
    assert order(page) == []
    page.click("#reset")
    assert order(page) == list(range(len(entries)))
    wrong = [k for k, e in enumerate(entries) if e["truth"]["index"] != e["prediction"]["top"][0]["index"]]
    pick(page, "#filter", "wrong")
    assert order(page) == wrong
    assert page.text("#count") == f"{len(wrong)} of {len(entries)}"
    pick(page, "#filter", "")
    drops = [
        next(r["values"]["deletion"]["value"] for r in e["metrics"] if r["method"] == "occlusion") for e in entries
    ]
    middle = sorted(drops)[len(drops) // 2]
    pick(page, "#measure", "metrics.occlusion deletion")
    for relation, keeps in (("least", [k for k, v in enumerate(drops) if v >= middle]), ("most", None)):
        pick(page, "#relation", relation)
        pick(page, "#bound", repr(middle))
        assert order(page) == (keeps or [k for k, v in enumerate(drops) if v <= middle])
    page.evaluate("document.getElementById('bound').value = ''")
    pick(page, "#relation", "least")
    assert order(page) == list(range(len(entries)))
    sure = [e["prediction"]["top"][0]["probability"] for e in entries]
    pick(page, "#sort", "-confidence")
    assert order(page) == sorted(range(len(entries)), key=lambda k: -sure[k])
    value = {
        k: row["values"]["deletion"]["value"]
        for k, e in enumerate(entries)
        for row in e["metrics"]
        if row["method"] == "occlusion" and row["target"] == 0
    }
    pick(page, "#sort", "-metrics.occlusion deletion")
    assert order(page) == sorted(value, key=lambda k: -value[k])
    pick(page, "#sort", "")
    pick(page, "#target", "1")
    right = next((k for k in range(len(entries)) if k not in wrong), None)
    for k in [wrong[0]] + ([right] if right is not None else []):
        page.evaluate(f"document.querySelector('.card[data-number=\"{k}\"]').scrollIntoView()")
        page.wait(f"document.querySelector('.card[data-number=\"{k}\"]').dataset.drawn")
        text = page.text(f'.card[data-number="{k}"] .map .target')
        assert ("no map" in text) == (k == right)


def test_enlarged_by_mouse_and_keyboard(report: AuditResult, page: Page) -> None:
    page.click(".card .map button")
    page.wait("document.getElementById('zoom').open")
    frames = "document.querySelectorAll('#zoom-frames figure').length"
    assert page.evaluate(frames) == 2
    page.wait("document.querySelector('#zoom-frames .heat').width > 1")
    first = page.text("#zoom-title")
    page.key("2")
    assert page.evaluate(frames) == 3
    page.key("+")
    page.key("+")
    assert page.text("#zoom-factor") == "2.3x"
    move = "document.querySelector('#zoom-frames .layer').style.transform"
    before = page.evaluate(move)
    page.key("ArrowLeft", modifiers=8)
    assert page.evaluate(move) != before
    page.key("ArrowRight")
    assert page.text("#zoom-title") != first
    assert page.text("#zoom-factor") == "1x"
    page.click("#zoom-before")
    assert page.text("#zoom-title") == first
    page.key("o")
    assert page.evaluate("getComputedStyle(document.querySelector('#zoom-frames .heat')).visibility") == "hidden"
    page.key("Escape")
    assert not page.evaluate("document.getElementById('zoom').open")
    assert page.evaluate("document.activeElement.classList.contains('frame')"), "focus goes back to the picture"


def test_everything_is_reached_and_named_without_a_mouse(page: Page) -> None:
    page.key("Tab")
    assert page.text(":focus") == "Skip to the pictures"
    unnamed = page.evaluate(
        """[...document.querySelectorAll("input, select, button, a, canvas:not([aria-hidden]), img, svg")].filter(e =>
        !e.closest("[aria-hidden], .frame") && !e.getAttribute("aria-label") && !(e.labels && e.labels.length)
        && !e.textContent.trim() && !e.alt && !e.hasAttribute("aria-hidden")).map(e => e.outerHTML.slice(0, 90))"""
    )
    assert unnamed == []
    assert page.evaluate("document.querySelectorAll('main, nav, footer').length") == 3
    names = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(names) == len(set(names))
    label = page.evaluate("document.querySelector('.card .map button').getAttribute('aria-label')")
    assert "Grad-CAM of" in label
    assert "Enlarge" in label


def test_a_link_to_one_picture_shows_it_whatever_is_filtered(report: AuditResult, page: Page) -> None:
    name = report.data["entries"][4]["id"]
    page.type("#search", "no such picture")
    page.evaluate(f"location.hash = {name!r}")
    page.wait(f"!document.getElementById({name!r}).hidden")
    page.wait(f"document.getElementById({name!r}).getBoundingClientRect().top < innerHeight")


def test_printing_finds_every_map_painted(page: Page) -> None:
    page.wait("[...document.querySelectorAll('.card')].length > 5")
    page.evaluate("new Promise(done => setTimeout(done, 400))")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate(media="print")
    assert page.evaluate("[...document.querySelectorAll('.map .heat')].every(c => c.width > 1)")
    assert page.evaluate("getComputedStyle(document.getElementById('controls')).display") == "none"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(report: AuditResult, width: int, scheme: str) -> None:
    with open_page(report.page, width, 844) as page:
        page.emulate(prefers_color_scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_without_its_script_the_page_still_says_everything(report: AuditResult, tmp_path: Path) -> None:
    text = report.page.read_text(encoding="utf-8")
    stripped = tmp_path / "index.html"
    stripped.write_text(text.replace('"use strict"', '"use strict";throw 0', 1), encoding="utf-8")  # the hash fails
    with open_page(stripped) as page:
        assert page.evaluate("document.getElementById('controls').hidden")
        assert "Self-tests" in page.text("main")
        assert page.evaluate("document.querySelectorAll('.original .photo').length") == len(report.data["entries"])
        assert any("Content Security Policy" in error for error in page.errors)
