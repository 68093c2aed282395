"""The page of a comparison in a browser: it keeps its own policy, asks for nothing, and its switches work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.browser import open_page
from support.hand_models import small_net

import onnxvis
from onnxvis.audit.drift import compare
from onnxvis.audit.drift_page import build_drift_page, draw_worst

pytestmark = pytest.mark.browser
SPEC = {"resize": "stretch", "size": 16, "scale": 1 / 255}


def test_the_page_works_under_its_own_policy(tmp_path: Path) -> None:
    models = [onnxvis.load(small_net(seed).file.proto, preprocessing=SPEC) for seed in (0, 1)]
    name = tmp_path / "<img src=x onerror=alert(1)>.png"
    pixels = np.random.default_rng(0).integers(0, 255, (5, 6, 3), np.uint8)
    Image.fromarray(pixels).resize((60, 50), Image.Resampling.BICUBIC).save(name)
    found = compare(*models, [str(name)], methods=["grad-cam", "saliency"])
    page = tmp_path / "index.html"
    page.write_text(build_drift_page(found, list(draw_worst(*models, found, 1))), encoding="utf-8")
    with open_page(page) as seen:
        assert seen.evaluate("document.querySelectorAll('.heat').length") == 4
        assert seen.evaluate("[...document.querySelectorAll('.heat')].every(i => i.naturalWidth > 0)")
        assert seen.evaluate("document.querySelector('h2').textContent").startswith("<img src=x")
        assert seen.evaluate("getComputedStyle(document.querySelector('.under')).backgroundImage").startswith("url")
        seen.evaluate(
            "(o => { o.value = 40; o.dispatchEvent(new Event('input', {bubbles: true})); })"
            "(document.getElementById('opacity'))"
        )
        assert seen.evaluate("document.querySelector('.heat').style.opacity") == "0.4"
        assert seen.errors == []
        assert len(seen.requests) == 1
