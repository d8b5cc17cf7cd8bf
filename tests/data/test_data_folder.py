"""Folders of images: rule I3, classes, sizes, and one message for all bad files."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alphabar.base.errors import ConfigError, DataError
from alphabar.data import memory, scan, walk
from alphabar.data.batch import Images
from alphabar.data.sources import open_source
from data.pictures import encode, grey, rgb, write


def opened(root: Path, size: int | None = None) -> Images:
    images = open_source(f"folder:{root}", size)
    assert images.pixels.dtype == np.uint8
    assert images.pixels.flags.c_contiguous
    return images


def refused(root: Path, size: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        open_source(f"folder:{root}", size)
    assert str(caught.value).isprintable()
    return str(caught.value)


def noted(images: Images, words: str) -> bool:
    assert all(note.isprintable() for note in images.notes)
    return any(words in note for note in images.notes)


def test_images_come_in_the_order_of_their_paths_as_bytes(tmp_path: Path) -> None:
    names = ["b.png", "B.png", "a/z.png", "a.png", "é.png", "10.png", "9.png"]
    for n, name in enumerate(names):
        write(tmp_path / name, encode(np.full((4, 4), n, np.uint8)))
    images = opened(tmp_path)
    expected = sorted(range(len(names)), key=lambda n: os.fsencode(names[n]))
    assert images.pixels[:, 0, 0, 0].tolist() == expected
    assert images.fingerprint == opened(tmp_path).fingerprint


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/deep/er/2.png", "ant/3.png"):
        write(tmp_path / name, encode(rgb(len(name))))
    (tmp_path / "empty").mkdir()
    images = opened(tmp_path)
    assert images.class_names == ("ant", "cat")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1]
    assert (images.name, images.spec) == (tmp_path.name, f"folder:{tmp_path}")
    assert noted(images, "1 sub-folder without images")
    assert open_source(images.spec).fingerprint == images.fingerprint


def test_images_beside_class_folders_make_the_set_unlabelled(tmp_path: Path) -> None:
    write(tmp_path / "cat/1.png")
    write(tmp_path / "loose.png", encode(rgb(1)))
    images = opened(tmp_path)
    assert (images.labels, images.class_names) == (None, ())
    assert noted(images, "1 image directly in the folder")


def test_flat_folder_has_no_labels_and_no_notes(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    images = opened(tmp_path)
    assert images.labels is None
    assert images.notes == ()


def test_grey_folders_have_one_channel(tmp_path: Path) -> None:
    write(tmp_path / "a.png", encode(grey(1)))
    write(tmp_path / "b.png", encode((grey(2).astype(np.uint16)) * 257))
    images = opened(tmp_path)
    assert images.shape == (1, 8, 8)
    assert (images.pixels[:, 0] == [grey(1), grey(2)]).all()
    assert noted(images, "1 image with uint16 values, 0 to 65535 made 0 to 255")


def test_grey_among_colour_becomes_rgb_with_a_note(tmp_path: Path) -> None:
    write(tmp_path / "a.png", encode(grey(1)))
    write(tmp_path / "b.png", encode(rgb(2)))
    images = opened(tmp_path)
    assert images.shape == (3, 8, 8)
    assert (images.pixels[0] == grey(1)).all()
    assert (images.pixels[1] == rgb(2).transpose(2, 0, 1)).all()
    assert noted(images, "1 image in grey converted to RGB")


def test_a_folder_of_grey_palettes_is_grey(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([7, 7, 7, 9, 9, 9])
    write(tmp_path / "a.png", encode(image))
    assert opened(tmp_path).shape == (1, 1, 2)


def test_conversions_are_counted(tmp_path: Path) -> None:
    clear = np.dstack([rgb(), np.zeros((8, 8), np.uint8)])
    write(tmp_path / "a.png", encode(clear))
    write(tmp_path / "b.png", encode(clear))
    write(tmp_path / "c.png")
    images = opened(tmp_path)
    assert noted(images, "2 images with transparency composited on white")
    assert noted(images, "2 images of one single value")
    assert noted(images, "1 image repeating another")


def test_content_counts_and_not_the_extension(tmp_path: Path) -> None:
    write(tmp_path / "a.png", encode(rgb(), "BMP"))
    write(tmp_path / "b", encode(rgb(1)))
    write(tmp_path / "c.PNG", encode(rgb(2)))
    images = opened(tmp_path)
    assert len(images) == 3
    assert noted(images, "2 images under the extension of another format")


def test_other_files_are_ignored_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "notes.csv", b"a.png,1\n")
    write(tmp_path / "meta.json", b"{}")
    write(tmp_path / "empty.txt", b"")
    for name in (".DS_Store", "Thumbs.db", "__MACOSX/._a.png", "._a.png", ".git/x.png"):
        write(tmp_path / name, b"junk")
    images = opened(tmp_path)
    assert len(images) == 1
    assert noted(images, "3 other files ignored (such as empty.txt)")
    assert noted(images, "5 entries ignored: hidden")


def test_a_plain_size_is_kept_even_if_not_square(tmp_path: Path) -> None:
    for n in range(2):
        write(tmp_path / f"{n}.png", encode(rgb(n, 5, 7)))
    assert opened(tmp_path).shape == (3, 5, 7)


@pytest.mark.parametrize(
    ("shapes", "side"), [([(40, 50), (60, 33)], 32), ([(24, 30), (50, 24)], 24), ([(300, 900), (16, 17)], 16)]
)
def test_mixed_sizes_come_to_one_with_a_note(tmp_path: Path, shapes: list[tuple[int, int]], side: int) -> None:
    for n, shape in enumerate(shapes):
        write(tmp_path / f"{n}.png", encode(rgb(n, *shape)))
    images = opened(tmp_path)
    assert images.shape == (3, side, side)
    assert noted(images, f"2 images of other sizes brought to {side}x{side}")


def test_mixed_sizes_below_16_need_a_size(tmp_path: Path) -> None:
    write(tmp_path / "a.png", encode(rgb(0, 9, 12)))
    write(tmp_path / "b.png", encode(rgb(0, 20, 20)))
    message = refused(tmp_path)
    assert (
        "a.png (9x12 is smaller than 16x16, the least that is chosen for mixed sizes; data.size=N asks for another)"
        in message
    )
    assert opened(tmp_path, 9).shape == (3, 9, 9)


def test_size_is_resized_and_cut_in_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (200, 100, 50)
    write(tmp_path / "a.png", encode(wide))
    write(tmp_path / "b.png", encode(np.ascontiguousarray(wide.transpose(1, 0, 2))))
    images = opened(tmp_path, 10)
    assert images.shape == (3, 10, 10)
    inside = images.pixels[:, :, 2:8, 2:8]
    assert np.abs(inside.astype(int) - np.array([200, 100, 50]).reshape(1, 3, 1, 1)).max() <= 4  # Lanczos rings


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    checkers = np.indices((64, 64)).sum(0) % 2 * 255
    write(tmp_path / "a.png", encode(checkers.astype(np.uint8)))
    assert np.abs(opened(tmp_path, 8).pixels.astype(int) - 127).max() <= 1


def test_images_smaller_than_the_size_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.png", encode(rgb(0, 40, 40)))
    write(tmp_path / "b.png", encode(rgb(0, 1, 1)))
    message = refused(tmp_path, 32)
    assert "b.png (1x1 is smaller than 32x32)" in message
    assert "a.png" not in message


@pytest.mark.parametrize("size", [0, -3])
def test_size_is_positive(tmp_path: Path, size: int) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="at least 1"):
        opened(tmp_path, size)


def test_exif_rotation_counts_for_the_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for n, kind in enumerate(("JPEG", "PNG", "WEBP", "TIFF")):
        write(tmp_path / f"{n}", encode(rgb(0, 16, 24), kind, exif=exif))
    write(tmp_path / "upright.png", encode(rgb(0, 24, 16)))
    images = opened(tmp_path)
    assert images.shape == (3, 24, 16)
    assert noted(images, "3 images turned upright") or noted(images, "4 images turned upright")


def test_all_bad_files_are_in_one_message(tmp_path: Path) -> None:
    picture = encode(rgb(0, 64, 64))
    write(tmp_path / "good.png", picture)
    write(tmp_path / "1.png", b"")
    write(tmp_path / "2.jpg", encode(rgb(0, 64, 64), "JPEG")[:1500])
    write(tmp_path / "3.png", picture[: len(picture) // 2])
    write(tmp_path / "4.jpg", b"<!DOCTYPE html><h1>404</h1>")
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}: 4 files cannot be used: 1.png (empty file), 2.jpg (truncated image")
    assert "3.png (truncated image (at least" in message
    assert message.endswith(
        f"and 1 more; that is 4 of 5, allowed are 5 %; repair or remove them; alphabar data check {tmp_path} lists all"
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jpg", b"some text", "text, not an image"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer; run git lfs pull"),
        ("a.svg", b"<svg/>", "SVG, a vector format"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        ("a.ico", b"\0\0\1\0\1\0", "ICO image, a format not in the list"),
        ("a.bin", b"\0\0\0\x20ftypavif", "AVIF image, a format not in the list"),
        ("a.heic", b"\0\0\0\x20ftypheic", "HEIC image"),
        (
            "a.tif",
            encode(np.ones((8, 8), np.float32), "TIFF"),
            "mode F, float32 values from 1 to 1 have no known range",
        ),
    ],
)
def test_bad_files_are_called_by_their_name(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    write(tmp_path / name, content)
    write(tmp_path / "good.png")
    assert f"{name} ({words}" in refused(tmp_path)


def test_no_images(tmp_path: Path) -> None:
    assert "no images found (looked for PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM and NPY; there are no files)" in refused(
        tmp_path
    )
    write(tmp_path / "a.txt", b"text")
    write(tmp_path / ".hidden.png")
    message = refused(tmp_path)
    assert "1 other file ignored (such as a.txt)" in message
    assert "1 entry ignored: hidden" in message


def test_missing_folder_and_file_instead_of_folder(tmp_path: Path) -> None:
    assert "missing: no such folder" in refused(tmp_path / "missing")
    assert "is not a folder" in refused(write(tmp_path / "a.png"))


def test_fifos_sockets_and_folders_named_like_images_do_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "good.png")
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.chdir(tmp_path)  # socket paths are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.png")
        images = opened(tmp_path)
    assert len(images) == 1
    assert noted(images, "2 entries ignored: FIFO, socket or device")


def test_links_inside_the_folder_count_once(tmp_path: Path) -> None:
    write(tmp_path / "z/real.png")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/link.png").symlink_to("../z/real.png")
    (tmp_path / "again").symlink_to("z")
    (tmp_path / "z/loop").symlink_to("..")
    os.link(tmp_path / "z/real.png", tmp_path / "z/second.png")
    images = opened(tmp_path)
    assert (len(images), images.class_names) == (1, ("z",))
    assert noted(images, "4 entries ignored: another name")


def test_links_into_a_hidden_store_are_followed(tmp_path: Path) -> None:
    write(tmp_path / ".store/1", encode(rgb(1)))
    write(tmp_path / ".more/2", encode(rgb(2)))
    (tmp_path / "a.png").symlink_to(".store/1")
    (tmp_path / "dir").symlink_to(".more")
    assert len(opened(tmp_path)) == 2


def test_links_that_lead_nowhere_or_out_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "good.png")
    write(tmp_path / "out/secret.png")
    (root / "notes").symlink_to("gone")  # no image: ignored
    assert noted(opened(root), "1 entry ignored: broken link")
    (root / "broken.png").symlink_to("gone.png")
    (root / "loop.png").symlink_to("loop.png")
    (root / "out").symlink_to(tmp_path / "out")
    message = refused(root)
    assert "broken.png (broken link), loop.png (broken link), out (link that leads out of the folder)" in message
    for name in ("broken.png", "loop.png", "out"):
        (root / name).unlink()
    (root / "zero.png").symlink_to("/dev/zero")
    assert "zero.png (link that leads out" in refused(root)
    (root / "zero.png").unlink()
    (root / "sibling.png").symlink_to(write(tmp_path / "root-not/a.png"))
    assert "sibling.png (link that leads out" in refused(root)


def test_a_folder_reached_by_a_link_is_fine(tmp_path: Path) -> None:
    write(tmp_path / "real/a.png")
    (tmp_path / "link").symlink_to("real")
    images = opened(tmp_path / "link")
    assert images.spec == f"folder:{tmp_path}/link"


def test_undecodable_and_hostile_names(tmp_path: Path) -> None:
    names = [
        b"\xff\xfe.png",
        b"new\nline.png",
        b"\x1b[31mred.png",
        "\u202egnp.exe".encode(),
        b"-rf.png",
        b"n" * 251 + b".png",
    ]
    for n, name in enumerate(names):
        path = os.path.join(os.fsencode(tmp_path), b"\xffclass", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(encode(rgb(n)))
    images = opened(tmp_path)
    assert len(images) == len(names)
    assert images.class_names == ("\\udcffclass",)
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), b"\xffclass", name), "wb") as file:
            file.write(b"text")
    assert "\\x1b[31mred.png (text" in refused(tmp_path)


def test_too_deep_and_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "/".join("d" * 32) / "a.png")
    assert len(opened(tmp_path)) == 1
    write(tmp_path / "/".join("d" * 33) / "a.png", encode(rgb(1)))
    assert "more than 32 deep" in refused(tmp_path)
    monkeypatch.setattr(walk, "MAX_ENTRIES", 3)
    assert "more than 3 files" in refused(tmp_path)


def test_unreadable_files_and_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "sub/a.png")
    write(tmp_path / "b.png")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    assert "sub (Permission denied)" in refused(tmp_path)
    monkeypatch.setattr("os.scandir", lambda _: scandir("sub"))
    assert refused(tmp_path) == f"{tmp_path}: Permission denied; give a folder that can be read"


def test_a_file_deleted_between_scan_and_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    real = scan.examine

    def examine(*arguments: Any) -> Any:
        (tmp_path / "b.png").unlink(missing_ok=True)
        return real(*arguments)

    monkeypatch.setattr(scan, "examine", examine)
    assert "b.png was there when the files were listed and is gone; put it back, or run" in refused(tmp_path)


def test_a_file_changed_between_scan_and_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png")
    real = scan.decode_all

    def decode(_: bytes, *more: Any) -> Any:
        return real(encode(rgb(0, 9, 9)), *more)

    monkeypatch.setattr(scan, "decode_all", decode)
    assert f"{path.name} (its size is not that of its header" in refused(tmp_path)


def test_large_folders_go_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        write(tmp_path / f"{n}.png", encode(rgb(n)))
    plain = opened(tmp_path)
    monkeypatch.setattr(memory, "IN_MEMORY_BYTES", 100)
    mapped = opened(tmp_path)
    assert isinstance(mapped.pixels, np.memmap)
    assert mapped.fingerprint == plain.fingerprint


def test_many_files_keep_their_order_across_threads(tmp_path: Path) -> None:
    for n in range(300):
        write(tmp_path / f"{n:03}.png", encode(np.full((2, 2), n % 256, np.uint8)))
    assert opened(tmp_path).pixels[:, 0, 0, 0].tolist() == [n % 256 for n in range(300)]
