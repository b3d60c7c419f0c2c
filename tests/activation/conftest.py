"""A folder of images as users have them: with broken ones among the good."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Eleven good images, two broken ones and a hidden one, in two folders."""
    root = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for i in range(8):
        (root / "b").mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20 + i, 30 - i, 3), np.uint8)).save(root / "b" / f"{i}.png")
    Image.fromarray(random.integers(0, 256, (25, 25), np.uint8)).save(root / "grey.png")
    Image.fromarray(random.integers(0, 256, (1, 1, 3), np.uint8)).save(root / "one.png")
    Image.fromarray(np.zeros((900, 1200, 3), np.uint8)).save(root / "large.jpg")
    (root / "b" / "3b.png").write_bytes((root / "b" / "3.png").read_bytes()[:200])
    (root / "a.jpg").write_text("no image")
    (root / ".hidden.png").write_text("nor this")
    return root
