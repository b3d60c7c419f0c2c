"""The library without the packages that only parts of it need: what works, and what the errors of the rest say."""

import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest

import jaxviz
from jaxviz._extras import MissingPackageError, extra

ROOT = Path(jaxviz.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
NEEDED = ["jax", "jaxlib", "ml_dtypes", "opt_einsum", "optax", "numpy", "scipy", "jaxtyping", "wadler_lindig", "PIL"]
NEEDED += ["platformdirs", "absl", "typing_extensions"]
"""What the group `alone` installs, by the names of the imports."""

# A fresh interpreter that finds the packages of the library alone, as a small environment would.
ALONE = f"""
import importlib.machinery, sys
class Alone(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        found = super().find_spec(name, path, target)
        away = found and "." not in name and "site-packages" in str(found.origin) and name not in {NEEDED}
        return None if away else found
sys.meta_path[:] = [Alone if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
import jax, jax.numpy as jnp, jaxviz, numpy as np
net = lambda params, images: jax.nn.relu(images @ params).mean((1, 2))
params, images = jnp.eye(3), jnp.full((2, 8, 8, 3), 0.5)
"""


def run(script):
    done = subprocess.run([sys.executable, "-c", ALONE + script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_the_library_does_alone():
    script = """
score = jaxviz.logit(net, 1)
print(jaxviz.saliency(score, params, images).shape)
print(jaxviz.ascend(score, params, jax.random.key(0), size=8, steps=2).images.shape)
print(list(jaxviz.layers(net, params, images)))
jaxviz.montage(list(images)), jaxviz.load_image(np.zeros((9, 9), np.uint8), size=8), jaxviz.open_source(images)
jaxviz.neighbors(np.eye(3), np.eye(3), k=1)
"""
    assert run(script).splitlines() == ["(2, 8, 8)", "(1, 8, 8, 3)", "['dense_0', 'relu_0', 'global_avg_pool_0']"]


CALLS = {
    "grain": ("data", "jaxviz.features(net, params, images, layer='relu_0')"),
    "tensorflow-datasets": ("data", "jaxviz.open_source('tfds:mnist[test]')"),
    "openTSNE": ("embed", "jaxviz.tsne(np.eye(9), jax.random.key(0), perplexity=2)"),
    "scikit-learn": ("embed", "jaxviz.pca(np.eye(9))"),
    "pyarrow": ("table", "jaxviz.save_table('a.parquet', jaxviz.Features(np.eye(2), ['a', 'b'], {}))"),
    "flax": ("weights", "jaxviz.load('efficientnet_lite0')"),
    "safetensors": ("weights", "jaxviz.load_style_net()"),
    "matplotlib": ("plot", "jaxviz.plot(images)"),
    "rich": ("cli", "with jaxviz.show._screens.Terminal(): pass"),
    "tyro": ("cli", "import jaxviz.cli; jaxviz.cli._parse(['saliency', 'a.png'])"),
    "faiss-cpu": ("index", "jaxviz.approximate_neighbors(np.eye(9), np.eye(9), k=1)"),
    "umap-learn": ("umap", "jaxviz.umap(np.eye(9), jax.random.key(0), neighbors=3)"),
}


def test_an_error_names_the_package_and_the_extra():
    script = "calls = " + repr({package: call for package, (_, call) in CALLS.items()})
    script += """
for package, call in calls.items():
    try:
        exec(call)
    except ImportError as error:
        print(package, "|", error)
    else:
        print(package, "| nothing")
"""
    said = dict(line.split(" | ") for line in run(script).splitlines())
    for package, (name, _) in CALLS.items():
        assert package in said[package], (package, said[package])
        assert f"jaxviz-cnn[{name}]" in said[package], (package, said[package])
        assert name in EXTRAS
        assert any(requirement.startswith(package) for requirement in EXTRAS[name])


def test_clusters_of_facets_need_what_pca_does():
    script = """
from jaxviz.activation._facets import _clusters
try:
    _clusters(np.eye(4), 2)
except ImportError as error:
    print(error)
"""
    said = run(script)
    assert "scikit-learn" in said
    assert "jaxviz-cnn[embed]" in said


def test_the_shell_says_it_in_one_line():
    script = "import jaxviz.cli; print(jaxviz.cli.main(['--version']))"
    done = subprocess.run([sys.executable, "-c", ALONE + script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("jaxviz 0")
    script = "import jaxviz.cli; jaxviz.cli.main(['saliency', 'a.png'])"
    done = subprocess.run([sys.executable, "-c", ALONE + script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("jaxviz: this needs the package tyro, which is not installed: pip install tyro;")
    assert len(done.stderr.splitlines()) == 1


def test_other_errors_of_an_import_stay():
    def fails():
        with extra("data"):
            raise ImportError("cannot import name 'x' from 'grain'")

    with pytest.raises(ImportError, match="cannot import name") as raised:
        fails()
    assert not isinstance(raised.value, MissingPackageError)


def test_extras_and_the_default_have_the_same_packages():
    """What a plain install brings is what the library alone needs and all of its parts: nothing is left out."""
    default, alone = PROJECT["project"]["dependencies"], PROJECT["dependency-groups"]["alone"]
    parts = ["data", "embed", "weights", "train", "fast", "photos", "plot", "cli"]
    assert {*default} == {*alone}.union(*(EXTRAS[part] for part in parts))
    assert {"table", "umap", "index", "video", "notebooks", "docs", "test", "dev"} == {*EXTRAS} - {*parts}


def test_the_table_comes_with_a_plain_install():
    """As a dependency of TensorFlow Datasets, which is why the default does not name it."""
    assert any(requirement.startswith("pyarrow") for requirement in requires("tensorflow-datasets") or [])
