"""What takes long, and what is skipped, is told to the logger `jaxviz`, which says nothing unless asked."""

import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import jaxviz
from jaxviz.models import _fetch


def test_nothing_is_written_unless_asked():
    script = "import jaxviz, logging; logging.getLogger('jaxviz.models').warning('unheard')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("jaxviz").handlers)


def test_compiling_is_told_once(caplog):
    caplog.set_level(logging.INFO, logger="jaxviz")
    net = lambda params, images: jax.nn.relu(images @ params).mean((1, 2)) * 1.2345
    score, images = jaxviz.logit(net, 1), jnp.full((1, 7, 5, 3), 0.5)
    jaxviz.saliency(score, jnp.eye(3), images)
    told = [record.getMessage() for record in caplog.records if record.name == "jaxviz.program._shared"]
    assert sum(line.startswith("compiling ") for line in told) == sum(" in " in line for line in told) > 0
    caplog.clear()
    jaxviz.saliency(score, jnp.eye(3), images)
    assert not [record for record in caplog.records if record.name == "jaxviz.program._shared"]


def test_skipped_images_are_told(caplog, folder):
    caplog.set_level(logging.INFO, logger="jaxviz")
    net = lambda params, images: jax.nn.relu(images @ params)
    with pytest.warns(UserWarning, match="could not be read"):
        jaxviz.features(net, jnp.eye(3), folder, layer="relu_0", size=8)
    told = sorted(record.getMessage() for record in caplog.records if record.name == "jaxviz.data._batches")
    assert [line.split(": ")[0] for line in told] == ["skipped a.jpg", "skipped b/3b.png"]


def test_fetching_is_told(caplog, monkeypatch, tmp_path):
    caplog.set_level(logging.INFO, logger="jaxviz")
    source = _fetch.UrlSource("http://127.0.0.1:9/weights", "0" * 64)  # where nobody listens
    entry = _fetch.read_manifest()["vgg16_features"]._replace(sources=(source,))
    monkeypatch.setattr(_fetch, "read_manifest", lambda: {"vgg16_features": entry})
    with pytest.raises(jaxviz.WeightsUnavailableError):
        _fetch.fetch("vgg16_features", tmp_path, progress=False)
    told = [record.getMessage() for record in caplog.records]
    assert told[0].startswith("fetching the weights of vgg16_features: ")
    assert any(record.levelno == logging.WARNING for record in caplog.records)
