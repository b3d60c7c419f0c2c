"""Scripts that tests run in processes of their own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jaxviz

PATHS = os.pathsep.join([str(Path(jaxviz.__file__).parents[1]), str(Path(__file__).parent)])


def on_eight_devices(script, *arguments):
    """Run a script where the CPU counts as eight devices; return what it prints."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": PATHS}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
