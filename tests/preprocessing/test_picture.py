"""Every kind of picture is either read right, with a note for each change, or refused with one error."""

from __future__ import annotations

import hashlib
import io
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from onnxvis.errors import PictureError
from onnxvis.picture import MAX_PIXELS, open_picture

RNG = np.random.default_rng(7)
COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    """A PNG written chunk by chunk, so that its header can say anything."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_file_is_read_exactly(tmp_path):
    path = tmp_path / "é ünï.png"
    path.write_bytes(encoded(Image.fromarray(COLOR)))
    picture = open_picture(path)
    np.testing.assert_array_equal(picture.pixels, COLOR)
    np.testing.assert_array_equal(picture.rgb(), COLOR)
    assert (picture.size, picture.name, picture.path) == ((7, 5), "é ünï.png", str(path))
    assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert picture.notes == ()
    with pytest.raises(ValueError, match="read-only"):
        picture.pixels[0, 0] = 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_pillows(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(COLOR), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    picture = open_picture(data)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.size == ((7, 5) if orientation <= 4 else (5, 7))
    noted = (f"EXIF orientation {orientation} applied",) if orientation > 1 else ()
    assert picture.notes == noted
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(open_picture(image).pixels, expected)


def test_gray_modes():
    for picture in (open_picture(encoded(Image.fromarray(GRAY))), open_picture(GRAY)):
        np.testing.assert_array_equal(picture.pixels[..., 0], GRAY)
        np.testing.assert_array_equal(picture.rgb(), np.repeat(GRAY[..., None], 3, 2))
    bits = Image.fromarray(GRAY > 100)
    np.testing.assert_array_equal(open_picture(encoded(bits)).pixels[..., 0], (GRAY > 100) * 255)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_goes_onto_white(mode):
    color = GRAY[..., None] if mode == "LA" else COLOR
    alpha = RNG.integers(0, 256, (5, 7, 1), dtype=np.uint8)
    alpha[0, :2, 0] = (0, 255)
    picture = open_picture(encoded(Image.fromarray(np.concatenate([color, alpha], 2), mode)))
    a = alpha / 255.0
    np.testing.assert_allclose(picture.pixels, color * a + 255 * (1 - a), atol=0.5001)
    assert (picture.pixels[0, 0] == 255).all()
    np.testing.assert_array_equal(picture.pixels[0, 1], color[0, 1])
    assert picture.notes == ("transparent pixels composited on white",)
    opaque = np.concatenate([color, np.full((5, 7, 1), 255, np.uint8)], 2)
    picture = open_picture(encoded(Image.fromarray(opaque, mode)))
    np.testing.assert_array_equal(picture.pixels, color)
    assert picture.notes == ("opaque alpha channel dropped",)


def test_palettes_and_their_transparency():
    image = Image.fromarray(COLOR).quantize(16)
    picture = open_picture(encoded(image, "PNG"))
    np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))
    assert picture.notes == ("palette expanded",)
    picture = open_picture(encoded(image, "PNG", transparency=bytes([0] * 8 + [255] * 8)))
    hidden = np.asarray(image) < 8
    assert (picture.pixels[hidden] == 255).all()
    np.testing.assert_array_equal(picture.pixels[~hidden], np.asarray(image.convert("RGB"))[~hidden])
    assert "transparent pixels composited on white" in picture.notes


def test_other_color_spaces_are_converted_and_said():
    cmyk = Image.fromarray(COLOR).convert("CMYK")
    picture = open_picture(encoded(cmyk, "TIFF"))
    np.testing.assert_array_equal(picture.pixels, np.asarray(cmyk.convert("RGB")))
    assert picture.notes == ("CMYK converted to RGB",)
    assert open_picture(encoded(cmyk, "JPEG")).notes == ("CMYK converted to RGB",)
    assert open_picture(Image.fromarray(COLOR).convert("HSV")).notes == ("HSV converted to RGB",)


def test_sixteen_bits_keep_their_precision():
    deep = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    for source in (
        png(7, 5, 16, 0, raw),
        deep,
        Image.fromarray(deep),
        encoded(Image.fromarray(deep), "TIFF"),
    ):
        picture = open_picture(source)
        assert picture.pixels.dtype == np.float32
        np.testing.assert_allclose(picture.pixels[..., 0], deep / 257.0, rtol=1e-6)
        assert "16-bit samples divided by 257" in picture.notes


def test_sixteen_bit_color_says_what_pillow_drops():
    deep = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    picture = open_picture(png(7, 5, 16, 2, raw))
    np.testing.assert_array_equal(picture.pixels, deep >> 8)
    assert picture.notes == ("16-bit color samples reduced to their high 8 bits (Pillow reads no more)",)
    np.testing.assert_allclose(open_picture(deep).pixels, deep / 257.0, rtol=1e-6)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_animations_give_their_first_frame(kind):
    frames = [Image.new("RGB", (6, 4), c) for c in ("red", "lime", "blue")]
    data = encoded(
        frames[0],
        kind,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if kind == "WEBP" else {}),
    )
    picture = open_picture(data)
    np.testing.assert_array_equal(picture.pixels, np.full((4, 6, 3), (255, 0, 0)))
    assert "first of 3 frames" in picture.notes


def test_arrays_of_any_number_of_channels():
    many = RNG.integers(0, 256, (4, 6, 13), dtype=np.uint8)
    picture = open_picture(many)
    np.testing.assert_array_equal(picture.pixels, many)
    np.testing.assert_array_equal(picture.rgb(), many[..., :3])
    assert "13 channels: drawings show the first three" in picture.notes
    many[0, 0, 0] ^= 255
    assert picture.pixels[0, 0, 0] != many[0, 0, 0]
    np.testing.assert_array_equal(open_picture(many[..., :2]).rgb()[..., 2], many[..., 0])
    assert open_picture(many).sha256 != open_picture(many.reshape(6, 4, 13)).sha256


def test_arrays_of_other_types():
    half = np.array([[0.0, 0.5, 1.0]])
    np.testing.assert_allclose(open_picture(half).pixels[0, :, 0], [0, 127.5, 255])
    np.testing.assert_array_equal(open_picture(half).rgb()[0, :, 0], [0, 128, 255])
    assert open_picture(half).notes == ("float samples in 0..1 multiplied by 255",)
    np.testing.assert_allclose(open_picture(half * 200).pixels[0, :, 0], [0, 100, 200])
    np.testing.assert_array_equal(open_picture(np.array([[3, 200]])).pixels[0, :, 0], [3, 200])
    np.testing.assert_array_equal(open_picture(np.array([[True, False]])).pixels[0, :, 0], [255, 0])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros(4, np.uint8), "is not a picture"),
        (np.zeros((1, 3, 4, 4), np.uint8), "one picture at a time"),
        (np.full((2, 2), np.nan), "NaN or infinite"),
        (np.full((2, 2), np.inf, np.float32), "NaN or infinite"),
        (np.full((2, 2), -0.5), "0..1 or 0..255"),
        (np.full((2, 2), 70000), "what is white is not known"),
        (np.full((2, 2), "a"), "use uint8"),
        (np.zeros((2, 2), complex), "use uint8"),
    ],
)
def test_arrays_that_are_no_picture(array, words):
    with pytest.raises(PictureError, match=words):
        open_picture(array)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"%PDF-1.7 not a picture", "not a picture that Pillow can read"),
        (encoded(Image.fromarray(COLOR))[:60], "damaged or cut short"),
        (encoded(Image.new("RGB", (300, 300), "red"), "JPEG")[:700], "damaged or cut short"),
        (encoded(Image.new("RGB", (300, 300), "red"), "WEBP")[:60], "damaged|not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "save it as PNG|damaged"),
        (png(30000, 30000, 8, 2, b"\0" * 100), "larger than the 500,000,000 pixels"),
        (png(2**31 - 1, 2**31 - 1, 8, 2, b""), "larger than the 500,000,000 pixels"),
        (png(5000, 4000, 8, 2, b"\0" * 100), "damaged or cut short"),
        (png(0, 9, 8, 2, b""), "no pixels|damaged|not a picture"),
    ],
)
def test_files_that_are_no_picture(data, words, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    with pytest.raises(PictureError, match=words) as caught:
        open_picture(path)
    assert "broken.png" in str(caught.value)


def test_a_large_picture_passes_without_pillows_warning():
    before = Image.MAX_IMAGE_PIXELS
    row = b"\0" + b"\0" * 1250
    picture = open_picture(png(10_000, 9_500, 1, 0, row * 9_500))
    assert picture.size == (10_000, 9_500)
    assert picture.size[0] * picture.size[1] > (before or 0)
    assert before == Image.MAX_IMAGE_PIXELS
    assert MAX_PIXELS == 500_000_000


def with_false_exif(data: bytes) -> bytes:
    """A JPEG with an EXIF segment of one entry that lies beyond its end."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 1, 0x010F, 2, 400, 5000) + b"\0\0\0\0"
    return data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + data[2:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_threads_decode_at_the_same_time(kind, monkeypatch):
    both = threading.Barrier(2)
    load = ImageFile.ImageFile.load

    def together(image):
        both.wait(timeout=20)  # breaks where one waits for the other to finish
        return load(image)

    data = encoded(Image.fromarray(COLOR), kind)
    expected = open_picture(data).pixels
    monkeypatch.setattr(ImageFile.ImageFile, "load", together)
    with ThreadPoolExecutor(2) as pool:
        for picture in pool.map(open_picture, [data, data]):
            np.testing.assert_array_equal(picture.pixels, expected)


def test_threads_keep_their_notes_and_leave_pillow_alone(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 17)
    filters = list(warnings.filters)
    plain = encoded(Image.fromarray(COLOR), "JPEG")
    turned = encoded(Image.fromarray(COLOR).quantize(16), "GIF", transparency=3)
    hostile = png(30000, 30000, 8, 2, b"\0" * 100)
    alone = [open_picture(data).notes for data in (plain, with_false_exif(plain), turned)]
    assert alone[0] == ()
    assert any(note.startswith("Pillow warned: ") for note in alone[1])

    def notes(data: bytes) -> tuple[str, ...]:
        try:
            return open_picture(data).notes
        except PictureError as error:
            return (str(error)[:30],)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(notes, [plain, with_false_exif(plain), turned, hostile] * 25))
    assert found == [*alone, ("<bytes> claims to be larger th",)] * 25
    assert Image.MAX_IMAGE_PIXELS == 17
    assert list(warnings.filters) == filters


def test_missing_files_and_folders(tmp_path):
    (tmp_path / "chelsea.png").write_bytes(b"x")
    with pytest.raises(PictureError, match=r"Beside it there is chelsea\.png"):
        open_picture(tmp_path / "chelse.png")
    with pytest.raises(PictureError, match="folder"):
        open_picture(tmp_path)
    with pytest.raises(PictureError, match="does not exist either"):
        open_picture(tmp_path / "no" / "x.png")
    with pytest.raises(PictureError, match="cannot be read"):
        open_picture("a\0b.png")
    with pytest.raises(PictureError, match="a int is not a picture"):
        open_picture(3)  # type: ignore[arg-type]
    with pytest.raises(PictureError, match="device or pipe"):
        open_picture("/dev/null")


def test_thumbnails():
    flat = open_picture(np.full((400, 1000, 3), (10, 20, 30), np.uint8))
    small = flat.thumbnail(100)
    assert small.shape == (40, 100, 3)
    np.testing.assert_array_equal(small[7, 9], (10, 20, 30))
    assert open_picture(COLOR).thumbnail().shape == COLOR.shape
    assert open_picture(np.zeros((1, 20_000), np.uint8)).thumbnail(64).shape == (1, 64, 3)
