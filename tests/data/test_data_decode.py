"""Decoding one file: rules I1 and I2, and the bad files of the corpus."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from alphabar.base.errors import DataError
from alphabar.data.decode import Header, Picture, decode, decode_all, examine, quiet_decoders
from alphabar.data.fit import FITS
from alphabar.data.reading import Reading
from alphabar.data.sniff import sniff
from data.pictures import encode, grey, png_chunks, rgb


def opened(data: bytes) -> Picture:
    content = sniff(data[:1024])
    assert content.format, content.words
    with quiet_decoders():
        header = examine(io.BytesIO(data), content)
        picture = decode(data, content)
    assert (header.height, header.width) == picture.pixels.shape[:2]
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags.c_contiguous
    return picture


def refused(data: bytes) -> str:
    content = sniff(data[:1024])
    assert content.format
    with quiet_decoders(), pytest.raises(DataError) as caught:
        decode(data, content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


IHDR = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("pixels", [grey(1, 5, 9), rgb(1, 5, 9)], ids=["grey", "rgb"])
def test_lossless_formats_come_back_exactly(kind: str, pixels: npt.NDArray[np.uint8]) -> None:
    picture = opened(encode(pixels, kind))
    assert (picture.pixels == pixels).all()
    assert picture.notes == ()


@pytest.mark.parametrize(
    ("kind", "options"), [("WEBP", {"lossless": True}), ("GIF", {}), ("JPEG", {"progressive": True})]
)
def test_other_formats_decode(kind: str, options: dict[str, bool]) -> None:
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    picture = opened(encode(flat, kind, **options))
    assert np.abs(picture.pixels.astype(int) - flat).max() <= 3


def test_interlaced_png_decodes() -> None:
    # zlib stream of an Adam7 image of one grey pixel: a single pass with one filter byte
    data = png_chunks(
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 1)), (b"IDAT", zlib.compress(b"\0\x7b")), (b"IEND", b"")
    )
    assert opened(data).pixels.tolist() == [[123]]


def test_16_bit_grey_is_scaled_and_rounded() -> None:
    values = np.array([[0, 128, 129, 257, 385, 386, 65407, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        picture = opened(encode(values, kind))
        assert picture.pixels.tolist() == [[0, 0, 1, 1, 1, 2, 255, 255]]
        assert picture.pixels.tolist() == np.round(values / 257).tolist()
        assert picture.notes == ("with uint16 values, 0 to 65535 made 0 to 255",)


def test_16_bit_pgm_is_scaled_too() -> None:
    picture = opened(b"P5 2 1 65535\n" + struct.pack(">HH", 65535, 257 * 7))
    assert picture.pixels.tolist() == [[255, 7]]


def test_16_bit_colour_is_noted() -> None:
    data = png_chunks(
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + bytes([10, 0, 20, 0, 30, 0]))),
        (b"IEND", b""),
    )
    picture = opened(data)
    assert picture.pixels.tolist() == [[[10, 20, 30]]]
    assert "16 bits per channel" in picture.notes[0]


@pytest.mark.parametrize(("dtype", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_modes_without_a_range_are_refused_by_name(dtype: type, mode: str) -> None:
    assert f"mode {mode}, {np.dtype(dtype)} values from 1 to 1 have no known range" in refused(
        encode(np.ones((4, 4), dtype), "TIFF")
    )


def test_lab_is_refused_by_name() -> None:
    assert "mode LAB" in refused(encode(Image.new("LAB", (4, 4)), "TIFF"))


def test_rgba_shows_white_where_it_is_transparent() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, :3] = (255, 0, 100)
    pixels[0, :, 3] = (0, 255, 51)
    picture = opened(encode(pixels))
    assert picture.pixels.tolist() == [[[255, 255, 255], [255, 0, 100], [255, 204, 224]]]
    assert picture.notes == ("with transparency composited on white",)


def test_opaque_alpha_needs_no_note() -> None:
    pixels = np.dstack([rgb(), np.full((8, 8), 255, np.uint8)])
    picture = opened(encode(pixels))
    assert (picture.pixels == rgb()).all()
    assert picture.notes == ()


def test_grey_with_alpha_stays_grey() -> None:
    picture = opened(encode(grey_with_alpha()))
    assert picture.pixels.tolist() == [[9, 255]]


def grey_with_alpha() -> Image.Image:
    image = Image.new("LA", (2, 1))
    image.putpixel((0, 0), (9, 255))
    image.putpixel((1, 0), (9, 0))
    return image


def test_colour_keys_are_transparency() -> None:
    assert opened(encode(np.array([[7, 8]], np.uint8), transparency=7)).pixels.tolist() == [[255, 8]]
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (4, 5, 6))
    assert opened(encode(image, transparency=(1, 2, 3))).pixels.tolist() == [[[255] * 3, [4, 5, 6]]]
    deep = opened(encode(np.array([[257, 514]], np.uint16), transparency=257))
    assert deep.pixels.tolist() == [[255, 2]]


def palette_image() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    return image


def test_palettes_become_rgb_with_their_transparency() -> None:
    assert opened(encode(palette_image())).pixels.tolist() == [[[10, 20, 30], [40, 50, 60]]]
    for transparency in (0, b"\0\xff"):
        picture = opened(encode(palette_image(), transparency=transparency))
        assert picture.pixels.tolist() == [[[255, 255, 255], [40, 50, 60]]]
        assert "with transparency composited on white" in picture.notes


def test_grey_palettes_become_grey() -> None:
    image = palette_image()
    image.putpalette([5, 5, 5, 9, 9, 9])
    assert opened(encode(image)).pixels.tolist() == [[5, 9]]


def test_one_bit_becomes_black_and_white() -> None:
    picture = opened(encode(Image.fromarray(np.array([[True, False]]))))
    assert picture.pixels.tolist() == [[255, 0]]


def test_cmyk_jpeg_becomes_rgb() -> None:
    picture = opened(encode(Image.new("RGB", (8, 8), (250, 10, 10)).convert("CMYK"), "JPEG"))
    assert np.abs(picture.pixels.astype(int) - (250, 10, 10)).max() < 12
    assert picture.notes == ("in CMYK converted to RGB",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, :8] = 255  # a white stripe on the left, which orientation 6 (turn clockwise) puts on top
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = opened(encode(stored, kind, exif=exif))
    assert picture.pixels.shape == (32, 16, 3)
    assert picture.pixels[:4].min() > 200
    assert picture.pixels[12:].max() < 60


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone(orientation: int) -> None:
    upright = rgb(3, 5, 7)
    turned = upright.transpose(1, 0, 2)
    # Which side of the upright image the first row and the first column of the stored one are (EXIF 2.32, table 6).
    stored = {
        1: upright,  # top, left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: turned,  # left, top
        6: turned[::-1],  # right, top
        7: turned[::-1, ::-1],  # right, bottom
        8: turned[:, ::-1],  # left, bottom
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (opened(encode(np.ascontiguousarray(stored), exif=exif)).pixels == upright).all()


def test_garbage_exif_is_ignored() -> None:
    assert opened(encode(rgb(), "JPEG", exif=b"Exif\0\0garbage that is no TIFF header")).pixels.shape == (8, 8, 3)


def test_an_icc_profile_is_ignored_with_a_note() -> None:
    assert "ICC" in opened(encode(rgb(), icc_profile=b"not even a profile")).notes[0]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_many_is_used_with_a_note(kind: str) -> None:
    first, second = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
    picture = opened(encode(first, kind, save_all=True, append_images=[second]))
    assert picture.pixels[0, 0, 0] > 240
    assert any("only the first used" in note for note in picture.notes)


def test_half_a_file_is_truncated() -> None:
    for kind in ("PNG", "JPEG", "BMP", "PPM"):
        data = encode(rgb(0, 64, 64), kind)
        assert "truncated" in refused(data[: len(data) // 2]), kind
    png = encode(rgb(0, 64, 64))
    assert "4 bytes missing" in refused(png[:-4])
    for kind in ("GIF", "TIFF", "WEBP"):
        data = encode(rgb(0, 64, 64), kind)
        refused(data[: len(data) // 2])


def test_every_cut_of_a_png_is_refused() -> None:
    data = encode(rgb())
    for length in range(8, len(data)):
        with quiet_decoders(), pytest.raises(DataError):
            decode(data[:length], sniff(data[:length]))


def test_a_flipped_bit_in_the_pixels_of_a_png_is_found() -> None:
    data = bytearray(encode(rgb()))
    data[data.index(b"IDAT") + 10] ^= 1
    assert "checksum of chunk 'IDAT'" in refused(bytes(data))


def test_random_damage_never_escapes() -> None:
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        good = encode(rgb(0, 16, 16), kind)
        for _ in range(40):
            data = bytearray(good)
            for place in rng.integers(4, len(data), 3):
                data[place] = rng.integers(256)
            content = sniff(bytes(data))
            if content.format:
                try:
                    with quiet_decoders():
                        examine(io.BytesIO(bytes(data)), content)
                        decode(bytes(data), content)
                except DataError as error:
                    assert "\n" not in str(error)


@pytest.mark.parametrize(("side", "words"), [(10_000, "100 Mpixel"), (30_000, "900 Mpixel"), (100_000, "10000 Mpixel")])
def test_giant_headers_are_refused_before_decoding(side: int, words: str) -> None:
    data = png_chunks(
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    )
    assert f"{words} exceeds the limit of 64" in refused(data)
    with quiet_decoders(), pytest.raises(DataError, match="Mpixel"):
        examine(io.BytesIO(data), sniff(data))


def test_an_image_without_pixels_is_refused() -> None:
    header = struct.pack(">IIBBBBB", 0, 10, 8, 0, 0, 0, 0)
    refused(png_chunks((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")))


def test_a_text_bomb_is_refused() -> None:
    bomb = b"key\0\0" + zlib.compress(bytes(20_000_000))
    pixels = zlib.compress(bytes(4 * 5))
    assert "damaged" in refused(png_chunks((b"IHDR", IHDR), (b"zTXt", bomb), (b"IDAT", pixels), (b"IEND", b"")))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "empty file"),
        (b"hello, world\n", "text, not an image"),
        ("Grüße".encode(), "text, not an image"),
        (b"\n<!DOCTYPE html><title>404</title>", "HTML page, not an image"),
        (b"<html>", "HTML page, not an image"),
        (b"<!-- c --><HTML>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer; run git lfs pull"),
        (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "vector format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\1\0\1\0\x10\x10", "ICO"),
        (b"8BPS\0\1", "PSD"),
        (b"SIMPLE  =  T", "FITS"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"\0\0\0\x20ftypheic", "HEIC"),
        (b"PK\3\4", "zip archive"),
        (b"\x1f\x8b\x08", "compressed"),
        (bytes(100), "only zero bytes"),
        (b"\1\2\3\4", "starts with 01 02 03 04"),
        (b"BMW sells cars, and this is a text", "text"),
        (b"P1 is the first of the parts", "text"),
    ],
)
def test_other_files_are_called_by_their_name(head: bytes, words: str) -> None:
    content = sniff(head)
    assert not content.format
    assert words in content.words


def test_header_is_a_value() -> None:
    assert examine(io.BytesIO(encode(grey(0, 3, 4))), sniff(encode(grey()))) == Header(4, 3, 1, "L")


def test_a_large_jpeg_may_be_decoded_smaller_and_looks_the_same() -> None:
    y, x = np.mgrid[0:400, 0:600]
    large = np.stack([128 + 100 * np.sin(x / 50), 128 + 100 * np.cos(y / 40), 0 * x + 90], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for options in ({}, {"exif": exif}):
        data = encode(large, "JPEG", quality=95, **options)
        whole, fast = (decode_all(data, sniff(data), Reading(), least)[0] for least in (None, 40))
        assert whole.size == fast.size == whole.pixels.shape[:2]
        assert min(fast.pixels.shape[:2]) == 100  # a quarter, the least that is twice 40
        small = [FITS["crop"].place(one.pixels, 40, 40, 0).astype(int) for one in (whole, fast)]
        assert np.abs(small[0] - small[1]).max() <= 3
        with pytest.raises(DataError, match="truncated"):
            decode_all(data[: len(data) // 2], sniff(data), Reading(), 40)
