"""Which pictures a command was given: files, and folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxvis.errors import PictureError
from onnxvis.locations import is_container, is_location, list_location, redacted

__all__ = ["PICTURE_ENDINGS", "picture_files"]

PICTURE_ENDINGS = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def picture_files(given: Sequence[str]) -> list[str]:
    """Files as given; folders become the pictures in them and below, sorted by path; archives and tables likewise.

    Args:
        given: paths, or URLs (see :mod:`onnxvis.locations`).

    Raises:
        PictureError: a folder without pictures.
    """
    found: list[str] = []
    for name in given:
        if is_location(name) or is_container(name):
            inside = [location for location, _ in list_location(name, PICTURE_ENDINGS)]
            if not inside:
                raise PictureError(f"there are no pictures at {redacted(name)} ({', '.join(sorted(PICTURE_ENDINGS))}).")
            found += inside
            continue
        path = Path(name)
        if path.is_dir():
            inside = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in PICTURE_ENDINGS and p.is_file())
            if not inside:
                raise PictureError(f"the folder {path} holds no pictures ({', '.join(sorted(PICTURE_ENDINGS))}).")
            found += inside
        else:
            found.append(name)
    return found
