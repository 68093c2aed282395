"""Pictures in object storage: a real S3 protocol on loopback, slow and failing where a network is."""

from __future__ import annotations

import dataclasses
import io
import json
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
from onnxvis.errors import OnnxvisError, OutputError, PictureError, UsageError

boto3 = pytest.importorskip("boto3", reason="the S3 server of the tests needs moto")
pytest.importorskip("s3fs", reason="pictures in S3 need the extra 'remote'")
werkzeug = pytest.importorskip("moto.moto_server.werkzeug_app", reason="the S3 server of the tests is moto's")
pytest.importorskip("lance", reason="the store of `onnxvis index` needs the extra 'index'")

from onnxvis.behaviour.index import Store, remote  # noqa: E402
from onnxvis.behaviour.index.run import IndexOptions, index  # noqa: E402

COUNT = 9
SECRET = "geheim-geheim"


class Weather:
    """Between client and server: the first read of "slow.png" takes seconds, that of "flaky.png" fails with 503.

    Attributes:
        writes: what becomes of the next writes of objects: "fail", "slow" or "fine"; the last one stands for the rest.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app
        self.seen: Counter[str] = Counter()
        self.writes = ["fine"]

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        name = environ["PATH_INFO"].rsplit("/", 1)[-1]
        if environ["REQUEST_METHOD"] == "GET" and name.endswith(".png"):
            self.seen[name] += 1
            if self.seen[name] == 1 and name == "slow.png":
                time.sleep(3)
            if self.seen[name] == 1 and name == "flaky.png":
                start("503 Slow Down", [("Content-Length", "0")])
                return [b""]
        if environ["REQUEST_METHOD"] == "PUT" and "/store" in environ["PATH_INFO"]:
            what = self.writes.pop(0) if len(self.writes) > 1 else self.writes[0]
            self.seen[what] += 1
            if what == "slow":
                time.sleep(3)
            if what == "fail":
                start("500 Internal Server Error", [("Content-Length", "0")])
                return [b""]
        if environ["REQUEST_METHOD"] == "GET" and "/parts/" in environ["PATH_INFO"]:
            self.seen["parts read"] += 1
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


# --- stores ------------------------------------------------------------------------------------------

OPTIONS = IndexOptions(layers=("auto", "logits"), top_k=4, batch_size=2, shard_size=2)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weather: Weather) -> Callable[[str], None]:
    """Says on which machine what follows runs: each has its own copies. Calm weather, and no waiting between tries."""

    def run_on(name: str) -> None:
        monkeypatch.setenv("ONNXVIS_CACHE", str(tmp_path / name))

    monkeypatch.setattr(remote, "_PAUSE", 0.01)
    monkeypatch.setattr(remote, "_REST", 0)  # every commit is published
    weather.writes = ["fine"]
    weather.seen.clear()
    run_on("one")
    return run_on


@pytest.fixture(scope="module")
def model(bucket: Path) -> onnxvis.Model:
    return onnxvis.load(bucket / "model.onnx", preprocessing="unit")


@pytest.fixture(scope="module")
def whole(bucket: Path, model: onnxvis.Model) -> Store:
    return index(model, [str(bucket / "photos")], bucket / "whole", OPTIONS).store


def objects(prefix: str) -> dict[str, bytes]:
    client = boto3.client("s3")
    found = client.list_objects_v2(Bucket="photos", Prefix=prefix).get("Contents", [])
    return {one["Key"]: client.get_object(Bucket="photos", Key=one["Key"])["Body"].read() for one in found}


def test_a_store_in_a_bucket_is_that_of_a_folder(
    bucket: Path,
    whole: Store,
    weather: Weather,
    machine: Callable[[str], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["--preprocessing", "unit", "--layers", "auto,logits", "--top-k", "4", "--batch-size", "2", "--quiet"]
    url = "s3://photos/store-a"
    index_command = [
        "index",
        str(bucket / "model.onnx"),
        str(bucket / "photos"),
        *asked,
        "--shard-size",
        "2",
        "-o",
        url,
    ]
    assert main(index_command) == 0
    assert f"store      {url}," in capsys.readouterr().out
    found = objects("store-a/")
    files = json.loads(found["store-a/store.json"])["files"]
    assert {f"store-a/parts/{sha}" for sha, _ in files.values()} | {"store-a/store.json"} == set(found)
    assert SECRET not in b"".join(found.values()).decode("latin-1")
    before = weather.seen["fine"]
    assert main(index_command) == 0
    assert "nothing was left to do" in capsys.readouterr().out
    assert weather.seen["fine"] == before
    machine("two")
    weather.seen.clear()
    assert Store.open(url).fingerprint() == whole.fingerprint()
    reads = weather.seen["parts read"]
    assert reads == len(files)
    for words in (["neighbors", url, "0", "-k", "2"], ["project", url, "--method", "pca"], ["patches", url]):
        assert main([*words, "--out", str(tmp_path / words[0]), "--quiet"]) == 0
    assert weather.seen["parts read"] == reads
    assert json.loads((tmp_path / "patches" / "patches.json").read_text())["store"] == url
    assert SECRET not in "".join(capsys.readouterr())


@pytest.mark.parametrize("trouble", ["fail", "slow"])
def test_writes_that_fail_or_hang_are_tried_again(
    bucket: Path,
    model: onnxvis.Model,
    whole: Store,
    weather: Weather,
    machine: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    monkeypatch.setattr(remote, "SECONDS", 1.0)
    weather.writes = ["fine", "fine", "fine", trouble, "fine", trouble, "fine"]
    url = f"s3://photos/store-{trouble}"
    done = index(model, [str(bucket / "photos")], url, OPTIONS)
    assert weather.seen[trouble] == 2
    machine("two")
    assert Store.open(url).fingerprint() == done.store.fingerprint() == whole.fingerprint()


def test_a_write_that_fails_for_good_costs_nothing(
    bucket: Path,
    model: onnxvis.Model,
    whole: Store,
    weather: Weather,
    machine: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, photos = "s3://photos/store-b", [str(bucket / "photos")]
    weather.writes = ["fine"] * 12 + ["fail"]
    with pytest.raises(OutputError, match=r"s3://photos/store-b cannot be written.*kept in .*one.*goes on"):
        index(model, photos, url, OPTIONS)
    assert weather.seen["fail"] >= remote.ATTEMPTS
    weather.writes = ["fine"]
    machine("two")  # sees the last state that was published whole, and goes on from it
    with pytest.raises(UsageError, match="s3://photos/store-b was begun with another option top_k"):
        index(model, photos, url, dataclasses.replace(OPTIONS, top_k=5))
    part = Store.open(url)
    assert not part.complete
    known = len(part.pictures())
    assert 0 < known < COUNT
    went_on = index(model, photos, url, OPTIONS)
    assert went_on.run == COUNT - known
    assert went_on.store.fingerprint() == whole.fingerprint()
    machine("one")  # had more than it could publish, but another one went on meanwhile
    again = index(model, photos, url, OPTIONS)
    assert again.run == 0
    assert again.store.fingerprint() == whole.fingerprint()


def test_the_same_machine_goes_on_from_what_it_has(
    bucket: Path, model: onnxvis.Model, whole: Store, weather: Weather, machine: Callable[[str], None]
) -> None:
    url, photos = "s3://photos/store-c", [str(bucket / "photos")]
    weather.writes = ["fine"] * 3 + ["fail"]  # the first state, and nothing of the first shard
    with pytest.raises(OutputError):
        index(model, photos, url, OPTIONS)
    weather.writes = ["fine"]
    weather.seen.clear()
    done = index(model, photos, url, OPTIONS)
    assert done.run < COUNT
    assert weather.seen["parts read"] == 0
    assert done.store.fingerprint() == whole.fingerprint()


def test_only_one_may_write(
    bucket: Path, model: onnxvis.Model, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine finishes the store while this one is in its first shard: this one stops, and breaks nothing."""
    url, photos = "s3://photos/store-d", [str(bucket / "photos")]
    honest, calls = remote.RemoteStore.publish, []

    def publish(self: remote.RemoteStore, *arguments: Any) -> None:
        calls.append(self)
        if len(calls) == 2:
            machine("two")
            index(model, photos, url, OPTIONS)
            machine("one")
        honest(self, *arguments)

    monkeypatch.setattr(remote.RemoteStore, "publish", publish)
    with pytest.raises(UsageError, match="another process has written"):
        index(model, photos, url, OPTIONS)
    machine("three")
    assert Store.open(url).complete


def test_a_damaged_store_is_said_to_be_one(
    bucket: Path,
    model: onnxvis.Model,
    machine: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    client, url = boto3.client("s3"), "s3://photos/store-e"
    with pytest.raises(OnnxvisError, match="holds no store"):
        Store.open(url)
    index(model, [str(bucket / "photos")], url, OPTIONS)
    machine("two")
    name, data = next((key, data) for key, data in objects("store-e/parts/").items())
    client.put_object(Bucket="photos", Key=name, Body=data[:-1])
    with pytest.raises(OnnxvisError, match="what came is not what was written"):
        Store.open(url)
    client.delete_object(Bucket="photos", Key=name)
    with pytest.raises(OnnxvisError, match="lacks parts"):
        Store.open(url)
    named = json.loads(objects("store-e/")["store-e/store.json"])
    named["files"]["tallies/../../../outside"] = named["files"].popitem()[1]
    client.put_object(Bucket="photos", Key="store-e/store.json", Body=json.dumps(named))
    with pytest.raises(OnnxvisError, match="no file of a store"):
        Store.open(url)
    assert not list(tmp_path.rglob("outside"))


def test_places_that_are_none(
    bucket: Path, model: onnxvis.Model, machine: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = [str(bucket / "photos")]
    with pytest.raises(OutputError, match=r"holds other things"):
        index(model, photos, "s3://photos/set", OPTIONS)
    with pytest.raises(OutputError, match=r"s3://no-such-bucket/store cannot be written: there is no such place"):
        index(model, photos, "s3://no-such-bucket/store", OPTIONS)
    with pytest.raises(UsageError, match="in a folder, or in object storage"):
        index(model, photos, "file:///tmp/store", OPTIONS)
    with pytest.raises(UsageError, match="two slashes"):
        index(model, photos, Path("s3:/photos/store"), OPTIONS)
