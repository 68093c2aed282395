"""Pictures by URL, in archives and tables: what is listed, what is read, and what is never shown."""

from __future__ import annotations

import io
import socket
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import onnxvis.locations as module
from onnxvis.errors import PictureError
from onnxvis.locations import (
    holder,
    is_container,
    is_location,
    list_location,
    location_name,
    read_location,
    redacted,
)
from onnxvis.picture import open_picture
from onnxvis.picture_files import PICTURE_ENDINGS, picture_files
from onnxvis.reading import list_pictures

MOST = 1_000_000


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(seed)).save(stream, "png")
    return stream.getvalue()


def listed(location: str) -> list[tuple[str, str | None]]:
    return list(list_location(location, PICTURE_ENDINGS))


def shows(location: str, seed: int) -> bool:
    return bool(np.array_equal(open_picture(location).pixels, pixels(seed)))


def test_a_zip_archive(tmp_path: Path) -> None:
    path = str(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (("cat/x.png", png(1)), ("y.png", png(2)), ("read.me", b"x"), ("__MACOSX/._y.png", b"")):
            archive.writestr(name, data)
    assert listed(path) == [(f"zip://cat/x.png::{path}", "cat"), (f"zip://y.png::{path}", None)]
    assert shows(f"zip://cat/x.png::{path}", 1)
    assert shows(f"zip://y.png::{path}", 2)
    assert picture_files([path]) == [location for location, _ in listed(path)]
    assert [(p.path, p.label) for p in list_pictures([path])] == listed(path)


def test_webdataset_shards(tmp_path: Path) -> None:
    path = str(tmp_path / "shard-0.tar")
    with tarfile.open(path, "w") as archive:
        for name, data in (("1.png", png(3)), ("1.cls", b"7\n"), ("2.png", png(4))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert listed(path) == [(f"tar://1.png::{path}", "7"), (f"tar://2.png::{path}", None)]
    assert shows(f"tar://2.png::{path}", 4)


@pytest.mark.parametrize("ending", ["tar.gz", "tgz", "TGZ"])
def test_a_packed_tar_archive_under_each_of_its_endings(tmp_path: Path, ending: str) -> None:
    path = str(tmp_path / f"a.{ending}")
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("cat/1.png")
        info.size = len(png(5))
        archive.addfile(info, io.BytesIO(png(5)))
    assert listed(path) == [(f"tar://cat/1.png::{path}", "cat")]
    assert shows(f"tar://cat/1.png::{path}", 5)


def test_links_and_devices_in_an_archive_lead_nowhere_outside(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(6))
    path = str(tmp_path / "a.tar")
    with tarfile.open(path, "w") as archive:
        for name, kind, to in (
            ("out.png", tarfile.SYMTYPE, str(tmp_path / "secret.png")),
            ("pipe.png", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, to
            archive.addfile(info)
    for location, _ in listed(path):
        with pytest.raises(PictureError, match="a device or a link in its archive that leads to no file of it"):
            open_picture(location)


def test_odd_names_in_an_archive_are_shown_and_recorded_as_they_are(tmp_path: Path) -> None:
    path = str(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for seed, name in enumerate(("q?token=1.png", "a#row=3.png", "in/100%25.png")):
            archive.writestr(name, png(seed))
    for location, _ in listed(path):
        picture = open_picture(location)
        assert picture.path == location
        assert picture.name == location.split("::")[0].rsplit("/", 1)[1]
        assert holder(location) == path


def test_an_archive_without_pictures_says_so(tmp_path: Path) -> None:
    path = str(tmp_path / "a.zip")
    zipfile.ZipFile(path, "w").close()
    for ask in (list_pictures, picture_files):
        with pytest.raises(PictureError, match=r"there are no pictures at .*a\.zip"):
            ask([path])
    Path(path).write_bytes(b"PK")
    with pytest.raises(PictureError, match="Is it whole, and what its name says"):
        listed(path)


@pytest.mark.parametrize("form", ["bytes", "record"])
def test_a_table(tmp_path: Path, form: str) -> None:
    path = str(tmp_path / "t.parquet")
    values = [png(seed) if form == "bytes" else {"bytes": png(seed), "path": f"{seed}.png"} for seed in range(5)]
    pq.write_table(pa.table({"image": values, "label": [3, 1, None, 3, 0], "other": [0] * 5}), path, row_group_size=2)
    assert listed(path) == [(f"{path}#row={row}", label) for row, label in enumerate(["3", "1", None, "3", "0"])]
    for row in (4, 0, 3):
        assert shows(f"{path}#row={row}", row)
    with pytest.raises(PictureError, match="there is no picture"):
        open_picture(f"{path}#row=5")
    pq.write_table(pa.table({"number": [1]}), tmp_path / "n.parquet")
    with pytest.raises(PictureError, match=r"no column of pictures.*number"):
        listed(str(tmp_path / "n.parquet"))


def test_a_folder_by_url_is_listed_in_one_order() -> None:
    files = fsspec.filesystem("memory")
    for name, seed in (("b/dog/q.png", 9), ("b/r.png", 8), ("b/cat/p.png", 7), ("b/n.txt", 0)):
        files.pipe(f"/{name}", png(seed))
    assert listed("memory://b") == [
        ("memory://b/r.png", None),
        ("memory://b/cat/p.png", "cat"),
        ("memory://b/dog/q.png", "dog"),
    ]
    assert listed("memory://b/r.png") == [("memory://b/r.png", None)]
    assert shows("memory://b/cat/p.png", 7)
    assert open_picture("memory://b/cat/p.png").name == "p.png"
    files.pipe("/b/list.csv", b"path,label\nr.png,one\nmemory://b/cat/p.png,two\n")
    assert [(p.path, p.label) for p in list_pictures(["memory://b/list.csv"])] == [
        ("memory://b/cat/p.png", "two"),
        ("memory://b/r.png", "one"),
    ]
    files.rm("/b", recursive=True)


def test_paths_are_no_locations() -> None:
    for path in ("a.png", "/x/y.png", r"C:\pictures\a.png", "C:/a.png", "strange#row.png"):
        assert not is_location(path)
    assert is_location("s3://b/a.png")
    assert is_location("t.parquet#row=3")
    assert is_container("x/y.TAR")
    assert is_container("s3://b/y.tar.gz")
    assert not is_container("notes.gz")
    assert location_name("zip://in/a.png::s3://b/x.zip") == "a.png"
    assert location_name("s3://b/t.parquet#row=3") == "t.parquet row 3"
    assert location_name("zip://in/a.png::/far/x.zip") == "a.png"
    assert location_name("/x/a::b#c.png") == "a::b#c.png"
    assert holder("s3://b/t.parquet#row=3") == "s3://b/t.parquet"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://user:pass@host/a.png", "https://host/a.png"),
        ("https://h/a.png?X-Amz-Signature=abc&id=5", "https://h/a.png?X-Amz-Signature=...&id=5"),
        ("https://h/a.png?v=" + "a" * 40, "https://h/a.png?v=..."),
        ("zip://a.png::s3://key:secret@b/x.zip", "zip://a.png::s3://b/x.zip"),
        ("zip:///a.png::s3://key:secret@b/x.zip", "zip:///a.png::s3://b/x.zip"),
        ("/plain/path@home?token=x", "/plain/path@home?token=x"),
    ],
)
def test_credentials_are_never_shown(location: str, shown: str) -> None:
    assert redacted(location) == shown


def test_errors_name_the_place_and_not_the_credentials() -> None:
    with pytest.raises(PictureError) as error:
        open_picture("memory://user:geheim@b/none.png?token=geheim")
    assert "geheim" not in str(error.value)
    with pytest.raises(PictureError, match="there is nothing at"):
        listed("/nowhere/at/all.zip")


def test_a_read_that_fails_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def once(location: str, most: int) -> bytes:
        tries.append(location)
        if len(tries) == 1:
            raise OSError("the server said 503")
        return b"data"

    monkeypatch.setattr(module, "_read", once)
    assert read_location("s3://b/a.png", MOST) == b"data"
    assert len(tries) == 2
    with pytest.raises(PictureError, match="more than 3 bytes"):
        read_location("s3://b/a.png", 3)

    def never(location: str, most: int) -> bytes:
        raise OSError("the server said 503 to s3://key:geheim@b/a.png")

    monkeypatch.setattr(module, "_read", never)
    with pytest.raises(PictureError, match=r"after 2 attempts.*503") as error:
        read_location("s3://key:geheim@b/a.png", MOST, attempts=2)
    assert "geheim" not in str(error.value)


def test_a_read_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(module, "_read", lambda location, most: free.wait(30) and b"late")
    began = time.monotonic()
    with pytest.raises(PictureError, match=r"nothing came within 0\.05 s"):
        read_location("s3://b/a.png", MOST, seconds=0.05, attempts=2)
    assert time.monotonic() - began < 5
    free.set()


def test_a_server_that_is_not_there() -> None:
    pytest.importorskip("aiohttp", reason="pictures over http need the 'remote' extra")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(PictureError, match=r"cannot be read|nobody answers"):
        read_location(f"http://127.0.0.1:{port}/a.png", MOST, attempts=1)
