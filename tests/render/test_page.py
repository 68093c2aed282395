import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from onnxvis.render import page as page_module
from onnxvis.render.overlay import heat_layer
from onnxvis.render.page import PageCell, PageData, PageFact, PagePicture, PagePrediction, build_page
from onnxvis.render.scale import Scale

OWNED = "document.title='owned'"
HOSTILE = [
    f"<script>{OWNED}</script>",
    f'"><img src=x onerror="{OWNED}">',
    f"' onmouseover='{OWNED}",
    f"</style><script>{OWNED}</script>",
    f"</title><script>{OWNED}</script>",
    f"javascript:{OWNED}",
    "{{ 7 * 7 }} {% raw %}",
    "\u202ertl \u05d0\u05d1 \u2066",
    "A" * 10_000,
    "w o r d " * 2_000,
]


def page_of(texts):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((30, 40)).astype(np.float32)
    values[:, :5] = np.nan
    scale = Scale.for_maps([values], signed=True, units=texts[0], percentile=99)
    layer = heat_layer(values, scale)
    image = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    pictures = [
        PagePicture(
            text,
            image,
            [PagePrediction(text, 3, -1.25, 0.713), PagePrediction(text, 4, 0.0, None)],
            [
                PageCell(text, text, layer, scale, text, text, text, text, False, [text], True),
                PageCell("Other", text, layer, scale),
            ],
            [text],
            text,
        )
        for text in texts
    ]
    facts = [PageFact(text, text, text) for text in texts]
    return build_page(PageData(texts[-1], facts, pictures, texts, texts[1]))


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def hostile_page():
    return page_of(HOSTILE)


def test_hostile_text_makes_no_tags_and_no_handlers(hostile_page):
    tags = Tags(hostile_page).tags
    harmless = Tags(page_of(["plain"] * len(HOSTILE))).tags
    assert [t for t, _ in tags if t == "script"] == ["script"]
    assert {t for t, _ in tags} == {t for t, _ in harmless}
    assert [t for t, _ in tags] == [t for t, _ in harmless]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert not [name for _, attributes in tags if "style" in attributes for name in attributes]
    assert "\u202e" not in hostile_page
    assert "\u05d0\u05d1" in hostile_page
    assert "49" not in re.findall(r"\{\{ 7 \* 7 \}\}|>49<", hostile_page)


def test_nothing_is_loaded(hostile_page):
    for _, attributes in Tags(hostile_page).tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("data:image/png;base64,", "#"))
    assert not re.search(r"@import|url\((?!data:image/png;base64,)", hostile_page)


def test_the_policy_names_the_hashes_of_the_only_style_and_script(hostile_page):
    policy = next(a["content"] for t, a in Tags(hostile_page).tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", hostile_page, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_numbers_and_words_are_on_the_page():
    text = html.unescape(page_of(["tabby & cat", "tiger"]))
    assert "71.3 %" in text
    assert "\N{MINUS SIGN}1.25" in text
    assert 'width="71.3"' in text
    assert "tabby & cat" in text
    assert "clipped at the 99th percentile" in text
    assert "Unverified" in text
    assert "not seen by the model" in text
    assert text.count("<article") == 4


def test_pictures_and_layers_are_embedded_exactly():
    values = np.linspace(-1, 1, 12).reshape(3, 4).astype(np.float32)
    scale = Scale.for_maps([values], signed=True, units="u")
    layer = heat_layer(values, scale)
    image = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(3, 4, 3))
    page = build_page(PageData("m", pictures=[PagePicture("p", image, cells=[PageCell("M", "t", layer, scale)])]))
    (embedded,) = re.findall(r'class="heat" src="data:image/png;base64,([^"]+)"', page)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(embedded)))), np.asarray(layer))
    (below,) = re.findall(r"\.picture-0 \{ background-image: url\(data:image/png;base64,([^)]+)\)", page)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(below)))), np.asarray(image))


def test_a_page_without_pictures_says_so():
    assert "no pictures" in build_page(PageData("empty"))


def browser():
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        path = shutil.which(name)
        if path:
            return path
    pytest.skip("no Chromium found on this machine (chromium, google-chrome)")


PROBE = """
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(
    (e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".table, .skip, svg"));
  const radio = (v) => document.querySelector(`input[value=${v}]`);
  radio("heat").click();
  const heat = getComputedStyle(document.querySelector(".under")).visibility;
  radio("picture").click();
  const picture = getComputedStyle(document.querySelector(".heat")).visibility;
  radio("overlay").click();
  const slider = document.getElementById("opacity");
  slider.value = 40; slider.dispatchEvent(new Event("input", {bubbles: true}));
  const opacity = getComputedStyle(document.querySelector(".heat")).opacity;
  const broken = [...document.images].filter((i) => !i.complete || i.naturalWidth === 0).length;
  parent.postMessage(JSON.stringify({
    title: document.title, heat, picture, opacity, broken, scroll: document.documentElement.scrollWidth,
    inner: innerWidth, wide: wide.slice(0, 3).map((e) => e.outerHTML.slice(0, 80)),
    hidden: document.getElementById("controls").hidden}), "*");
});
"""


# A window is never narrower than 500 px, a frame can be.
FRAME = """<body><script>
addEventListener("message", (event) => { document.body.dataset.probe = event.data; });
</script><iframe src="page.html" width="WIDTH" height="900" style="border: 0"></iframe>"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_in_a_browser(tmp_path, monkeypatch, width):
    """A probe is appended to the page's own script, so the policy's hash covers it: nothing else may run."""
    path = browser()
    source = page_module.packaged
    monkeypatch.setattr(page_module, "packaged", lambda name: source(name) + PROBE)
    (tmp_path / "page.html").write_text(page_of(HOSTILE), encoding="utf-8")
    file = tmp_path / "frame.html"
    file.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    command = [path, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1400,1000", "--virtual-time-budget=3000", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    result = json.loads(html.unescape(re.search(r'data-probe="([^"]+)"', done.stdout)[1]))
    assert result["title"] != "owned"
    assert result["broken"] == 0
    assert not result["hidden"]
    assert (result["heat"], result["picture"], result["opacity"]) == ("hidden", "hidden", "0.4")
    assert result["wide"] == []
    assert result["scroll"] <= result["inner"]
    assert result["inner"] == width
