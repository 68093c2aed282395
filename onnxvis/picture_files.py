"""Which pictures a command was given: files, and folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxvis.errors import PictureError
from onnxvis.locations import is_container, is_location, list_location, redacted

__all__ = ["PICTURE_ENDINGS", "is_picture_file", "picture_files"]

_ENDINGS = "avif bmp gif heic heif jfif jp2 jpeg jpg pbm pgm png pnm ppm tif tiff webp"
PICTURE_ENDINGS = frozenset(f".{ending}" for ending in _ENDINGS.split())
"""Endings of the files that are taken from a folder; what of them cannot be read is reported, not left out."""


def picture_files(given: Sequence[str]) -> list[str]:
    """Files as given; folders become the pictures in them and below, sorted by path; archives and tables likewise.

    Args:
        given: paths, or URLs (see :mod:`onnxvis.locations`).

    Raises:
        PictureError: a folder without pictures, an empty name.
    """
    found: list[str] = []
    for name in given:
        if not str(name).strip():
            raise PictureError("an empty text names no picture: give a file, a folder or a URL.")
        if is_location(name) or is_container(name):
            inside = [location for location, _ in list_location(name, PICTURE_ENDINGS)]
            if not inside:
                raise PictureError(f"there are no pictures at {redacted(name)} ({', '.join(sorted(PICTURE_ENDINGS))}).")
            found += inside
            continue
        path = Path(name)
        if path.is_dir():
            inside = sorted(str(p) for p in path.rglob("*") if is_picture_file(p))
            if not inside:
                raise PictureError(f"the folder {path} holds no pictures ({', '.join(sorted(PICTURE_ENDINGS))}).")
            found += inside
        else:
            found.append(name)
    return found


def is_picture_file(path: Path) -> bool:
    """A picture by its ending; the twins named ``._x.jpg`` that macOS leaves on foreign disks hold none."""
    return path.suffix.lower() in PICTURE_ENDINGS and not path.name.startswith("._") and path.is_file()
