"""NumPy's arrays are what users have: pyright has nothing to say where they are given to public functions."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def errors_in(path):
    command = ["pyright", "--pythonpath", sys.executable, path.name]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    assert "informations" in done.stdout, done
    return re.findall(r":(\d+):\d+ - error: (.*)", done.stdout)


@pytest.mark.foreign
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright is one of the packages that contributors need")
def test_numpy_arrays_are_taken(tmp_path):
    code = (HERE / "user_code.py").read_text()
    wrong = '    jaxviz.saliency(score, params, "images")\n'
    (tmp_path / "code.py").write_text(code + wrong)  # outside of the project, and so of its settings
    (found,) = errors_in(tmp_path / "code.py")  # otherwise it would have looked at nothing
    assert int(found[0]) == len(code.splitlines()) + 1
    assert "saliency" in found[1]
