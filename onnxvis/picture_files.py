"""Which pictures a command was given: files, and folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxvis.errors import PictureError

__all__ = ["PICTURE_ENDINGS", "picture_files"]

PICTURE_ENDINGS = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def picture_files(given: Sequence[str]) -> list[str]:
    """Files as given; folders become the pictures in them and below, sorted by path.

    Raises:
        PictureError: a folder without pictures.
    """
    found: list[str] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in PICTURE_ENDINGS and p.is_file())
            if not inside:
                raise PictureError(f"the folder {path} holds no pictures ({', '.join(sorted(PICTURE_ENDINGS))}).")
            found += inside
        else:
            found.append(name)
    return found
