"""Bad input gives one clear error that says what and what next, exit code 2, and no traceback."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import external_data_helper, numpy_helper
from PIL import Image
from support.formats import convnet

from onnxvis.cli import main

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; the exit code and everything it printed, on one line."""

    def call(*arguments: object) -> tuple[int, str]:
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, " ".join((captured.out + captured.err).split())

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(convnet(size=16), path)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)).save(path)
    return path


def explain(run: Run, tmp_path: Path, model: Path, picture: Path, *more: object) -> tuple[int, str]:
    return run("explain", model, picture, "--preprocessing", "unit", "--out", tmp_path / "out", *more)


def assert_one_error(code: int, text: str, *words: str) -> None:
    assert code == 2, text
    assert "Traceback" not in text
    assert text.count("error:") == 1, text
    for word in words:
        assert word.lower() in text.lower(), f"{word!r} is not in: {text}"


def test_the_good_case_works(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    code, text = explain(run, tmp_path, model, picture, "-m", "grad-cam,occlusion,saliency")
    assert code == 0, text
    manifest = json.loads(next((tmp_path / "out").rglob("manifest.json")).read_text())
    assert manifest["manifest_version"] == 1


@pytest.mark.parametrize("keep", [0, 1, 10, 0.3, 0.9, 0.999])
def test_truncated_model(run: Run, tmp_path: Path, model: Path, picture: Path, keep: float) -> None:
    data = model.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(data[: int(keep if keep >= 1 or keep == 0 else keep * len(data))])
    assert_one_error(*explain(run, tmp_path, cut, picture), "cut.onnx")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"PK\x03\x04rest of a zip", "zip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"\x08\x00\x00\x00ORTM\x00\x00", ".ort"),
        (b"this is a text file, not a model", "not an ONNX model"),
        (b"\xff" * 4096, "not an ONNX model"),
    ],
)
def test_not_a_model(run: Run, tmp_path: Path, picture: Path, content: bytes, word: str) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    assert_one_error(*explain(run, tmp_path, path, picture), word)


def test_no_file_and_a_folder(run: Run, tmp_path: Path, picture: Path, model: Path) -> None:
    assert_one_error(*explain(run, tmp_path, tmp_path / "nowhere.onnx", picture), "no file", "nowhere.onnx")
    assert_one_error(*explain(run, tmp_path, tmp_path, picture), "folder", model.name)


def test_unknown_operator(run: Run, tmp_path: Path, picture: Path) -> None:
    proto = convnet(size=16)
    proto.graph.node[1].op_type = "Frobnicate"
    path = tmp_path / "odd.onnx"
    onnx.save(proto, path)
    assert_one_error(*explain(run, tmp_path, path, picture), "Frobnicate", "operator")


def external(tmp_path: Path, location: str, write: bool = True) -> Path:
    """The model with its first weight in an external file that its entry calls ``location``."""
    proto = convnet(size=16)
    weight = next(t for t in proto.graph.initializer if len(t.dims) == 4)
    data = numpy_helper.to_array(weight).tobytes()
    if write:
        (tmp_path / "weights.bin").write_bytes(data)
    weight.raw_data = data
    external_data_helper.set_external_data(weight, location, offset=0, length=len(data))
    weight.ClearField("raw_data")
    folder = tmp_path / "inside"
    folder.mkdir(exist_ok=True)
    path = folder / "external.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_beside_the_model_works(run: Run, tmp_path: Path, picture: Path) -> None:
    path = external(tmp_path, "weights.bin")
    (path.parent / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes())
    code, text = explain(run, tmp_path, path, picture)
    assert code == 0, text


def test_external_data_missing(run: Run, tmp_path: Path, picture: Path) -> None:
    assert_one_error(*explain(run, tmp_path, external(tmp_path, "weights.bin"), picture), "missing", "weights.bin")


def test_external_data_too_short(run: Run, tmp_path: Path, picture: Path) -> None:
    path = external(tmp_path, "weights.bin")
    (path.parent / "weights.bin").write_bytes(b"1234")
    assert_one_error(*explain(run, tmp_path, path, picture), "too short")


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../weights.bin"])
def test_external_data_outside_the_folder(run: Run, tmp_path: Path, picture: Path, location: str) -> None:
    path = external(tmp_path, location)
    assert_one_error(*explain(run, tmp_path, path, picture), "outside the model's folder", "refused")


def test_external_data_through_a_link_that_leaves(run: Run, tmp_path: Path, picture: Path) -> None:
    path = external(tmp_path, "weights.bin")
    (path.parent / "weights.bin").symlink_to(tmp_path / "weights.bin")
    assert_one_error(*explain(run, tmp_path, path, picture), "outside the model's folder")


def test_a_file_and_its_data_that_are_links_into_one_folder(run: Run, tmp_path: Path, picture: Path) -> None:
    """As the cache of Hugging Face keeps them: both are links to files under other names."""
    path = external(tmp_path, "weights.bin")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    path.rename(blobs / "1111")
    (tmp_path / "weights.bin").rename(blobs / "2222")
    path.symlink_to(blobs / "1111")
    (path.parent / "weights.bin").symlink_to(blobs / "2222")
    code, text = explain(run, tmp_path, path, picture)
    assert code == 0, text


def test_a_link_to_a_file_with_its_data_beside_it(run: Run, tmp_path: Path, picture: Path) -> None:
    path = external(tmp_path, "weights.bin")
    (path.parent / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes())
    link = tmp_path / "elsewhere" / "link.onnx"
    link.parent.mkdir()
    link.symlink_to(path)
    code, text = explain(run, tmp_path, link, picture)
    assert code == 0, text


def test_a_link_does_not_open_other_folders(run: Run, tmp_path: Path, picture: Path) -> None:
    path = external(tmp_path, "weights.bin")
    link = tmp_path / "elsewhere" / "link.onnx"
    link.parent.mkdir()
    link.symlink_to(path)
    (link.parent / "weights.bin").symlink_to(tmp_path / "weights.bin")
    assert_one_error(*explain(run, tmp_path, link, picture), "outside the model's folder")


def test_nan_weights(run: Run, tmp_path: Path, picture: Path) -> None:
    proto = convnet(size=16)
    weight = next(t for t in proto.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values.reshape(-1)[3] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    path = tmp_path / "nan.onnx"
    onnx.save(proto, path)
    assert_one_error(*explain(run, tmp_path, path, picture), "NaN", weight.name)


def test_not_a_picture(run: Run, tmp_path: Path, model: Path) -> None:
    path = tmp_path / "text.png"
    path.write_text("no picture")
    assert_one_error(*explain(run, tmp_path, model, path), "text.png", "not a picture")
    assert_one_error(*explain(run, tmp_path, model, tmp_path / "missing.png"), "missing.png")


def test_a_picture_that_lies_about_its_size(run: Run, tmp_path: Path, model: Path) -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    assert_one_error(*explain(run, tmp_path, model, path), "bomb.png", "pixels")


@pytest.mark.parametrize("size", [(1, 1), (20_000, 40), (40, 20_000)])
def test_extreme_sizes_work(run: Run, tmp_path: Path, model: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "extreme.png"
    Image.new("RGB", size, (200, 30, 40)).save(path)
    code, text = explain(run, tmp_path, model, path, "-m", "grad-cam,occlusion")
    assert code == 0, text
    overlay = next((tmp_path / "out").rglob("overlay.png"))
    assert Image.open(overlay).size == size


def test_unknown_label_suggests_the_nearest(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("tabby\ntiger cat\nbull mastiff\n" + "\n".join(f"thing {i}" for i in range(20)))
    code, text = explain(run, tmp_path, model, picture, "--labels", labels, "--target", "tabbi")
    assert_one_error(code, text, "tabby")


def test_impossible_targets(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    assert_one_error(*explain(run, tmp_path, model, picture, "--target", "100000"), "no class 100000")
    assert_one_error(*explain(run, tmp_path, model, picture, "--target", "1 - 1"), "itself")
    assert_one_error(*explain(run, tmp_path, model, picture, "--target", "1 @ 3,3"), "position")
    assert_one_error(*explain(run, tmp_path, model, picture, "--target", "top0"), "top0")


def test_wrong_layer_suggests_the_nearest(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    names = [name for node in onnx.load(model).graph.node for name in node.output]
    code, text = explain(run, tmp_path, model, picture, "--layer", names[2] + "x")
    assert_one_error(code, text, "Did you mean", names[2])


def test_wrong_words(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    assert_one_error(*explain(run, tmp_path, model, picture, "--method", "gradcam"), "grad-cam")
    assert_one_error(*explain(run, tmp_path, model, picture, "-O", "window"), "NAME=VALUE")
    assert_one_error(*explain(run, tmp_path, model, picture, "-m", "occlusion", "-O", "windo=3"), "window")
    assert_one_error(*explain(run, tmp_path, model, picture, "-m", "occlusion", "-O", "window=4", "-O", "stride=9"),
                     "stride")  # fmt: skip
    assert_one_error(*explain(run, tmp_path, model, picture, "--provider", "cudda"), "cuda")
    assert_one_error(*explain(run, tmp_path, model, picture, "--mean", "a,b"), "mean")
    code, text = run("explain", model, picture, "--preprocessing", "imagnet", "--out", tmp_path / "out")
    assert_one_error(code, text, "imagenet")


def test_preprocessing_is_never_guessed(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    code, text = run("explain", model, picture, "--out", tmp_path / "out")
    assert_one_error(code, text, "preprocessing", "does not guess", "imagenet")


def test_out_is_a_file(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    code, text = run("explain", model, picture, "--preprocessing", "unit", "--out", blocked)
    assert_one_error(code, text, "blocked")


def test_one_bad_picture_costs_only_itself(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    second = tmp_path / "second.png"
    Image.open(picture).rotate(90).save(second)
    code, text = explain(run, tmp_path, model, picture, bad, second)
    assert code == 2
    assert "bad.png" in text
    assert "1 of 3 pictures failed" in text
    done = {path.parent.parent.parent.name for path in (tmp_path / "out").rglob("manifest.json")}
    assert done == {"picture", "second"}
    assert (tmp_path / "out" / "index.html").exists()


def test_interrupted_keeps_what_is_finished(
    run: Run, tmp_path: Path, model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxvis.explain_chunk as command

    second = tmp_path / "second.png"
    Image.open(picture).rotate(90).save(second)
    real, calls = command.explain_prepared, []

    def interrupted(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "explain_prepared", interrupted)
    code, text = explain(run, tmp_path, model, picture, second, "--batch-size", 1)
    assert code == 130, text
    assert (tmp_path / "out" / "picture" / "sheet.png").exists()
    assert (tmp_path / "out" / "index.html").exists()
    assert not (tmp_path / "out" / "second").exists()
    assert not list((tmp_path / "out").rglob(".*"))


def test_inspect_and_check_name_the_problem(run: Run, tmp_path: Path, model: Path) -> None:
    assert_one_error(*run("inspect", tmp_path / "nowhere.onnx"), "nowhere.onnx")
    assert_one_error(*run("check", tmp_path / "nowhere.onnx"), "nowhere.onnx")
    code, text = run("inspect", model)
    assert code == 0
    assert "not stated" in text
    code, text = run("check", model, "--json")
    assert code == 0
    assert '"usable": true' in text


def test_a_hostile_label_stays_text(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    labels = tmp_path / "labels.json"
    names = [f'<script>alert({i})</script>/../../x"\x1b[31m{i}' for i in range(64)]
    labels.write_text(json.dumps(names))
    code, text = explain(run, tmp_path, model, picture, "--labels", labels)
    assert code == 0, text
    assert "\x1b[31m" not in text
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<script>alert(" not in page
    assert all(path.is_relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*"))
    assert not list(tmp_path.glob("x*"))


def test_other_settings_do_not_overwrite(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    arguments = ("-m", "occlusion", "-O", "stride=4")
    for window in (8, 6, 8, 6):
        code, text = explain(run, tmp_path, model, picture, *arguments, "-O", f"window={window}")
        assert code == 0, text
    kept = sorted((tmp_path / "out").rglob("manifest.json"))
    assert len(kept) == 2
    assert {json.loads(path.read_text())["parameters"]["window"][0] for path in kept} == {8, 6}


def test_names_that_are_not_text(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    path = tmp_path / "garbled.onnx"
    path.write_bytes(model.read_bytes().replace(b"MaxPool", b"Max\xc8ool"))
    assert_one_error(*explain(run, tmp_path, path, picture), "not text")


def test_an_empty_name_is_not_the_folder_one_stands_in(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    assert_one_error(*explain(run, tmp_path, model, picture, ""), "empty text")


def test_every_error_about_a_picture_names_it(run: Run, tmp_path: Path, model: Path, picture: Path) -> None:
    deep = tmp_path / "deep.tiff"
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(deep)
    code, text = explain(run, tmp_path, model, picture, deep)
    assert code == 2
    assert f"error: {deep}: the picture holds integers" in text
    assert "1 of 2 pictures failed; the others are complete" in text


def test_a_folder_takes_every_format_that_can_be_read_and_tells_of_the_rest(
    run: Run, tmp_path: Path, model: Path, picture: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.ppm", "b.pgm", "c.avif"):
        Image.open(picture).convert("L" if name == "b.pgm" else "RGB").save(folder / name)
    (folder / "._a.ppm").write_bytes(b"what macOS leaves beside a file")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    code, text = explain(run, tmp_path, model, folder)
    assert code == 2
    assert "phone.heic is in a format of the HEIC family" in text
    assert "1 of 4 pictures failed" in text


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can write")
def test_an_output_folder_that_cannot_be_written_to_costs_no_work(
    run: Run, tmp_path: Path, model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxvis.cli.explain.explain_chunk", lambda *_: pytest.fail("it began to work"))
    code, text = run("explain", model, picture, "--preprocessing", "unit", "--out", "/proc")
    assert_one_error(code, text, "cannot write to the folder /proc", "--out")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are text there")
def test_a_file_name_that_is_no_text_can_be_explained_twice(
    run: Run, tmp_path: Path, model: Path, picture: Path
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/cat\xff.png"))
    odd.write_bytes(picture.read_bytes())
    for _ in range(2):
        code, text = explain(run, tmp_path, model, odd)
        assert code == 0, text
    (manifest,) = (tmp_path / "out").rglob("manifest.json")
    assert json.loads(manifest.read_text(encoding="utf-8"))["picture"]["path"] == str(odd)


def test_what_the_terminal_cannot_show_does_not_end_the_run(tmp_path: Path, model: Path, picture: Path) -> None:
    named = tmp_path / "\N{CAT FACE} \u732b.png"
    named.write_bytes(picture.read_bytes())
    settings = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    words = ["explain", model, named, "--preprocessing", "unit", "--out", tmp_path / "out", "-m", "eigen-cam"]
    done = subprocess.run(
        [sys.executable, "-m", "onnxvis", *map(str, words)], env=settings, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"? ?.png" in done.stdout
