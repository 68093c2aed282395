"""The page of docs/web in a real browser: onnxruntime-web runs the file and draws the map of `onnxvis explain`."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import open_page
from support.fetch import cache_folder
from support.nets import SmallNet

import onnxvis
from onnxvis.embedding import embed

pytestmark = pytest.mark.browser
PAGE = Path(__file__).resolve().parents[1] / "docs" / "web"
RUNTIME = "onnxruntime-web@1.30.0"
PARTS = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def runtime() -> Path:
    """The three files of onnxruntime-web that the page needs, fetched from the npm registry once."""
    folder = cache_folder() / RUNTIME.replace("@", "-")
    if all((folder / part).exists() for part in PARTS):
        return folder
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, so onnxruntime-web cannot be fetched")
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [npm, "pack", RUNTIME, "--silent"], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        pytest.skip(f"{RUNTIME} cannot be fetched from the npm registry: {done.stderr.strip()[-200:]}")
    with tarfile.open(archives[0]) as archive:
        for part in PARTS:
            source = archive.extractfile(f"package/dist/{part}")
            assert source is not None
            (folder / part).write_bytes(source.read())
    archives[0].unlink()
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The page, the runtime beside it, on a loopback port of its own."""
    shutil.copytree(PAGE, tmp_path / "site")
    (tmp_path / "site" / "ort").symlink_to(runtime())
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()


def answer(site: str, model: Path, picture: Path, size: int, target: int, shot: Path | None = None) -> dict[str, Any]:
    with open_page(site, 800, 1100) as page:
        nodes = {}
        root = page.call("DOM.getDocument")["root"]["nodeId"]
        for name, path in (("model", model), ("picture", picture)):
            nodes[name] = page.call("DOM.querySelector", nodeId=root, selector=f"#{name}")["nodeId"]
            page.call("DOM.setFileInputFiles", nodeId=nodes[name], files=[str(path)])
        page.type("#size", str(size))
        page.type("#class", str(target))
        page.click("button")
        page.wait("window.answer", 60)
        found = page.evaluate("({...window.answer, map: Array.from(window.answer.map || [])})")
        assert isinstance(found, dict)
        assert page.errors == []
        if shot is not None:
            page.screenshot(shot)
        return found


@pytest.mark.parametrize("method", ["grad-cam", "score-cam"])
def test_a_small_network_in_the_browser(site: str, tmp_path: Path, method: str) -> None:
    from PIL import Image

    net = SmallNet()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    model = onnxvis.load(net.model())
    path = embed(model, method, upsample=True, class_input="required").save(tmp_path / "explained.onnx")
    x = ((pixels.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]
    expected = onnxvis.explain(model, x, method, 3)
    found = answer(site, path, tmp_path / "p.png", 32, 3)
    assert found["explained"] == 3
    assert found["shape"] == [1, 32, 32]
    np.testing.assert_allclose(found["logits"], net.reference(x)[0], rtol=1e-4, atol=1e-5)
    largest = np.abs(expected.attribution).max()
    np.testing.assert_allclose(np.reshape(found["map"], (32, 32)), expected.attribution, atol=1e-4 * largest)


def test_a_trained_network_and_a_real_photo_in_the_browser(site: str, tmp_path: Path) -> None:
    from PIL import Image

    from onnxvis.demo import lite0, photo

    model = onnxvis.load(lite0("dynamo"))
    crop = Image.open(photo("chelsea.png")).convert("RGB").resize((224, 224))
    crop.save(tmp_path / "cat.png")
    path = embed(model, "grad-cam", upsample=True, class_input="required").save(tmp_path / "explained.onnx")
    x = ((np.asarray(crop, np.float32) - 127) / 128).transpose(2, 0, 1)[None]
    expected = onnxvis.explain(model, x, "grad-cam", "top1")
    found = answer(site, path, tmp_path / "cat.png", 224, -1, tmp_path / "page.png")
    assert found["explained"] == expected.target_index
    largest = np.abs(expected.attribution).max()
    np.testing.assert_allclose(np.reshape(found["map"], (224, 224)), expected.attribution, atol=1e-3 * largest)
