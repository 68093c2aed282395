"""Pictures in object storage: a real S3 protocol on loopback, slow and failing where a network is."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from support.nets import SmallNet

import onnxvis
import onnxvis.locations as module
from onnxvis.cli import main
from onnxvis.errors import PictureError

boto3 = pytest.importorskip("boto3", reason="the S3 server of the tests needs moto")
pytest.importorskip("s3fs", reason="pictures in S3 need the extra 'remote'")
werkzeug = pytest.importorskip("moto.moto_server.werkzeug_app", reason="the S3 server of the tests is moto's")
pytest.importorskip("lance", reason="the store of `onnxvis index` needs the extra 'index'")

from onnxvis.behaviour.index import Store  # noqa: E402

COUNT = 9
SECRET = "geheim-geheim"


class Weather:
    """Between client and server: the first read of "slow.png" takes seconds, that of "flaky.png" fails with 503."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app
        self.seen: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        name = environ["PATH_INFO"].rsplit("/", 1)[-1]
        if environ["REQUEST_METHOD"] == "GET" and name.endswith(".png"):
            self.seen[name] += 1
            if self.seen[name] == 1 and name == "slow.png":
                time.sleep(3)
            if self.seen[name] == 1 and name == "flaky.png":
                start("503 Slow Down", [("Content-Length", "0")])
                return [b""]
        return self.app(environ, start)


@pytest.fixture(scope="module")
def weather() -> Iterator[Weather]:
    from werkzeug.serving import make_server

    with pytest.MonkeyPatch.context() as patch:
        app = Weather(werkzeug.DomainDispatcherApplication(werkzeug.create_backend_app))
        server = make_server("127.0.0.1", 0, app, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield app
        server.shutdown()


def picture(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(stream, "png")
    return stream.getvalue()


@pytest.fixture(scope="module")
def bucket(weather: Weather, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures in the bucket and in a folder."""
    folder = tmp_path_factory.mktemp("s3")
    onnx.save(SmallNet(width=4).model(), folder / "model.onnx")
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    for number in range(COUNT):
        name = {0: "flaky.png", 1: "slow.png"}.get(number, f"{number}.png")
        path = folder / "photos" / ("cats" if number % 2 else "dogs") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number) if number != 5 else b"no picture")
        client.put_object(Bucket="photos", Key=f"set/{path.parent.name}/{name}", Body=path.read_bytes())
    return folder


def test_an_index_of_a_bucket_is_that_of_a_folder(
    bucket: Path, weather: Weather, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "SECONDS", 1.5)
    weather.seen.clear()
    shared = ["--preprocessing", "unit", "--quiet"]
    model = str(bucket / "model.onnx")
    assert main(["index", model, str(bucket / "photos"), *shared, "-o", str(tmp_path / "here")]) == 0
    assert main(["index", model, "s3://photos/set", *shared, "-o", str(tmp_path / "there")]) == 0
    assert weather.seen["slow.png"] == 2
    assert weather.seen["flaky.png"] == 2
    here, there = (Store.open(tmp_path / name) for name in ("here", "there"))
    rows = [[(row.sha256, row.label, row.top, bool(row.error)) for row in store.pictures()] for store in (here, there)]
    assert rows[0] == rows[1]
    assert there.pictures()[0].path == "s3://photos/set/cats/3.png"
    np.testing.assert_array_equal(here.embeddings()[1], there.embeddings()[1])
    layer = here.layers[0]
    np.testing.assert_array_equal(here.top(layer).picture, there.top(layer).picture)
    np.testing.assert_array_equal(here.quantile(layer, 0.9), there.quantile(layer, 0.9))
    said = capsys.readouterr()
    everything = (
        said.out
        + said.err
        + "".join(path.read_bytes().decode("latin-1") for path in (tmp_path / "there").rglob("*") if path.is_file())
    )
    assert SECRET not in everything


def test_one_picture_of_a_bucket_is_explained(bucket: Path, tmp_path: Path) -> None:
    model = onnxvis.load(bucket / "model.onnx", preprocessing="unit")
    here = onnxvis.explain(model, bucket / "photos" / "dogs" / "2.png")
    there = onnxvis.explain(model, "s3://photos/set/dogs/2.png")
    np.testing.assert_array_equal(here.attribution, there.attribution)
    assert there.manifest()["picture"]["path"] == "s3://photos/set/dogs/2.png"
    with pytest.raises(PictureError, match=r"there is no picture s3://photos/set/none\.png"):
        onnxvis.explain(model, "s3://photos/set/none.png")


def test_a_store_is_a_folder_of_this_machine(bucket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "index",
        str(bucket / "model.onnx"),
        "s3://photos/set",
        "--preprocessing",
        "unit",
        "-o",
        "s3://photos/store",
    ]
    assert main(arguments) == 2
    assert "a folder of this machine" in capsys.readouterr().err
