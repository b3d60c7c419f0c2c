"""Settings and small networks that the tests share."""

import os

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from PIL import Image

# Nearly all of the time goes into compiling small programs that run once: the tests ask for no optimization of them.
# Read when the first array is made; `XLA_FLAGS=` runs the tests on programs as users have them, as parity's do.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if jax.__version_info__ < (0, 11):  # XLA ends the process at a flag that it no longer knows
    FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory):
    """Keep compiled programs for the session: tests, in all their processes, compile many of them alike."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
    settings = {"jax_compilation_cache_dir": str(folder), "jax_persistent_cache_min_compile_time_secs": 0.0}
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture(scope="session", autouse=True)
def unfiltered_tracebacks():
    """Leave tracebacks as they are: JAX's filter takes 40 ms an error, a seventh of the time of what tries inputs."""
    jax.config.update("jax_traceback_filtering", "off")


@pytest.fixture(scope="module", autouse=True)
def forgotten_programs():
    """Let go of a module's programs: each has mapped memory, and of that a process can have only so many pieces."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Run a test in float64, where two right implementations agree to the last digits."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def users_promotions():
    """Let ranks and types be promoted where a test is about networks as users and other libraries write them."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def users_view():
    """Switch the checks of shapes off, which only tests have: bad input then meets our own errors, as a user's does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def images():
    return jax.random.uniform(jax.random.key(7), (2, 32, 32, 3))


@pytest.fixture(scope="session")
def small_params():
    """Parameters of `small_net`."""
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "w1": 0.4 * jax.random.normal(keys[0], (3, 3, 3, 8)),
        "b1": jnp.linspace(-0.2, 0.2, 8),
        "w2": 0.2 * jax.random.normal(keys[1], (3, 3, 8, 6)),
        "w3": jax.random.normal(keys[2], (6, 5)),
    }


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Eleven good images, two broken ones and a hidden one, in two folders."""
    root = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for i in range(8):
        (root / "b").mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20 + i, 30 - i, 3), np.uint8)).save(root / "b" / f"{i}.png")
    Image.fromarray(random.integers(0, 256, (25, 25), np.uint8)).save(root / "gray.png")
    Image.fromarray(random.integers(0, 256, (1, 1, 3), np.uint8)).save(root / "one.png")
    Image.fromarray(np.zeros((900, 1200, 3), np.uint8)).save(root / "large.jpg")
    (root / "b" / "3b.png").write_bytes((root / "b" / "3.png").read_bytes()[:200])
    (root / "a.jpg").write_text("no image")
    (root / ".hidden.png").write_text("nor this")
    return root
