"""PNG files that say what they are."""

from __future__ import annotations

import base64
import io

from PIL import Image
from PIL.PngImagePlugin import PngInfo

__all__ = ["data_uri", "png_bytes"]


def png_bytes(image: Image.Image, **text: str) -> bytes:
    """Encode a picture as PNG.

    Args:
        image: any mode that PNG knows.
        text: entries for the file's text fields (tEXt, or iTXt where Latin-1 does not suffice), for example
            ``Title="..."``, ``Software="onnxvis 0.1"``. They are written before the picture's data.
    """
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info, compress_level=6)
    return buffer.getvalue()


def data_uri(image: Image.Image) -> str:
    """The picture as a ``data:image/png;base64,`` address for an HTML page that stands alone."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode("ascii")
