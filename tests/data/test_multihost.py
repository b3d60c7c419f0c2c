"""Two processes of a job find what one does, to the bit; also if they are killed and one, or two, go on."""

import signal
import socket
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from processes import PATHS

from jaxviz.data import _multihost

SCRIPT = """
    import os, sys, time
    import jax, numpy as np
    import jaxviz
    from nets import small_net
    given, out, number, processes, port, slow = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", num_processes=processes, process_id=number)
    assert jax.process_count() == processes
    params = dict(np.load(given))
    images = params.pop("images")
    read = []
    class Some:
        def __len__(self): return len(images)
        def __getitem__(self, i):
            time.sleep(slow / 10)
            read.append(i)
            return images[i] if i not in (4, 21) else b"broken"
    settings = {"layer": "relu_1", "size": 32, "batch_size": 4}
    seen = []
    if number == 0:  # as in a script that tells of its progress once
        tell = lambda found: seen.append(found.done)
    else:
        tell = None
    kept = jaxviz.features(small_net, params, Some(), store=os.path.join(out, "store"), callback=tell, **settings)
    assert read == [] or len(set(read)) < len(images) or processes == 1
    there = jaxviz.features(small_net, params, Some(), **settings)
    np.testing.assert_array_equal(np.asarray(kept.values), there.values)
    assert kept.ids == there.ids and sorted(kept.skipped) == sorted(there.skipped) == ["21", "4"]
    read.clear()
    found = jaxviz.top_patches(small_net, params, Some(), k=4, **settings)
    assert processes == 1 or len(set(read)) <= 12, read
    half = jaxviz.top_patches(small_net, params, Some(), k=4, callback=lambda now: number == 0, **settings)
    assert half.seen == 4 * processes
    again = jaxviz.top_patches(small_net, params, Some(), k=4, resume=half.state, **settings)
    for one, other in zip(found.layers["relu_1"], again.layers["relu_1"], strict=True):
        np.testing.assert_array_equal(one, other)
    patches = found.layers["relu_1"]
    np.savez(os.path.join(out, f"found-{number}.npz"), features=there.values, seen=found.seen,
             skipped=sorted(found.skipped), **patches._asdict() | {"ids": np.array(patches.ids)})
"""


def started(given, out, processes, slow=0):
    """Start the processes of a job on this machine, one device each."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    out.mkdir(exist_ok=True)
    environment = {"PYTHONPATH": PATHS, "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(SCRIPT), given, out]
    arguments = [[*command, number, processes, port, slow] for number in range(processes)]
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen([str(x) for x in line], **options) for line in arguments]


def finished(jobs):
    for job in jobs:
        _, errors = job.communicate(timeout=300)
        assert job.returncode == 0, errors[-3000:]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def given(small_params, tmp_path):
    images = np.random.default_rng(1).random((23, 32, 32, 3), np.float32)
    np.savez(tmp_path / "given.npz", images=images, **small_params)
    return tmp_path / "given.npz"


@pytest.mark.slow
def test_two_processes_find_what_one_does(given, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    finished(started(given, one, 1))
    finished(started(given, two, 2))
    assert content(one / "store") == content(two / "store")
    with np.load(one / "found-0.npz") as alone:
        assert alone["features"].shape == (21, 6)
        for number in (0, 1):
            with np.load(two / f"found-{number}.npz") as together:
                assert sorted(together) == sorted(alone)
                for name in alone:
                    np.testing.assert_array_equal(together[name], alone[name])


@pytest.mark.slow
def test_killed_they_go_on(given, tmp_path):
    """Two are killed in the middle; two others go on and leave the bytes of an undisturbed run."""
    finished(started(given, tmp_path / "whole", 1))
    jobs = started(given, tmp_path / "killed", 2, slow=3)
    journal, deadline = tmp_path / "killed" / "store" / "rows.jsonl", time.time() + 120
    while not (journal.exists() and journal.stat().st_size) and time.time() < deadline:
        time.sleep(0.02)
    for job in jobs:
        job.send_signal(signal.SIGKILL)
        job.communicate()
    assert 0 < journal.stat().st_size < (tmp_path / "whole" / "store" / "rows.jsonl").stat().st_size
    finished(started(given, tmp_path / "killed", 2))
    assert content(tmp_path / "killed" / "store") == content(tmp_path / "whole" / "store")


def test_one_process_needs_no_others():
    assert _multihost.agreed(1) is True
    assert _multihost.share(range(5), 2) == [0, 1, 2, 3, 4]
    assert list(_multihost.rounds(iter("ab"), 2)) == [["a"], ["b"]]
