"""What a file is, from its first bytes and never from its name."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["FORMATS", "HEAD_BYTES", "IMAGE_SUFFIXES", "Content", "sniff"]

HEAD_BYTES = 1024
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
IMAGE_SUFFIXES = {
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    ".webp": "WEBP",
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    ".gif": "GIF",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), "PPM"),
    **dict.fromkeys(
        (".svg", ".eps", ".ico", ".psd", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".tga", ".fits", ".exr"), ""
    ),
}


@dataclass(frozen=True)
class Content:
    """``format`` is Pillow's name of a format that is decoded here, else empty; ``words`` says what it is.

    ``raster`` is true for every pixel format, decoded here or not.
    """

    format: str
    words: str
    raster: bool = False


_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_OTHERS: tuple[tuple[re.Pattern[bytes], Content], ...] = (
    (re.compile(rb"....ftyp(avif|avis)", re.S), Content("", "AVIF image, a format not in the list", True)),
    (re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.S), Content("", "HEIC image, a format not in the list", True)),
    (re.compile(rb"\x00\x00\x01\x00[^\x00]\x00", re.S), Content("", "ICO image, a format not in the list", True)),
    (re.compile(rb"8BPS"), Content("", "PSD image, a format not in the list", True)),
    (re.compile(rb"SIMPLE  ="), Content("", "FITS image, a format not in the list", True)),
    (
        re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"),
        Content("", "JPEG 2000 image, a format not in the list", True),
    ),
    (re.compile(rb"\x00\x00\x00\x0cJXL |\xff\x0a"), Content("", "JPEG XL image, a format not in the list", True)),
    (re.compile(rb"\x76\x2f\x31\x01"), Content("", "OpenEXR image, a format not in the list", True)),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), Content("", "PostScript, not an image")),
    (re.compile(rb"%PDF"), Content("", "PDF document, not an image")),
    (re.compile(rb"PK\x03\x04|PK\x05\x06"), Content("", "zip archive, not an image")),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd"), Content("", "compressed file, not an image")),
    (re.compile(rb"\x93NUMPY"), Content("NPY", "NumPy array")),
    (re.compile(rb"\x89HDF"), Content("", "HDF5 file, not an image")),
    (re.compile(rb"version https://git-lfs"), Content("", "Git LFS pointer; run git lfs pull")),
    (re.compile(rb"(\xef\xbb\xbf)?\s*(<\?xml.*)?(<!--.*)?<svg", re.S | re.I), Content("", "SVG, a vector format")),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*(<!--.*)?<(!doctype\s+html|html|head|body)", re.S | re.I),
        Content("", "HTML page, not an image"),
    ),
)
_PPM = re.compile(rb"P([1-6]\s+(#[^\n]*\n\s*)*\d+\s+(#[^\n]*\n\s*)*\d+\s|f\s+\d+\s+\d+\s)")


def sniff(head: bytes) -> Content:
    """What the file that starts with ``head`` (its first 1024 bytes, or all of it) is."""
    found = _decodable(head)
    if found:
        return Content(found, f"{found} image", True)
    if not head:
        return Content("", "empty file")
    for pattern, content in _OTHERS:
        if pattern.match(head):
            return content
    if not head.strip(b"\0"):
        return Content("", "only zero bytes, not an image")
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return Content("", "text, not an image")
    return Content("", f"not an image (starts with {head[:4].hex(' ')})")


def _decodable(head: bytes) -> str:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head[:2] == b"BM" and len(head) >= 18 and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return "PPM" if _PPM.match(head) else ""
