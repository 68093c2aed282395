"""Pictures: whatever file, bytes, Pillow image or array a user brings, read once into one exact form.

Everything that changed a pixel on the way (orientation, transparency, color space, bit depth) is
written down in :attr:`Picture.notes`; what cannot be read is one :class:`~onnxvis.errors.PictureError`.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnxvis.errors import PictureError
from onnxvis.locations import is_location, location_name, read_location, redacted

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MAX_FILE_BYTES", "MAX_PIXELS", "Picture", "PictureSource", "Pixels", "array_of", "open_picture"]

Pixels: TypeAlias = NDArray[np.uint8 | np.float32]
PictureSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]"

MAX_PIXELS = 500_000_000
"""The largest picture file that is opened: 500 million pixels (width times height)."""

MAX_FILE_BYTES = 2 * 1024**3
"""The largest picture file that is read: 2 GiB."""

# Pillow's size limit and Python's warning filters are process-wide: whoever changes them takes turns.
_PILLOW_STATE = threading.Lock()
_PROGRAM_FORMATS = frozenset({"EPS", "WMF"})
# What a PNG or WebP file holds where Pillow may still warn after its header: an animation, or EXIF in any form.
_TOLD_LATE = (b"acTL", b"eXIf", b"EXIF", b"Raw profile")


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture, upright, as an array.

    Attributes:
        pixels: ``(H, W, C)``, read-only. ``uint8`` when the source has 8 bits a sample or fewer; otherwise
            ``float32`` on the same 0..255 scale, so a 16-bit sample of 65535 is 255.0 and nothing is rounded.
            C is 1 for grayscale, 3 for color (red, green, blue), anything for an array.
        name: the file name, ``"<array>"``, ``"<bytes>"`` or ``"<image>"``.
        path: the path as it was given, or None when the picture is no file.
        sha256: of the file's bytes; for an array or Pillow image of its dtype, shape and samples.
        notes: one sentence for each thing that was done between the source and ``pixels``.
    """

    pixels: Pixels
    name: str
    path: str | None
    sha256: str
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, after the EXIF orientation."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[0])

    @property
    def channels(self) -> int:
        """Number of channels, C."""
        return int(self.pixels.shape[2])

    def rgb(self) -> NDArray[np.uint8]:
        """``(H, W, 3) uint8`` for drawing.

        One or two channels are drawn as gray (the first), more than three as their first three.
        """
        channels = self.pixels[..., :3] if self.channels >= 3 else np.repeat(self.pixels[..., :1], 3, axis=2)
        return _to_uint8(channels)

    def thumbnail(self, longest: int = 256) -> NDArray[np.uint8]:
        """``(h, w, 3) uint8`` with ``max(h, w) <= longest``, aspect ratio kept, never enlarged."""
        from PIL import Image

        width, height = self.size
        factor = min(1.0, longest / max(width, height))
        if factor == 1.0:
            return self.rgb()
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        small = Image.fromarray(self.rgb()).resize(size, Image.Resampling.BOX)
        return np.asarray(small, dtype=np.uint8)


def array_of(source: Any) -> Any:
    """The numpy array that a tensor of torch or another library holds; anything else as it is.

    Raises:
        PictureError: it cannot be read from here, such as a tensor on a GPU or one that requires a gradient.
    """
    if isinstance(source, np.ndarray) or not hasattr(source, "__array__"):
        return source
    try:
        return np.asarray(source)
    except (TypeError, RuntimeError, ValueError) as error:
        raise PictureError(f"a {type(source).__name__} cannot be read as an array: {error}") from error


def open_picture(source: PictureSource) -> Picture:
    """Read a picture from a file, a URL, the bytes of a file, a Pillow image or an array.

    Files may be anything Pillow reads (JPEG, PNG, WebP, GIF, TIFF, BMP, ...). EXIF orientation is
    applied; transparency is composited on white; palettes are expanded; other color spaces become RGB.
    Arrays are ``(H, W)`` or ``(H, W, C)`` with any C: uint8 as it is, bool as 0/255, uint16 divided by
    257, other integers when they lie in 0..255, floats when they lie in 0..1 (multiplied by 255) or 0..255.

    Raises:
        PictureError: the file is missing, no picture, damaged, or larger than :data:`MAX_PIXELS`; the
            array is empty, not finite, or of a shape or range that is no picture.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_bytes(bytes(source), "<bytes>", None)
    if isinstance(source, str) and is_location(source):
        data = read_location(source, MAX_FILE_BYTES)
        return _from_bytes(data, location_name(source), redacted(source))
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        return _from_bytes(_read_file(path), path.name, os.fspath(path))
    from PIL import Image

    if isinstance(source, Image.Image):
        return _from_image(source)
    raise PictureError(
        f"a {type(source).__name__} is not a picture: give a path, the bytes of a file, a Pillow image "
        "or an array of shape (H, W) or (H, W, C)."
    )


def _to_uint8(values: Pixels) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values, dtype=np.uint8)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _finish(pixels: Pixels, name: str, path: str | None, sha256: str, notes: list[str]) -> Picture:
    channels = pixels.shape[2]
    if channels not in (1, 3):
        shown = "the first three" if channels > 3 else "the first, as gray"
        notes = [*notes, f"{channels} channels: drawings show {shown}"]
    pixels = np.ascontiguousarray(pixels)
    pixels.setflags(write=False)
    return Picture(pixels, name, path, sha256, tuple(notes))


# --- files -------------------------------------------------------------------------------------


def _read_file(path: Path) -> bytes:
    """The bytes of a regular file of bearable size."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PictureError(f"{path} is a folder, not a picture: name one file in it.")
        if not stat.S_ISREG(status.st_mode):
            raise PictureError(f"{path} is a device or pipe, not a file: read it and pass its bytes instead.")
        if status.st_size > MAX_FILE_BYTES:
            raise PictureError(
                f"{path} has {status.st_size:,} bytes, more than the {MAX_FILE_BYTES:,} that are read: "
                "crop it or make it smaller first."
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise PictureError(f"there is no picture {path}.{_near_files(path)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PictureError(f"{path} cannot be read ({reason}): check the path and its permissions.") from error


def _near_files(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" The folder {folder} does not exist either."
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return f" Beside it there is {' and '.join(near)}." if near else " Check the path."


def _from_bytes(data: bytes, name: str, path: str | None) -> Picture:
    if not data:
        raise PictureError(f"{name} is empty (0 bytes): it is not a picture.")
    notes: list[str] = []
    heard: list[str] = []
    pixels = _decode(data, name, notes, heard)
    notes += [f"Pillow warned: {message}" for message in dict.fromkeys(heard) if message]
    return _finish(pixels, name, path, hashlib.sha256(data).hexdigest(), notes)


@contextlib.contextmanager
def _pillow_state(heard: list[str]) -> Iterator[None]:
    """Our size limit in place of Pillow's, and what Pillow warns of; one thread at a time."""
    from PIL import Image

    with _PILLOW_STATE, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
            heard += [str(item.message).strip().rstrip(".") for item in told]


def _decode(data: bytes, name: str, notes: list[str], heard: list[str]) -> Pixels:
    """Open, check and convert. The samples of the usual formats are decoded by many threads at once."""
    from PIL import Image, UnidentifiedImageError

    try:
        with contextlib.ExitStack() as turn:
            turn.enter_context(_pillow_state(heard))
            with Image.open(io.BytesIO(data)) as image:
                _check_header(image, name)
                if _settled(image, data):
                    turn.close()
                return _convert(image, notes)
    except PictureError:
        raise
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp":
            raise PictureError(
                f"{name} is in a format of the HEIC family, or a video: Pillow does not read it by itself. Save it as "
                "JPEG or PNG."
            ) from None
        raise PictureError(
            f"{name} is not a picture that Pillow can read (its first bytes are {data[:8]!r}): "
            "give a JPEG, PNG, WebP, GIF, BMP or TIFF file, or pass an array."
        ) from None
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from None
    except MemoryError:
        raise PictureError(f"{name} does not fit into memory: crop it or make it smaller first.") from None
    except Exception as error:  # a damaged file makes the decoders raise almost anything
        raise PictureError(
            f"{name} is damaged or cut short and cannot be decoded ({type(error).__name__}: {error}): "
            "get the file again or save it anew."
        ) from error


def _settled(image: Image.Image, data: bytes) -> bool:
    """Whether Pillow needs nothing that is process-wide from here on: it checks no size and has nothing to warn of."""
    if image.format == "JPEG":
        _orientation(image)  # parses EXIF, where Pillow warns; it is kept
        return True
    return image.format in {"PNG", "WEBP"} and not any(mark in data for mark in _TOLD_LATE)


def _too_large(name: str, size: str) -> PictureError:
    return PictureError(
        f"{name} claims to be larger than the {MAX_PIXELS:,} pixels that are opened ({size}): "
        "crop it or make it smaller first."
    )


def _check_header(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} x {height}")
    if width < 1 or height < 1:
        raise PictureError(f"{name} has no pixels ({width} x {height}).")
    if image.format in _PROGRAM_FORMATS:
        raise PictureError(
            f"{name} is {image.format}, a drawing program and not pixels, which is not run: save it as PNG."
        )


def _convert(image: Image.Image, notes: list[str]) -> Pixels:
    """Load the first frame and turn it into upright gray or RGB samples."""
    _note_header(image, notes)
    before = _orientation(image)
    image.load()
    after = _orientation(image)  # Pillow turns TIFF files itself while loading, and resets the tag
    if before != 1:
        notes.append(f"EXIF orientation {before} applied")
    return _upright(_samples(image, notes), after)


def _note_header(image: Image.Image, notes: list[str]) -> None:
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1:
        notes.append(f"first of {frames} frames")
    if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) and image.mode in {
        "RGB",
        "RGBA",
        "LA",
    }:
        notes.append("16-bit color samples reduced to their high 8 bits (Pillow reads no more)")
    if image.info.get("icc_profile"):
        notes.append("embedded color profile not applied")


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(0x0112, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (TIFF 6.0, tag 274): rows and columns swapped for 5..8, then mirrored."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


# --- samples -----------------------------------------------------------------------------------


def _samples(image: Image.Image, notes: list[str]) -> Pixels:
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _deep_samples(np.asarray(image), notes)
    if mode == "P":
        notes.append("palette expanded")
    elif mode not in {"1", "L", "LA", "La", "PA", "RGB", "RGBA", "RGBa", "RGBX"}:
        notes.append(f"{mode} converted to RGB")
    gray = mode in {"1", "L", "LA", "La"}
    if not image.has_transparency_data:
        wanted = "L" if gray else "RGB"
        return _with_channels(np.asarray(image if mode == wanted else image.convert(wanted), dtype=np.uint8))
    # Pillow turns premultiplied modes only into their own plain form.
    plain = {"La": "LA", "RGBa": "RGBA"}.get(mode)
    image = image.convert(plain) if plain else image
    samples = np.asarray(image.convert("LA" if gray else "RGBA"), dtype=np.uint8)
    return _on_white(samples[..., :-1], samples[..., -1:], notes)


def _on_white(color: NDArray[np.uint8], alpha: NDArray[np.uint8], notes: list[str]) -> NDArray[np.uint8]:
    if int(alpha.min()) == 255:
        notes.append("opaque alpha channel dropped")
        return color
    notes.append("transparent pixels composited on white")
    weight = alpha.astype(np.uint32)
    mixed = (color * weight + 255 * (255 - weight) + 127) // 255
    return mixed.astype(np.uint8)


def _deep_samples(values: NDArray[Any], notes: list[str], where: str = "the picture") -> Pixels:
    """Samples of more than 8 bits, or floats, as float32 on the 0..255 scale."""
    low, high = _extent(values, where)
    if np.issubdtype(values.dtype, np.integer):
        if low < 0 or high > 65535:
            raise PictureError(
                f"{where} holds integers from {low:g} to {high:g}; what is white is not known: "
                "scale it to 8 or 16 bits first."
            )
        notes.append("16-bit samples divided by 257")
        return _with_channels(values.astype(np.float32) / np.float32(257))
    if low < 0 or high > 255:
        raise PictureError(
            f"{where} holds floats from {low:g} to {high:g}; a picture has 0..1 or 0..255: scale it first."
        )
    if high <= 1:
        notes.append("float samples in 0..1 multiplied by 255")
        return _with_channels(values.astype(np.float32) * np.float32(255))
    notes.append("float samples in 0..255 taken as they are")
    return _with_channels(values.astype(np.float32))


def _extent(values: NDArray[Any], where: str) -> tuple[float, float]:
    if not np.isfinite(values).all():
        raise PictureError(f"{where} holds NaN or infinite values: replace them first.")
    return float(values.min()), float(values.max())


def _with_channels(samples: NDArray[Any]) -> NDArray[Any]:
    return samples[..., np.newaxis] if samples.ndim == 2 else samples


# --- arrays and Pillow images ------------------------------------------------------------------


def _from_array(array: NDArray[Any]) -> Picture:
    if array.ndim not in (2, 3):
        raise PictureError(
            f"an array of shape {array.shape} is not a picture: it must be (height, width) or "
            "(height, width, channels). A batch goes one picture at a time."
        )
    if array.size == 0:
        raise PictureError(f"an array of shape {array.shape} has no pixels.")
    notes: list[str] = []
    pixels = _array_samples(array, notes)
    if pixels is array or np.shares_memory(pixels, array):
        pixels = pixels.copy()
    return _finish(pixels, "<array>", None, array_sha256(array), notes)


def _array_samples(array: NDArray[Any], notes: list[str]) -> Pixels:
    if array.dtype == np.uint8:
        return _with_channels(array)
    if array.dtype == np.bool_:
        notes.append("booleans drawn as 0 and 255")
        return _with_channels(array.astype(np.uint8) * np.uint8(255))
    if np.issubdtype(array.dtype, np.floating) or array.dtype == np.uint16:
        return _deep_samples(array, notes, "the array")
    if np.issubdtype(array.dtype, np.integer):
        low, high = _extent(array, "the array")
        if low >= 0 and high <= 255:
            notes.append(f"{array.dtype} samples in 0..255 taken as 8 bits")
            return _with_channels(array.astype(np.uint8))
        return _deep_samples(array, notes, "the array")
    raise PictureError(f"an array of {array.dtype} is not a picture: use uint8, uint16 or float32.")


def array_sha256(array: NDArray[Any]) -> str:
    """SHA-256 of dtype, shape and samples, so that a reshaped array is another array."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _from_image(image: Image.Image) -> Picture:
    named = str(getattr(image, "filename", "") or "")
    name = Path(named).name or "<image>"
    if image.width < 1 or image.height < 1:
        raise PictureError(f"{name} has no pixels ({image.width} x {image.height}).")
    notes: list[str] = []
    try:
        pixels = _convert(image, notes)
    except PictureError:
        raise
    except Exception as error:  # a lazily opened file is decoded here, and may be damaged
        raise PictureError(
            f"{name} cannot be decoded ({type(error).__name__}: {error}): get the file again or save it anew."
        ) from error
    return _finish(pixels, name, None, array_sha256(np.asarray(image)), notes)
