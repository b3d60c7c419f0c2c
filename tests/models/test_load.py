"""What `load` stores, reads and refuses, with a stand-in network whose weights come from a server on this machine."""

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import textwrap
import threading
from typing import NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from jaxviz.cli import _weights
from jaxviz.models import _conversion, _fetch, _load, _photographs
from jaxviz.models._fetch import Entry, UrlSource, WeightsUnavailableError
from jaxviz.models._load import RefusedWeightsError, available, import_weights, load, verify

TENSORS = {"fc.weight": np.arange(6, dtype=np.float16).reshape(2, 3), "fc.bias": np.ones(2, np.float16)}


class Network(NamedTuple):
    net: object
    convert: object
    params: object
    mean: tuple = (0.5,) * 3
    std: tuple = (0.5,) * 3
    leaves_out: bool = False
    classifies: bool = False


def net(params, images):
    return images.mean((1, 2)).astype(np.float32) @ params["fc"]["kernel"] + params["fc"]["bias"][None]


def convert(tensors):
    kernel = tensors["fc.weight"].T if "fc.weight" in tensors else tensors["fc/kernel:0"]
    bias = tensors.get("fc.bias", tensors.get("fc/bias:0"))
    return {"fc": {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}}


def shapes():
    return {
        "fc": {"kernel": jax.ShapeDtypeStruct((3, 2), jnp.float32), "bias": jax.ShapeDtypeStruct((2,), jnp.float32)}
    }


def listing(address, contents):
    """Return a manifest with one https-like source for each network."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return {name: Entry(f"{name} net", "CC0", (UrlSource(f"{address}/{name}", digests[name]),)) for name in contents}


class Server(NamedTuple):
    """The files that are served, and the requests that came."""

    folder: object
    requests: list
    manifest: dict


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve the weights of `tiny` and `other`, the only networks that the manifest lists, into an empty cache."""
    contents = {"tiny": save(TENSORS), "other": save({**TENSORS, "fc.bias": np.zeros(2, np.float16)})}
    folder, requests = tmp_path / "served", []
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            requests.append(self.path)

    handler = functools.partial(Handler, directory=str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JAXVIZ_CACHE", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        manifest = listing(f"http://127.0.0.1:{httpd.server_address[1]}", contents)
        for module in (_fetch, _load, _conversion):
            monkeypatch.setattr(module, "read_manifest", lambda: manifest)
        monkeypatch.setattr(_conversion, "networks", lambda: dict.fromkeys(contents, Network(net, convert, shapes)))
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield Server(folder, requests, manifest)
        httpd.shutdown()
        thread.join()


@pytest.fixture
def stored(tmp_path, server):
    """Return the cached file of `tiny`, after it was fetched once."""
    load("tiny")
    server.requests.clear()
    return tmp_path / "cache" / "weights" / "tiny.safetensors"


def assert_tiny(loaded):
    tiny, params = loaded
    assert params["fc"]["kernel"].dtype == params["fc"]["bias"].dtype == jnp.float32
    assert isinstance(params["fc"]["kernel"], jax.Array)
    np.testing.assert_array_equal(params["fc"]["kernel"], TENSORS["fc.weight"].T)
    np.testing.assert_array_equal(params["fc"]["bias"], TENSORS["fc.bias"])
    np.testing.assert_array_equal(tiny(params, jnp.ones((1, 4, 4, 3))), [[4, 13]])


def test_load_fetches_once(server, stored):
    assert_tiny(load("tiny"))
    assert not server.requests
    assert [path.name for path in stored.parent.iterdir()] == ["tiny.safetensors"]
    if os.name == "posix":
        umask = os.umask(0)
        os.umask(umask)
        assert stored.stat().st_mode & 0o777 == 0o666 & ~umask


def test_load_of_an_unknown_name(server):
    with pytest.raises(ValueError, match=r"got 'tinny' \(did you mean 'tiny'\?\); known: tiny, other"):
        load("tinny")
    with pytest.raises(ValueError, match=r"got '\.\./\.\./tiny'"):
        load("../../tiny")


def test_available(server, stored):
    rows = available()
    assert rows["tiny"] == ("tiny", "tiny net", 8, server.manifest["tiny"].sources[0].url, "CC0", True)
    assert not rows["other"].cached


def test_verify(server, stored):
    source = server.manifest["tiny"].sources[0]
    assert verify("tiny") == ("tiny", source.url, source.sha256, False)
    with pytest.raises(FileNotFoundError, match="jaxviz weights fetch other"):
        verify("other")


def rewrite(path, **changes):
    """Store other metadata with the same tensors."""
    save_file(load_file(path), path, {**_load._metadata(path), **changes})


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-4]), "cut short or damaged"),
    "truncated in its header": (lambda path: path.write_bytes(path.read_bytes()[:40]), "truncated or damaged"),
    "empty": (lambda path: path.write_bytes(b""), "expected weights"),
    "not safetensors": (lambda path: path.write_bytes(b"\x05" + bytes(7) + b"[1,2]"), "expected weights"),
    "corrupted": (flip_a_bit, "expected tensors of digest"),
    "someone else's": (lambda path: save_file(load_file(path), path), "expected a file that jaxviz stored"),
    "of another source": (lambda path: rewrite(path, source_sha256="0" * 64), "expected a source of the manifest"),
    "of another converter": (lambda path: rewrite(path, converter="0"), "expected converter 1, got 0"),
    "of another network": (lambda path: rewrite(path, network="other"), "got the weights of other"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_cache_is_refused_and_fetched_again(server, stored, damage):
    spoil, text = DAMAGES[damage]
    spoil(stored)
    with pytest.raises(RefusedWeightsError, match=text):
        verify("tiny")
    with pytest.warns(UserWarning, match=f"(?s)the cached weights of tiny were refused.*{text}.*fetches them again"):
        assert_tiny(load("tiny"))
    assert_tiny(load("tiny"))
    assert len(server.requests) == 1, "the second load reads what the first has fetched again"


def test_swapped_cache_files_are_refused(server, stored):
    load("other")
    stored.with_name("other.safetensors").replace(stored)
    with pytest.warns(UserWarning, match="expected tiny, got the weights of other"):
        assert_tiny(load("tiny"))


def test_a_damaged_cache_without_network(server, stored):
    flip_a_bit(stored)
    (server.folder / "tiny").unlink()
    with (
        pytest.warns(UserWarning, match="refused"),
        pytest.raises(WeightsUnavailableError, match="jaxviz weights import FILE"),
    ):
        load("tiny")


def test_failures_leave_nothing_behind(server, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(_load.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        load("tiny")
    assert not list((tmp_path / "cache" / "weights").iterdir())


@pytest.mark.slow
def test_two_processes_fetching_at_once_end_with_one_good_file(server, tmp_path):
    source = server.manifest["tiny"].sources[0]
    program = f"""
        import sys, time
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import test_load
        from jaxviz.models import _conversion, _fetch, _load
        manifest = {{"tiny": _fetch.Entry("", "", (_fetch.UrlSource({source.url!r}, {source.sha256!r}),))}}
        _load.read_manifest = _fetch.read_manifest = _conversion.read_manifest = lambda: manifest
        _conversion.networks = lambda: {{"tiny": test_load.Network(test_load.net, test_load.convert, test_load.shapes)}}
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(5):
            test_load.assert_tiny(_load.load("tiny"))
            _load._cache_path("tiny").unlink(missing_ok=True)
        test_load.assert_tiny(_load.load("tiny"))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len(server.requests) >= 2
    assert_tiny(load("tiny"))
    assert [path.name for path in (tmp_path / "cache" / "weights").iterdir()] == ["tiny.safetensors"]


def test_import_of_a_published_file(server):
    assert import_weights(server.folder / "tiny") == "tiny"
    assert not server.requests
    assert_tiny(load("tiny"))
    assert not verify("tiny").by_hand
    with pytest.raises(ValueError, match="holds the published weights of tiny, expected other"):
        import_weights(server.folder / "tiny", name="other")


def write_h5(path):
    with h5py.File(path, "w") as file:
        file["fc/kernel:0"] = 2 * TENSORS["fc.weight"].T
        file["fc/bias:0"] = TENSORS["fc.bias"]
    return path


def write_safetensors(path):
    save_file({"fc.weight": 2 * TENSORS["fc.weight"], "fc.bias": TENSORS["fc.bias"]}, path)
    return path


@pytest.mark.parametrize("write", [write_h5, write_safetensors])
def test_import_of_ones_own_file(server, tmp_path, write):
    path = write(tmp_path / "own")
    with pytest.raises(ValueError, match=r"in the manifest, got .*own.*jaxviz weights import .*own --name NAME"):
        import_weights(path)
    with pytest.raises(ValueError, match="got 'tinny'"):
        import_weights(path, name="tinny")
    assert import_weights(str(path), name="tiny") == "tiny"
    assert verify("tiny") == ("tiny", str(path), hashlib.sha256(path.read_bytes()).hexdigest(), True)
    np.testing.assert_array_equal(load("tiny")[1]["fc"]["kernel"], 2 * TENSORS["fc.weight"].T)
    assert not server.requests


@pytest.mark.parametrize("spoil", [flip_a_bit, lambda path: path.write_bytes(path.read_bytes()[:-4])])
def test_damaged_imports_are_not_replaced_by_published_weights(server, tmp_path, spoil):
    import_weights(write_safetensors(tmp_path / "own"), name="tiny")
    spoil(tmp_path / "cache" / "weights" / "tiny.safetensors")
    with pytest.raises(RefusedWeightsError, match="imported by hand: import them again, or remove the file"):
        load("tiny")
    assert not server.requests


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        (
            {"conv.weight": np.zeros(3, np.float32)},
            r"does not fit tiny: expected a tensor 'fc/kernel:0'.*conv\.weight \[3\]",
        ),
        ({**TENSORS, "fc.bias": np.zeros(4, np.float16)}, r"fc/bias: expected \(2,\), got \(4,\)"),
    ],
)
def test_imports_that_do_not_fit(server, tmp_path, tensors, text):
    save_file(tensors, tmp_path / "own")
    with pytest.raises(ValueError, match=text):
        import_weights(tmp_path / "own", name="tiny")
    assert not (tmp_path / "cache").exists()


def test_the_cache_is_the_platforms_by_default(monkeypatch):
    monkeypatch.delenv("JAXVIZ_CACHE", raising=False)
    assert _load._cache_path("tiny").parts[-3:] == ("jaxviz", "weights", "tiny.safetensors")


def test_cli_verbs(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(ValueError, match="expected names of networks"):
        _weights.Fetch(()).run()
    _weights.Fetch(("tiny",)).run()
    assert server.manifest["tiny"].sources[0].sha256 in capsys.readouterr().out
    _weights.Import(write_h5(tmp_path / "own"), name="other").run()
    assert "The weights of other are in the cache" in capsys.readouterr().out
    _weights.List().run()
    assert "tiny net" in capsys.readouterr().out
    _weights.Verify().run()
    out = capsys.readouterr().out
    assert out.count("good") == 2
    assert "(imported by hand)" in out
    flip_a_bit(tmp_path / "cache" / "weights" / "tiny.safetensors")
    with pytest.raises(SystemExit, match="1"):
        _weights.Verify(("tiny",)).run()
    assert "refused" in capsys.readouterr().out


def test_every_network_has_weights_and_every_weight_a_network():
    networks = pytest.importorskip("jaxviz.models._networks").NETWORKS
    assert set(networks) == set(_fetch.read_manifest())


def test_the_cache_may_stand_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXVIZ_CACHE", "~/networks")
    assert _load.cache_folder() == tmp_path / "networks"


# An import is right or refused


def imported(tmp_path, tensors, **options):
    save_file({name: np.asarray(tensor) for name, tensor in tensors.items()}, tmp_path / "own")
    return import_weights(tmp_path / "own", name="tiny", **options)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"fc.bias": np.array([1, np.nan], np.float32)}, r"fc\.bias: expected finite numbers, got 1 that are not"),
        ({"fc.bias": np.array([1, np.inf], np.float32)}, "expected finite numbers, got 1 that are not"),
        ({"fc.bias": np.array([1, 1e300])}, "expected finite numbers, got 1 that are not"),
        ({"fc.bias": np.array([1, 2], np.int8)}, "expected floating-point numbers, got int8"),
        ({"fc.scale": np.ones(2, np.float32)}, r"others that it does not use: fc\.scale"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_imports_of_what_is_no_weight(server, tmp_path, changes, text):
    with pytest.raises(ValueError, match=text):
        imported(tmp_path, TENSORS | changes)
    assert not (tmp_path / "cache").exists()


def test_counts_of_batches_are_no_weights(server, tmp_path):
    assert imported(tmp_path, TENSORS | {"fc.num_batches_tracked": np.ones((), np.int64)}) == "tiny"


OWN = {"kernel": np.arange(6, dtype=np.float32).reshape(3, 2), "bias": np.ones(2, np.float32)}


@pytest.mark.parametrize("names", ["fc/{}", "params/fc/{}", "fc.{}", "params.fc.{}", "fc.{}.value"])
def test_import_of_the_networks_own_parameters(server, tmp_path, names):
    """As Flax and Orbax name them."""
    imported(tmp_path, {names.format(name): tensor for name, tensor in OWN.items()})
    np.testing.assert_array_equal(load("tiny")[1]["fc"]["kernel"], OWN["kernel"])
    extra = {names.format(name): tensor for name, tensor in OWN.items()} | {"params/batch_stats/mean": OWN["bias"]}
    with pytest.raises(ValueError, match=r"batch_stats/mean: expected none"):
        imported(tmp_path, extra)


def test_import_of_flax_and_orbax(server, tmp_path):
    import flax.serialization
    import orbax.checkpoint

    tree = {"params": {"fc": OWN}, "step": 3}
    (tmp_path / "state.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "orbax", tree)
    for path in (tmp_path / "state.msgpack", tmp_path / "orbax"):
        assert import_weights(path, name="tiny") == "tiny"
        np.testing.assert_array_equal(load("tiny")[1]["fc"]["kernel"], OWN["kernel"])
        assert verify("tiny").by_hand


def test_import_of_what_load_stored(server, stored, tmp_path):
    """On another machine, without a name."""
    kept = tmp_path / "kept.safetensors"
    stored.rename(kept)
    assert import_weights(kept) == "tiny"
    assert_tiny(load("tiny"))
    assert not server.requests


def test_a_style_net_is_no_network(server):
    with pytest.raises(ValueError, match=r"got .*, a style net: give it to jaxviz\.load_style_net"):
        import_weights(_fetch.included("fast_style.safetensors"))


def test_import_of_a_part(server, tmp_path):
    tensors = {f"{part}.{name}": tensor for part in ("net", "ema") for name, tensor in TENSORS.items()}
    imported(tmp_path, tensors | {"ema.fc.bias": 3 * TENSORS["fc.bias"]}, part="ema")
    np.testing.assert_array_equal(load("tiny")[1]["fc"]["bias"], [3, 3])


# Photographs


@pytest.fixture
def pictured(server, monkeypatch):
    """Make `tiny` a network whose outputs on photographs the manifest knows."""
    params = {"fc": {"kernel": OWN["kernel"], "bias": OWN["bias"]}}
    network = Network(lambda p, x: net(p, x)[:, None, None], convert, shapes)
    monkeypatch.setattr(_conversion, "networks", lambda: {"tiny": network})
    name = "chelsea"
    means = np.asarray(network.net(params, _photographs._picture(name)[None]))[0, 0, 0]
    server.manifest["tiny"] = server.manifest["tiny"]._replace(
        expected=_fetch.Expected({}, {name: [(i, float(value)) for i, value in enumerate(means)]})
    )
    return server


def test_imports_are_checked_on_photographs(pictured, tmp_path):
    own = {f"fc/{name}": tensor for name, tensor in OWN.items()}
    imported(tmp_path, own)
    swapped = own | {"fc/kernel": OWN["kernel"][::-1].copy()}
    with pytest.raises(ValueError, match=r"not imported as tiny: .* as if its input channels were in reverse order"):
        imported(tmp_path, swapped)
    np.testing.assert_array_equal(load("tiny")[1]["fc"]["kernel"], OWN["kernel"])
    imported(tmp_path, swapped, check=False)
    np.testing.assert_array_equal(load("tiny")[1]["fc"]["kernel"], OWN["kernel"][::-1])


# What is read from the cache


def digested(server, stored):
    server.manifest["tiny"] = server.manifest["tiny"]._replace(digest=_load._metadata(stored)["digest"])


def test_published_weights_have_the_manifests_digest(server, stored):
    digested(server, stored)
    assert_tiny(load("tiny"))
    tensors = {**load_file(stored), "fc/bias": np.full(2, 7, np.float32)}
    save_file(tensors, stored, {**_load._metadata(stored), "digest": _load._digest(tensors)})
    with pytest.raises(RefusedWeightsError, match="expected the tensors of tiny of digest"):
        verify("tiny")
    with pytest.warns(UserWarning, match="expected the tensors of tiny of digest"):
        assert_tiny(load("tiny"))


def test_what_is_fetched_has_the_manifests_digest(server):
    server.manifest["tiny"] = server.manifest["tiny"]._replace(digest="0" * 64)
    with pytest.raises(RefusedWeightsError, match="expected the tensors of tiny of digest 0000"):
        load("tiny")


def test_the_published_tensors_in_another_file_are_the_published_ones(server, stored, tmp_path):
    digested(server, stored)
    imported(tmp_path, TENSORS)
    assert not verify("tiny").by_hand


@pytest.mark.skipif(os.name != "posix", reason="needs the modes of POSIX")
@pytest.mark.parametrize("by_hand", [True, False])
def test_files_that_others_can_write_to_are_refused_where_no_digest_tells(server, stored, by_hand):
    if by_hand:
        rewrite(stored, origin="imported by hand")
    stored.chmod(0o666)
    with pytest.raises(RefusedWeightsError, match="a file of your own that nobody else can write to"):
        verify("tiny")
    digested(server, stored)
    if not by_hand:
        assert_tiny(load("tiny"))
