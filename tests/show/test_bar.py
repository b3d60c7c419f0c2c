"""Bars: what they say, where, and that they change nothing else."""

import functools
import os
import pty
import re
import select
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxviz
from jaxviz.show._bar import Pace
from jaxviz.show._screens import html_of, picture_of

KEY = jax.random.key(0)


def brightness(params, images):
    return images.mean((1, 2, 3))


ascend = functools.partial(jaxviz.ascend, brightness, None, KEY, size=8, steps=16)

SCRIPT = """
import jax, jaxviz, sys
brightness = lambda params, images: images.mean((1, 2, 3))
def spoil(found):
    print("in between", file=sys.stderr)
    if found.done == 12 and "fail" in sys.argv:
        raise KeyError("spoiled")
jaxviz.ascend(brightness, None, jax.random.key(0), size=8, steps=16, every=4, progress=True, callback=spoil)
"""


def in_a_terminal(*args, script=SCRIPT):
    """Return what a script writes to a terminal, standard output and error together."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *args], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    written, ends = b"", time.monotonic() + 120
    while time.monotonic() < ends:
        if not select.select([ours], [], [], 1)[0]:
            continue
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        written += part
    process.wait(10)
    os.close(ours)
    return written.decode(), process.returncode


def test_a_bar_in_a_terminal():
    written, status = in_a_terminal()
    assert status == 0
    bare = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    lines = re.findall(r"ascend [━╸╺ ]+ (\d+)/16  loss (-0\.\d+)  ([\d:-]+) (left|in all)", bare)
    assert [int(done) for done, *_ in lines][-1] == 16
    assert {4, 8, 12, 16} <= {int(done) for done, *_ in lines}
    assert [at for *_, at, _ in lines if at == "-:--:--"]  # after the first look there is no pace yet
    assert any(re.fullmatch(r"\d:\d\d:\d\d", at) and word == "left" for *_, at, word in lines)
    assert lines[-1][-1] == "in all"
    assert "in between" in bare
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")  # the cursor is shown again


def test_one_bar_for_several_runs():
    """Each is drawn once, below what came before."""
    script = SCRIPT.replace("jaxviz.ascend", "bar = jaxviz.ProgressBar()\nfor steps in (4, 5):\n    jaxviz.ascend")
    written, status = in_a_terminal(script=script.replace("steps=16", "steps=steps").replace("=True", "=bar"))
    assert status == 0
    bare = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    last = bare[bare.index("5/5") - 80 :]
    assert "4/4" in bare
    assert "4/4" not in last


def test_a_run_that_fails_leaves_the_terminal_in_order():
    written, status = in_a_terminal("fail")
    assert status == 1
    assert "KeyError: 'spoiled'" in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1


def test_elsewhere_it_is_silent_unless_asked(capsys):
    ascend(progress=True)
    assert capsys.readouterr() == ("", "")
    ascend(progress=jaxviz.ProgressBar(always=True, title="white"))
    said = capsys.readouterr()
    assert said.out == ""
    first, last = said.err.splitlines()  # at most one in ten seconds
    assert re.fullmatch(r"white: ascend: 8/16  loss -0\.\d+  -:--:-- left", first)
    assert re.fullmatch(r"white: ascend: 16/16  loss -0\.\d+  0:00:\d\d in all", last)


def test_a_bar_is_a_callback(capsys):
    with jaxviz.ProgressBar(always=True) as bar:
        ascend(callback=bar)
    assert capsys.readouterr().err.count("\n") == 2


def test_the_result_is_the_same():
    plain, shown = ascend(), ascend(progress=True)
    np.testing.assert_array_equal(plain.images, shown.images)
    np.testing.assert_array_equal(plain.losses, shown.losses)
    assert repr(plain) == repr(shown)
    traced = jax.jit(lambda key: jaxviz.ascend(brightness, None, key, size=8, steps=16, progress=True).images)
    np.testing.assert_allclose(traced(KEY), plain.images, atol=1e-5)


def test_progress_and_callback_are_both_called_and_either_ends_the_run():
    seen = []
    found = ascend(every=2, progress=lambda so_far: seen.append(so_far.done), callback=lambda so_far: so_far.done == 6)
    assert (seen, found.done) == ([2, 4, 6], 6)
    found = ascend(every=2, progress=lambda so_far: so_far.done == 4, callback=lambda so_far: None)
    assert (found.done, found.finished) == (4, False)


def test_generators_have_it_too():
    seen = []
    frames = jaxviz.dream_zoom(
        brightness, None, KEY, jnp.full((1, 16, 16, 3), 0.5), frames=2, octaves=1, steps=2,
        progress=lambda found: seen.append(found.what),
    )  # fmt: skip
    assert next(frames).shape == (1, 16, 16, 3)
    assert seen == ["frame 1 of 2: dream"]
    frames.close()


@pytest.mark.usefixtures("users_view")
def test_errors():
    message = r"^progress: expected True, False, or a function that takes the result so far, got 'yes'$"
    with pytest.raises(ValueError, match=message):
        ascend(progress="yes")
    with pytest.raises(ValueError, match=r"^callback: expected a function"):
        ascend(progress=True, callback="print")


def test_tsne():
    seen = []
    x = np.random.default_rng(0).normal(size=(20, 8))
    look = lambda found: seen.append((found.what, found.done, found.total, found.points.shape, len(found.losses)))
    points = jaxviz.tsne(x, KEY, perplexity=5, steps=300, progress=look)
    assert [done for _, done, *_ in seen] == list(range(25, 301, 25))
    assert seen[-1] == ("tsne", 300, 300, (20, 2), 12)
    np.testing.assert_array_equal(points, jaxviz.tsne(x, KEY, perplexity=5, steps=300))
    sooner = jaxviz.tsne(x, KEY, perplexity=5, steps=300, progress=lambda found: found.done == 275)
    assert sooner.shape == (20, 2)
    assert not np.array_equal(sooner, points)


def found_at(done, losses=(1.0, 0.5), total=100, what="ascend"):
    images = np.full((1, 8, 8, 3), 0.5, np.float32)
    return jaxviz.Synthesis(images, np.array(losses), [], done == total).told(what, done, total)


def test_the_time_left(monkeypatch):
    clock = iter([10.0, 14.0, 20.0, 30.0])
    monkeypatch.setattr("jaxviz.show._bar.time.monotonic", lambda: next(clock))
    pace = Pace()
    assert pace.stand(found_at(8)).told() == "8/100  loss 0.5  -:--:-- left"  # the first look: it was compiled
    assert pace.stand(found_at(16)).told() == "16/100  loss 0.5  0:00:42 left"  # 8 in 4 seconds
    assert pace.stand(found_at(100)).told() == "100/100  loss 0.5  0:00:10 in all"
    assert pace.stand(found_at(8)).left is None  # of the next run
    training = jaxviz.StyleTraining({}, np.ones((80, 3)), False).told("train_style_net", 80, 100)
    monkeypatch.setattr("jaxviz.show._bar.time.monotonic", lambda: 40.0)
    assert pace.stand(training).loss == 3


def test_a_notebooks_bar():
    stand = Pace().stand(found_at(25, what="<b>ascend</b>"))
    page = html_of(stand, picture_of(found_at(25)))
    assert "&lt;b&gt;ascend&lt;/b&gt;" in page
    assert 'value="25.00"' in page
    assert page.count("data:image/png;base64,") == 1
    assert picture_of(jaxviz.Features(np.ones((2, 3)), ["a", "b"], {})) == ""


def test_every_function_that_has_a_callback_has_progress():
    import inspect

    functions = [getattr(jaxviz, name) for name in dir(jaxviz) if not name.startswith("_")]
    options = [set(inspect.signature(f).parameters) for f in functions if inspect.isfunction(f)]
    assert all("progress" in each for each in options if "callback" in each)
