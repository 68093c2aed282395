"""The commands `patches` and `dissect`, and the page of units they write."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.browser import browser_path, open_page
from support.stores import LAYERS

from onnxvis.behaviour.tiles import Tile, TileRow, draw_tile, tile_sheet, tile_uri
from onnxvis.behaviour.unit_page import UnitCard, UnitCell, UnitPage, UnitStrip, build_unit_page
from onnxvis.cli import main
from onnxvis.errors import UsageError

OWNED = "document.title='owned'"
HOSTILE = [
    f"<script>{OWNED}</script>",
    f'"><img src=x onerror="{OWNED}">',
    f"' onclick='{OWNED}",
    "{{ 7 * 7 }}",
    "\u202ertl",
    "w o r d " * 300,
]


def page_of(texts: list[str], units: int = 12) -> str:
    uri = tile_uri(Tile(np.full((5, 5, 3), 90, np.uint8)), 60)
    cards = []
    for k in range(units):
        text = texts[k % len(texts)]
        cells = tuple(UnitCell(uri, text, text, (text, f"detail {k}")) for _ in range(3))
        cards.append(UnitCard(f"layer {k % 2} {texts[0]}", f"unit {k}", k, text, (UnitStrip(text, cells),), text))
    return build_unit_page(UnitPage(texts[0], ((texts[1], texts[2]),), tuple(texts), tuple(cards), texts[0]))


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))


def test_hostile_texts_stay_texts() -> None:
    page, harmless = page_of(HOSTILE), page_of(["plain"] * len(HOSTILE))
    assert [t for t, _ in Tags(page).tags] == [t for t, _ in Tags(harmless).tags]
    assert not [n for _, attributes in Tags(page).tags for n in attributes if n.startswith("on") or n == "style"]
    policy = next(str(a["content"]) for t, a in Tags(page).tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert all(a.get("alt") is not None for t, a in Tags(page).tags if t == "img")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_units_are_searched_and_browsed(tmp_path: Path, width: int) -> None:
    browser_path()
    file = tmp_path / "page.html"
    file.write_text(page_of([*HOSTILE, "tabby"]), encoding="utf-8")
    shown = "[...document.querySelectorAll('.unit')].filter((u) => u.offsetParent).map((u) => Number(u.dataset.number))"
    with open_page(file, width) as page:
        assert page.evaluate("document.title") != "owned"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.text("#count") == "12 of 12"
        page.type("#find", "7")
        page.wait("document.getElementById('count').textContent === '1 of 12'")
        assert page.evaluate(shown) == [7]
        page.type("#find", "tabby")
        page.wait("document.getElementById('count').textContent === '1 of 12'")
        assert page.evaluate(shown) == [6]
        page.key("Escape")
        page.wait("document.getElementById('count').textContent === '12 of 12'")
        page.key("j")
        page.key("j")
        assert page.evaluate("document.activeElement.dataset.number") == "2"
        page.key("k")
        assert page.evaluate("document.activeElement.dataset.number") == "0"
        page.key("/")
        assert page.evaluate("document.activeElement.id") == "find"
        page.evaluate("document.activeElement.blur()")
        page.click(".unit[data-number='4'] .tile")
        page.wait("document.getElementById('large').open")
        assert "detail 4" in page.text("#large-details")
        page.key("Escape")
        page.wait("!document.getElementById('large').open")
        page.evaluate("(() => { const g = document.getElementById('group'); g.value = '1'; "
                      "g.dispatchEvent(new Event('change')); })()")  # fmt: skip
        assert page.evaluate(shown) == [1, 3, 5, 7, 9, 11]
        assert page.errors == []
        assert len(page.requests) == 1


def test_patches_are_written(room: Any, tmp_path: Path) -> None:
    store = str(room.folder / "store")
    arguments = ["--units", "top 3", "--per-unit", "4", "--masks", "--top", "0.05", "--quiet", "-o", str(tmp_path)]
    assert main(["patches", store, *arguments]) == 0
    data = json.loads((tmp_path / "patches.json").read_text())
    assert [layer["layer"] for layer in data["layers"]] == list(LAYERS)
    for layer in data["layers"]:
        maps, field = room.maps[layer["layer"]], room.model.fields[layer["layer"]]
        for unit in layer["units"]:
            best = np.sort(maps[:, unit["unit"]].reshape(len(maps), -1).max(axis=1))[::-1]
            np.testing.assert_allclose([p["value"] for p in unit["patches"]], best[:4], rtol=1e-6)
            for patch in unit["patches"]:
                assert patch["input_box"] == list(field.box(patch["row"], patch["col"], clip=False))
        assert Image.open(tmp_path / layer["layer"] / "sheet-01.png").width > 460
    page = (tmp_path / "index.html").read_text()
    assert page.count("<article") == 6
    assert page.count("<img src=") == 6 * 3 * 4
    assert main(["patches", store, "--projection", "magic", "--quiet", "-o", str(tmp_path)]) == 2
    assert main(["patches", store, "--layer", "Relu9", "--quiet", "-o", str(tmp_path)]) == 2


def test_a_folder_of_something_else_is_refused_before_any_work(
    room: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(room.folder / "store")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    for command in (["patches", store], ["project", store], ["dissect", store, str(tmp_path)]):
        assert main([*command, "-o", str(tmp_path / "file")]) == 2
        assert "is a file" in capsys.readouterr().err
        assert main([*command, "-o", str(tmp_path / "site")]) == 2
        assert "index.html of something else" in " ".join(capsys.readouterr().err.split())
    assert main(["neighbors", store, "3", "-o", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "site" / "index.html").read_text() == "mine"


def test_a_store_without_a_readable_picture_is_an_error(
    room: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from onnxvis.behaviour.index.run import IndexOptions, index

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no picture")
    store = str(tmp_path / "store")
    index(room.model, [str(tmp_path / "in")], store, IndexOptions(layers=LAYERS))
    for command in (["patches", store], ["neighbors", store, "0"], ["dissect", store, str(tmp_path)]):
        assert main([*command, "-o", str(tmp_path / "out")]) == 2
        assert "no picture that could be read" in " ".join(capsys.readouterr().err.split())


def test_dissections_are_written(room: Any, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in room.photos:
        gray = np.asarray(Image.open(path)).mean(axis=2)
        Image.fromarray((gray > 127).astype(np.uint8)).save(masks / f"{path.stem}.png")
    (masks / "concepts.txt").write_text("dark\nbright <b>\n")
    store, out = str(room.folder / "store"), tmp_path / "out"
    arguments = ["--layer", LAYERS[1], "--top", "0.1", "--quiet", "-o", str(out)]
    assert main(["dissect", store, str(masks), *arguments]) == 0
    (layer,) = json.loads((out / "dissection.json").read_text())["layers"]
    assert layer["pictures"] == len(room.photos)
    assert layer["concepts"] == ["dark", "bright <b>"]
    assert [d["iou"] for d in layer["ranked"]] == sorted((d["iou"] for d in layer["ranked"]), reverse=True)
    assert (out / "units.csv").read_text().startswith("layer,unit,concept,iou")
    assert "<b>" not in (out / "index.html").read_text()
    assert (out / LAYERS[1] / "concepts.png").is_file()
    assert main(["dissect", store, *arguments]) == 2


def test_tiles_are_enlarged_in_squares_and_hatched_outside() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 4
    drawn = np.asarray(draw_tile(Tile(pixels), 40))
    np.testing.assert_array_equal(drawn, pixels.repeat(10, axis=0).repeat(10, axis=1))
    inside = np.ones((4, 4), bool)
    inside[:, 3] = False
    hatched = np.asarray(draw_tile(Tile(pixels, inside=inside), 40))
    np.testing.assert_array_equal(hatched[:, :30], drawn[:, :30])
    assert len(np.unique(hatched[:, 30:].reshape(-1, 3), axis=0)) == 2
    ringed = np.asarray(draw_tile(Tile(pixels, center=(2.0, 2.0)), 40))
    np.testing.assert_array_equal(ringed[18:22, 18:22], drawn[18:22, 18:22])
    assert (ringed != drawn).any()
    assert tile_uri(Tile(pixels), 40).startswith("data:image/png")
    assert tile_uri(Tile(np.zeros((60, 60, 3), np.uint8)), 40).startswith("data:image/jpeg")
    sheet = tile_sheet([TileRow("row", [Tile(pixels, "a")] * 3)], title="t", notes=["n"], cell=40)
    assert sheet.width >= 132 + 3 * 46
    with pytest.raises(UsageError):
        tile_sheet([])


def test_what_holds_for_all_layers_is_said_once() -> None:
    from onnxvis.cli.results import layer_notes

    said = layer_notes([("a", ["masks are kept", "3 apart"]), ("b", ["masks are kept", "7 apart"])])
    assert said == ["Masks are kept.", "a: 3 apart.", "b: 7 apart."]
