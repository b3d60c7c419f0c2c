"""Zip, tar and NumPy files as sources: what is in them, and what damaged or malicious ones lead to."""

import io
import json
import re
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from nets import small_net
from PIL import Image

import jaxviz
from jaxviz.data import _archives, _array_files
from jaxviz.data._batches import batches, sized
from jaxviz.data._source import open_source
from jaxviz.image._checks import ImageError
from jaxviz.image._files import load_image

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)


def encoded(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def read(source):
    return [np.asarray(load_image(source.read(i))) for i in range(len(source.ids))]


def expect_pixels(source, expected=PIXELS):
    np.testing.assert_array_equal(read(source), expected / np.float32(255))


PICTURES = {f"{'cat' if i % 2 else 'dog'}/{i}.png": encoded(image) for i, image in enumerate(PIXELS)}
SAMPLES = {
    f"{i:04}.{end}": data
    for i, image in enumerate(PIXELS)
    for end, data in (("png", encoded(image)), ("cls", b"%d" % (i % 2)))
}


# Zip files


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file(compression, tmp_path):
    others = {"read.me": b"", "__MACOSX/dog/._0.png": b"x", ".hidden/a.png": b"x", "cat/": b""}
    path = write_zip(tmp_path / "a.ZIP", PICTURES | others, compression)
    for given in (path, str(path)):
        source = open_source(given)
        assert source.ids == list(PICTURES)
        expect_pixels(source)
    marks = [source.mark(i) for i in range(5)]
    assert len({*marks}) == 5
    again = open_source(write_zip(tmp_path / "b.zip", PICTURES, zipfile.ZIP_STORED))
    assert [again.mark(i) for i in range(5)] == marks  # of the content


def test_names_in_archives_are_labels_and_nothing_else(tmp_path, small_params):
    names = ["../../up.png", "/etc/passwd.png", "a\\b.png", "<script>alert(1)</script>.png", "\x1b[31mred.png"]
    files = dict(zip(names, PICTURES.values(), strict=True))
    before = {*tmp_path.parent.rglob("*")}
    for path in (write_zip(tmp_path / "a.zip", files), write_tar(tmp_path / "a.tar", files)):
        source = open_source(path)
        expect_pixels(source)
        found = jaxviz.features(small_net, small_params, path, layer="relu_1")
        assert found.ids == source.ids
    assert {*tmp_path.parent.rglob("*")} - before == {tmp_path / "a.zip", tmp_path / "a.tar"}


def changed(path, change):
    path.write_bytes(change(path.read_bytes()))
    return path


def test_a_zip_file_that_understates_what_it_unpacks_to(tmp_path):
    """A hundred megabytes of zeros that say they are a kilobyte: no more is unpacked than was said."""
    path = write_zip(tmp_path / "a.zip", {"good.png": PICTURES["dog/0.png"], "bomb.bmp": bytes(10**8)})
    size = struct.pack("<I", 10**8)
    assert path.read_bytes().count(size) == 2
    source = open_source(changed(path, lambda data: data.replace(size, struct.pack("<I", 1024))))
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"a.zip: bomb.bmp: expected an undamaged file, got BadZipFile: Bad CRC-32"):
        source.read(1)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    expect_pixels(source._replace(ids=source.ids[:1]), PIXELS[:1])


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_what_is_too_large_is_not_read(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(_archives, "_LARGEST", 2**20)
    files = {"a.bmp": bytes(2**20 + 1), "b.png": PICTURES["dog/0.png"]}
    path = (write_zip if kind == "zip" else write_tar)(tmp_path / f"a.{kind}", files)
    (found,) = batches(open_source(path), [0, 1], size=16, batch_size=2)
    (why,) = found.skipped.values()
    assert re.search(r"a.bmp: expected at most 1 MiB, got a file said to have 1048577 bytes; leave it out", why)
    np.testing.assert_array_equal(found.live, [False, True])


def test_zip_files_that_are_not_read(tmp_path):
    good = write_zip(tmp_path / "a.zip", PICTURES)
    data = good.read_bytes()
    with pytest.raises(ImageError, match=r"b.zip: expected a zip file, got one that cannot be read \(File is not"):
        open_source(changed(write_zip(tmp_path / "b.zip", PICTURES), lambda data: data[:-30]))
    with pytest.raises(ImageError, match=r"nowhere.zip: expected a zip or tar file, but there is none at this path"):
        open_source(tmp_path / "nowhere.zip")
    with pytest.raises(ImageError, match=r"c.zip: expected a zip file with images \(.jpg, .*\), found none"):
        open_source(write_zip(tmp_path / "c.zip", {"a.txt": b""}))
    place = data.index(PICTURES["dog/0.png"][100:150]) if PICTURES["dog/0.png"][100:150] in data else 200
    source = open_source(changed(good, lambda data: data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :]))
    with pytest.raises(ImageError, match=r"a.zip: dog/0.png: expected an undamaged file, got"):
        source.read(0)
    expect_pixels(source._replace(ids=source.ids[1:], read=lambda i: source.read(i + 1)), PIXELS[1:])
    with pytest.raises(ImageError, match=r"dog/0.png: expected a file that is stored or deflated"):
        open_source(write_zip(tmp_path / "d.zip", PICTURES, zipfile.ZIP_LZMA)).read(0)
    locked = changed(
        write_zip(tmp_path / "e.zip", PICTURES),
        lambda data: data.replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"),
    )
    with pytest.raises(ImageError, match=r"dog/0.png: expected a file without a password"):
        open_source(locked).read(0)
    path = changed(write_zip(tmp_path / "f.zip", PICTURES), lambda data: data.replace(b"dog/2.png", b"dog/0.png"))
    with pytest.raises(ImageError, match=r"f.zip: expected a different name for each image, got dog/0.png twice"):
        open_source(path)


# Tar files


def test_a_tar_file_of_samples(tmp_path):
    source = open_source(write_tar(tmp_path / "a.tar", SAMPLES))
    assert source.ids == [f"{i:04}" for i in range(5)]
    expect_pixels(source)
    assert [source.labeled(i)[1] for i in range(5)] == [0, 1, 0, 1, 0]
    assert len({source.mark(i) for i in range(5)}) == 5
    apart = sorted(SAMPLES, key=lambda name: name.endswith("cls"))  # images first, labels after all of them
    source = open_source(write_tar(tmp_path / "b.tar", {f"./{name}": SAMPLES[name] for name in apart}))
    assert source.ids == [f"{i:04}" for i in range(5)]
    assert [source.labeled(i)[1] for i in range(5)] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("files", "label"),
    [
        ({"cls": b"7\n"}, 7),
        ({"cls": b"tabby cat"}, "tabby cat"),
        ({"cls": b"9" * 30}, "9" * 30),
        ({"json": b'{"label": "cat", "url": "x"}'}, "cat"),
        ({"json": b'{"boxes": [[1, 2]]}'}, {"boxes": [[1, 2]]}),
        ({"json": b"[1, 2]"}, [1, 2]),
        ({"txt": "eine Käthe".encode()}, "eine Käthe"),
        ({"cls": b"3", "json": b'{"label": 4}', "txt": b"five"}, 3),
        ({}, None),
        ({"pyd": b"cos\nsystem\n(S'touch /tmp/x'\ntR."}, None),
    ],
)
def test_labels_of_a_sample(files, label, tmp_path):
    files = {f"a.{end}": data for end, data in files.items()} | {"a.PNG": SAMPLES["0000.png"]}
    source = open_source(write_tar(tmp_path / "a.tar", files))
    image, found = source.labeled(0)
    assert (image, found) == (SAMPLES["0000.png"], label)
    assert json.loads(json.dumps(found)) == label


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"json": b"{"}, "a: expected a label in json, got JSONDecodeError"),
        ({"json": b"[" * 10**5}, "a: expected a label in json, got RecursionError"),
        ({"cls": b"\xff"}, "a: expected a label in cls, got UnicodeDecodeError"),
        ({"cls": bytes(2**20 + 1)}, "a.cls: expected at most 1 MiB"),
        ({"jpg": b""}, "a: expected one image, got several: (jpg, png|png, jpg); give tuples"),
    ],
)
def test_a_sample_that_cannot_be_told_is_skipped(files, message, tmp_path):
    files = {f"a.{end}": data for end, data in files.items()} | {
        "a.png": SAMPLES["0000.png"],
        "b.png": SAMPLES["0000.png"],
    }
    (found,) = batches(open_source(write_tar(tmp_path / "a.tar", files)), [0, 1], size=16, batch_size=2)
    assert re.search(message, found.skipped["a"])
    np.testing.assert_array_equal(found.live, [False, True])


def test_the_image_of_a_sample_is_the_one_with_a_whole_suffix(tmp_path):
    both = {
        "a.mask.png": b"",
        "a.png": SAMPLES["0000.png"],
        "b.left.png": SAMPLES["0002.png"],
        "c.cls": b"1",
        "README.txt": b"hi",
    }
    source = open_source(write_tar(tmp_path / "a.tar", both))
    assert source.ids == ["a", "b"]
    expect_pixels(source, PIXELS[[0, 2]])
    assert list(source.left_out) == ["c"]
    assert "c: expected an image beside cls, found none" in source.left_out["c"]


def test_several_shards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in (8, 9, 10):
        write_tar(tmp_path / f"a-{i:03}.tar", SAMPLES)
    source = open_source("a-{008..010}.tar")
    assert source.ids[:2] + source.ids[-1:] == ["a-008.tar/0000", "a-008.tar/0001", "a-010.tar/0004"]
    expect_pixels(source, np.concatenate([PIXELS] * 3))
    assert source.labeled(6) == (SAMPLES["0001.png"], 1)
    write_zip("b.zip", PICTURES)
    mixed = open_source([tmp_path / "a-008.tar", "b.zip"])
    assert mixed.ids[4:6] == ["a-008.tar/0004", "b.zip/dog/0.png"]
    assert [mixed.labeled(i)[1] for i in (4, 5)] == [0, None]
    for wrong in ("a-{10..8}.tar", "a-{0..9999999}.tar"):
        with pytest.raises(ImageError, match="expected numbers in braces from a smaller to a larger one"):
            open_source(wrong)
    with pytest.raises(ImageError, match=r"a-011.tar: expected a zip or tar file, but there is none"):
        open_source("a-{009..011}.tar")


def test_links_and_devices_in_a_tar_file_are_not_followed(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in {"a.png": tarfile.SYMTYPE, "b.png": tarfile.LNKTYPE, "c.png": tarfile.FIFOTYPE}.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("d.png")
        member.size = len(SAMPLES["0000.png"])
        archive.addfile(member, io.BytesIO(SAMPLES["0000.png"]))
    source = open_source(path)
    assert source.ids == ["d"]
    assert list(source.left_out) == ["a.png", "b.png", "c.png"]
    assert source.left_out["b.png"] == f"{path}: b.png: expected a file, got a link, a device or a sparse file"


def header_of(data, name):
    return data.index(name.encode().ljust(100, b"\0"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:1800],
        lambda data: data[: header_of(data, "0003.png") + 600],
        lambda data: data[: header_of(data, "0003.png") + 300],
        lambda data: data.replace(b"0003.png".ljust(100, b"\0"), b"0003.pnh".ljust(100, b"\0")),
        lambda data: b"no tar file" * 100,
        lambda data: b"",
    ],
    ids=["cut short", "cut in a file", "cut in a header", "a changed header", "no tar file", "empty"],
)
def test_damaged_tar_files_are_told_and_no_sample_is_lost_without_a_word(damage, tmp_path):
    path = changed(write_tar(tmp_path / "a.tar", SAMPLES), damage)
    with pytest.raises(ImageError, match=r"a.tar: expected a tar file, got one that is damaged"):
        open_source(path)


def test_tar_files_that_are_not_read(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ImageError, match=r"a.tar.gz: expected a tar file that is not compressed.*: unpack it"):
        open_source(tmp_path / "a.tar.gz")
    with pytest.raises(ImageError, match=r"b.tar: expected a tar file with images \(.jpg, .*\), found none"):
        open_source(write_tar(tmp_path / "b.tar", {"a.txt": b"", "b.cls": b""}))
    source = open_source(write_tar(tmp_path / "c.tar", SAMPLES))
    write_tar(tmp_path / "c.tar", {"other": b"1"} | SAMPLES)
    with pytest.raises(ImageError, match=r"c.tar: expected the file that was listed, but it has changed since"):
        source.read(0)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_run_over_an_archive_resumes_to_the_same_bytes(kind, tmp_path, small_params):
    path = write_zip(tmp_path / "a.zip", PICTURES) if kind == "zip" else write_tar(tmp_path / "a.tar", SAMPLES)
    options = {"layer": "relu_1", "size": 16, "batch_size": 2}
    whole = jaxviz.features(small_net, small_params, path, store=tmp_path / "whole", **options)
    jaxviz.features(small_net, small_params, path, store=tmp_path / "parts", callback=lambda found: True, **options)
    again = jaxviz.features(small_net, small_params, path, store=tmp_path / "parts", **options)
    content = lambda at: {file.relative_to(at): file.read_bytes() for file in at.rglob("*") if file.is_file()}
    assert content(tmp_path / "whole") == content(tmp_path / "parts")
    assert again.labels == whole.labels == (None if kind == "zip" else [0, 1, 0, 1, 0])
    expected = jaxviz.features(small_net, small_params, PIXELS, **options).values
    np.testing.assert_array_equal(np.asarray(whole.values), expected)


# NumPy's files


def test_numpy_files(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS)
    source, size = sized(open_source(tmp_path / "a.npy"), None)
    assert (source.ids, size) == (["0", "1", "2", "3", "4"], (16, 16))
    expect_pixels(source)
    before = source.mark(0)
    np.save(tmp_path / "a.npy", 255 - PIXELS)
    assert open_source(tmp_path / "a.npy").mark(0) != before
    np.save(tmp_path / "b.npy", PIXELS.transpose(0, 3, 1, 2))
    expect_pixels(open_source(str(tmp_path / "b.npy")))
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "c.npz", images=PIXELS, label=np.arange(5), other=np.zeros((5, 2)))
        source = open_source(tmp_path / "c.npz")
        expect_pixels(source)
        assert [source.labeled(i)[1] for i in range(5)] == [0, 1, 2, 3, 4]
    np.savez(tmp_path / "d.npz", digits=PIXELS[..., 0], names=np.array(list("abcde")), y=np.arange(4))
    source = open_source(tmp_path / "d.npz")
    assert source.labeled(0)[1] is None
    np.testing.assert_array_equal(read(source)[2][..., 1], PIXELS[2, ..., 0] / np.float32(255))


def test_an_array_packed_more_tightly_than_images_are_is_not_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", np.zeros((40, 64, 64, 3), np.uint8))
    assert len(open_source(tmp_path / "a.npz").ids) == 40  # small, so nothing is lost by unpacking it
    monkeypatch.setattr(_array_files, "_LARGE", 2**16)
    with pytest.raises(ImageError, match=r"a.npz: arr_0.npy: expected images, got 491648 bytes packed into \d+$"):
        open_source(tmp_path / "a.npz")


class Touch:
    def __reduce__(self):
        return (print, ("a pickle was opened",))


def test_numpy_files_that_are_not_read(tmp_path, capsys):
    objects = np.array([Touch()] * 5, object)
    np.save(tmp_path / "a.npy", objects)
    np.savez(tmp_path / "b.npz", images=objects)
    np.savez(tmp_path / "c.npz", x_train=PIXELS, x_test=PIXELS)
    np.save(tmp_path / "d.npy", PIXELS[0])
    np.save(tmp_path / "e.npy", np.array(list("abcde")))
    (tmp_path / "f.npy").write_bytes(b"\x80\x04cos\nsystem")
    np.save(tmp_path / "g.npy", PIXELS)
    changed(tmp_path / "g.npy", lambda data: data.replace(b"(5, 16, 16, 3)", b"(9, 99, 99, 3)"))
    write_zip(tmp_path / "h.npz", {"images.npy": (tmp_path / "g.npy").read_bytes()})
    (tmp_path / "i.npz").write_bytes(b"PK")
    messages = {
        "a.npy": "expected a NumPy file of images, got .* read: Array can't be memory-mapped",
        "b.npz": "images.npy: expected numbers or text, got Python objects, which are not opened",
        "c.npz": r"expected one array of images .*, got x_train \(5, 16, 16, 3\), x_test .*: give \(images, labels\)",
        "d.npy": r"expected the array to be images \(n, h, w, c\), .*, got \(16, 16, 3\) of uint8",
        "e.npy": r"expected the array to be images \(n, h, w, c\), .*, got \(5,\) of <U1",
        "f.npy": "expected a NumPy file of images, got one that cannot be read: the magic string is not correct",
        "g.npy": "expected a NumPy file of images, got one that cannot be read: mmap length is greater than",
        "h.npz": r"images.npy: expected \(9, 99, 99, 3\) of uint8, got .* bytes: the file is damaged",
        "i.npz": "expected a NumPy file of images, got one that cannot be read: File is not a zip file",
        "j.npy": "expected a NumPy file, but there is none at this path",
    }
    for name, message in messages.items():
        with pytest.raises(ImageError, match=f"{name}: {message}"):
            open_source(tmp_path / name)
    assert capsys.readouterr().out == ""
