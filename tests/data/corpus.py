"""Everything that goes wrong with images, made on the spot: cases 1 to 55 of the corpus of bad inputs.

A :class:`Case` is a file (A: ``content``) or a whole place (B: ``build``). ``code`` and ``words`` are what
``alphabar data check`` must say of it when it is half of the set: 3 with the words on stderr, or 0 with the words in
the report.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from data.pictures import encode, grey, png_chunks, rgb, write

__all__ = ["FILES", "PLACES", "SIDE", "Case", "good", "stored", "tarred", "zipped"]

SIDE = 32


@dataclass(frozen=True)
class Case:
    number: str
    name: str
    code: int
    words: str
    content: Callable[[], bytes] = bytes
    build: Callable[[Path], Path] = Path
    settings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return self.number


def good(n: int) -> bytes:
    """A good image, every ``n`` another."""
    return encode(rgb(n, SIDE, SIDE))


def header(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    return struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def giant(width: int, height: int, rows: bytes = b"") -> bytes:
    return png_chunks((b"IHDR", header(width, height, 1)), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))


def wrong_crc() -> bytes:
    data = bytearray(good(1))
    data[data.index(b"IDAT") + 8] ^= 1
    return bytes(data)


def text_bomb() -> bytes:
    bomb = b"key\0\0" + zlib.compress(bytes(20_000_000), 9)
    pixels = zlib.compress(bytes((SIDE + 1) * SIDE))
    return png_chunks((b"IHDR", header(SIDE, SIDE)), (b"zTXt", bomb), (b"IDAT", pixels), (b"IEND", b""))


def palette() -> bytes:
    image = Image.fromarray(rgb(0, SIDE, SIDE)).quantize(16)
    return encode(image, transparency=3)


def hidden_colours() -> bytes:
    return encode(np.dstack([rgb(0, SIDE, SIDE), np.zeros((SIDE, SIDE), np.uint8)]))


def frames(kind: str) -> bytes:
    first, second = (Image.fromarray(rgb(n, SIDE, SIDE)) for n in (1, 2))
    return encode(first, kind, save_all=True, append_images=[second])


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(rgb(3, SIDE, SIDE), "JPEG", exif=exif)


FILES = [
    Case("1", "a.png", 3, "empty file"),
    Case("2", "a.jpg", 3, "truncated image", lambda: encode(rgb(0, SIDE, SIDE), "JPEG")[:900]),
    Case("3", "a.png", 3, "truncated image (at least", lambda: good(0)[:1500]),
    Case("4", "a.png", 3, "damaged image data (checksum of chunk 'IDAT' is wrong)", wrong_crc),
    Case("5", "a.jpg", 3, "text, not an image", lambda: b"some words"),
    Case("6", "a.jpg", 3, "HTML page, not an image", lambda: b"<!DOCTYPE html><h1>404</h1>"),
    Case("7", "a.png", 3, "Git LFS pointer; run git lfs pull", lambda: b"version https://git-lfs.github.com/spec/v1\n"),
    Case("8", "a.png", 0, "1 image under the extension of another", lambda: encode(rgb(0, SIDE, SIDE), "JPEG")),
    Case("9", "a.png", 3, "900 Mpixel exceeds the limit of 64", lambda: giant(30_000, 30_000, bytes(112_530_000))),
    Case("10", "a.png", 3, "10000 Mpixel exceeds the limit of 64", lambda: giant(100_000, 100_000)),
    Case("11", "a.png", 3, "damaged image", lambda: giant(0, 10)),
    Case("12", "a.png", 3, "damaged image data", text_bomb),
    Case("13", "a.png", 3, "1x1 is smaller than 32x32", lambda: encode(rgb(0, 1, 1)), settings=["data.size=32"]),
    Case("14", "a.png", 0, "1 image with uint16 values", lambda: encode(grey(0, SIDE, SIDE).astype(np.uint16) * 257)),
    Case(
        "15",
        "a.tif",
        3,
        "mode F, float32 values from -2 to 3 have no known range; say which are black and white, such as "
        "data.value_range=[-2,3]",
        lambda: encode(np.linspace(-2, 3, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE), "TIFF"),
    ),
    Case(
        "16",
        "a.jpg",
        0,
        "1 image in CMYK converted to RGB",
        lambda: encode(Image.new("CMYK", (SIDE, SIDE), (9, 99, 0, 0)), "JPEG"),
    ),
    Case("17", "a.png", 0, "1 image with transparency composited on white", palette),
    Case("18", "a.png", 0, "1 image of one single value", hidden_colours),
    Case("19", "a.gif", 0, "1 image with several frames, only the first used", lambda: frames("GIF")),
    Case("19b", "a.webp", 0, "1 image with several frames, only the first used", lambda: frames("WEBP")),
    Case("20", "a.tif", 0, "1 image with several frames, only the first used", lambda: frames("TIFF")),
    Case("21", "a.jpg", 0, "1 image turned upright", turned),
    Case("22", "a.jpg", 0, "2 images of 3 x", lambda: encode(rgb(0, SIDE, SIDE), "JPEG", exif=b"Exif\0\0garbage")),
    Case("23", "a.svg", 3, "SVG, a vector format", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    Case("24", "a.eps", 3, "PostScript, not an image", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    Case("25", "a.ico", 3, "ICO image, a format not in the list", lambda: b"\0\0\1\0\1\0\x10\x10"),
    Case("25b", "a.fits", 3, "FITS image, a format not in the list", lambda: b"SIMPLE  =                    T"),
    Case("25c", "a.psd", 3, "PSD image, a format not in the list", lambda: b"8BPS\0\1"),
    Case("26", "a.avif", 3, "AVIF image, a format not in the list", lambda: b"\0\0\0\x20ftypavif"),
    Case("26b", "a.heic", 3, "HEIC image, a format not in the list", lambda: b"\0\0\0\x20ftypheic"),
    Case("27", "a.png", 0, "constant     a.png", lambda: encode(np.zeros((SIDE, SIDE, 3), np.uint8))),
    Case("28", "a.png", 0, "1 image in grey converted to RGB", lambda: encode(grey(0, SIDE, SIDE))),
    Case("29", "a.jpg", 0, "2 images of 3 x", lambda: encode(rgb(0, SIDE, SIDE), "JPEG", progressive=True, quality=90)),
]


def folder(root: Path, *names: str) -> Path:
    """A folder of good images."""
    for n, name in enumerate(names):
        write(root / name, good(n))
    return root


def made(change: Callable[[Path], object], *names: str) -> Callable[[Path], Path]:
    """A folder of good images to which something is done."""

    def build(root: Path) -> Path:
        folder(root / "set", *names)
        (root / "set").mkdir(exist_ok=True)
        change(root / "set")
        return root / "set"

    return build


def socket_at(place: Path) -> None:
    before = os.getcwd()
    os.chdir(place)  # socket paths are short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s.png")
    finally:
        os.chdir(before)


def named(*names: bytes) -> Callable[[Path], Path]:
    def build(root: Path) -> Path:
        for n, name in enumerate(names):
            path = os.path.join(os.fsencode(root), b"set", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(good(n) if n else b"text")
        return root / "set"

    return build


def zipped(*members: tuple[str, bytes], name: str = "a.zip") -> Callable[[Path], Path]:
    def build(root: Path) -> Path:
        with zipfile.ZipFile(root / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in members:
                archive.writestr(member, data)
        return root / name

    return build


def tarred(*members: tuple[str, bytes | str]) -> Callable[[Path], Path]:
    """A tar; text instead of bytes is the target of a link."""

    def build(root: Path) -> Path:
        with tarfile.open(root / "a.tar", "w") as archive:
            for name, data in members:
                info = tarfile.TarInfo(name)
                if isinstance(data, str):
                    info.type, info.linkname = tarfile.SYMTYPE, data
                    archive.addfile(info)
                else:
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        return root / "a.tar"

    return build


def changed(build: Callable[[Path], Path], change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def again(root: Path) -> Path:
        path = build(root)
        path.write_bytes(change(path.read_bytes()))
        return path

    return again


def flag_as_encrypted(data: bytes) -> bytes:
    local, central = data.index(b"PK\3\4"), data.index(b"PK\1\2")
    marked = bytearray(data)
    marked[local + 6] |= 1
    marked[central + 8] |= 1
    return bytes(marked)


def break_pixels(data: bytes) -> bytes:
    """A flipped bit in a stored member, which its checksum notices."""
    place = data.index(b"IDAT") + 40
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def stored(*members: tuple[str, bytes]) -> Callable[[Path], Path]:
    def build(root: Path) -> Path:
        with zipfile.ZipFile(root / "a.zip", "w") as archive:
            for member, data in members:
                archive.writestr(member, data)
        return root / "a.zip"

    return build


def twice(root: Path) -> Path:
    path = stored(("a.png", good(0)), ("b.png", good(1)))(root)
    path.write_bytes(path.read_bytes().replace(b"b.png", b"a.png"))
    return path


PAIR = (("a.png", good(0)), ("b.png", good(1)))
LONG = "d" * 250
PLACES = [
    Case("31", "", 3, "no images found (looked for PNG, JPEG", build=made(lambda _: None)),
    Case("32", "", 3, "no such file or folder", build=lambda root: root / "missing"),
    Case("33", "", 3, "PNG image; give the folder that holds it", build=lambda root: write(root / "a.png")),
    Case("36", "", 0, "1 entry ignored: FIFO", build=made(lambda at: os.mkfifo(at / "x.png"), "a.png", "b.png")),
    Case("37", "", 0, "1 entry ignored: FIFO, socket or device", build=made(socket_at, "a.png", "b.png")),
    Case(
        "37b",
        "",
        3,
        "zero.png (link that leads out of the folder)",
        build=made(lambda at: (at / "zero.png").symlink_to("/dev/zero"), "a.png"),
    ),
    Case("38", "", 0, "2 images of 3 x", build=made(lambda at: (at / "a.png").mkdir(), "b.png", "c.png")),
    Case(
        "39",
        "",
        3,
        "loop.png (broken link)",
        build=made(lambda at: (at / "loop.png").symlink_to("loop.png"), "a.png"),
    ),
    Case(
        "39b",
        "",
        0,
        "1 entry ignored: another name of a file or folder",
        build=made(lambda at: (at / "again").symlink_to("."), "a.png", "b.png"),
    ),
    Case(
        "40",
        "",
        3,
        "out.png (link that leads out of the folder)",
        build=made(lambda at: (at / "out.png").symlink_to(write(at.parent / "secret.png")), "a.png"),
    ),
    Case("41", "", 3, "a.png (broken link)", build=made(lambda at: (at / "a.png").symlink_to("gone"), "b.png")),
    Case("42", "", 3, "\\udcff\\udcfe.png (text", build=named(b"\xff\xfe.png", b"b.png")),
    Case("43", "", 3, "new\\nline\\x1b[31m.png (text", build=named(b"new\nline\x1b[31m.png", b"b.png")),
    Case("44", "", 3, "-rf.png (text", build=named(b"-rf.png", b"b.png")),
    Case(
        "45", "", 0, "2 images of 3 x", build=made(lambda at: None, "n" * 251 + ".png", "/".join([LONG] * 14 + ["a"]))
    ),
    Case(
        "46",
        "",
        0,
        "3 entries ignored: hidden",
        build=made(
            lambda at: [write(at / name, b"junk") for name in (".DS_Store", "Thumbs.db", "__MACOSX/._a.png")],
            "a.png",
            "b.png",
        ),
    ),
    Case(
        "47",
        "",
        0,
        "1 sub-folder without images",
        build=made(lambda at: (at / "ant").mkdir(), "cat/a.png", "dog/b.png"),
    ),
    Case("47b", "", 0, "1 image directly in the folder", build=made(lambda at: None, "cat/a.png", "b.png")),
    Case("48", "", 0, "b.png has the pixels of a.png", build=made(lambda at: write(at / "b.png", good(0)), "a.png")),
    Case("51", "", 3, "../../x.png is a name that leads out", build=zipped(*PAIR, ("../../x.png", good(2)))),
    Case("51b", "", 3, "/abs.png is a name that leads out", build=zipped(*PAIR, ("/abs.png", good(2)))),
    Case("52", "", 3, "etc is a link, device or sparse", build=tarred(*PAIR, ("etc", "/etc"), ("etc/x.png", good(2)))),
    Case("53", "", 3, "bomb.bmp (unpacks to", build=zipped(*PAIR, ("bomb.bmp", b"BM" + bytes(5_000_000)))),
    Case("53b", "", 0, "1 other file ignored (such as in.zip)", build=zipped(*PAIR, ("in.zip", b"PK\3\4nested"))),
    Case("54", "", 3, "a.png is encrypted", build=changed(stored(*PAIR), flag_as_encrypted)),
    Case("55", "", 3, "damaged or truncated zip archive", build=changed(stored(*PAIR), lambda data: data[:2000])),
    Case("55b", "", 3, "a.png is in it twice", build=twice),
    Case("55c", "", 3, "a.png (damaged in the archive (Bad CRC-32", build=changed(stored(*PAIR), break_pixels)),
    Case(
        "55d",
        "",
        3,
        "b.png is cut off",
        build=changed(tarred(*PAIR), lambda data: data[: data.rindex(b"IDAT") + 100]),
    ),
]
