"""The README's table of methods as a gallery: the pictures of `experiments/figures` by the three questions."""

import re
from pathlib import Path
from typing import NamedTuple

from PIL import Image

ROOT = Path(__file__).parents[2]
_WIDTH = 420  # pixels of a picture on the page, which leads to the whole


class Method(NamedTuple):
    """A row of the README's table."""

    name: str
    paper: str
    functions: list[str]
    figure: str
    """The name of its picture's file, or nothing."""


def methods() -> dict[str, list[Method]]:
    """Return the methods by question."""
    text = (ROOT / "README.md").read_text()
    lines = [line for line in text.split("| method | paper |")[1].split("\n\n")[0].splitlines()[2:]]
    found: dict[str, list[Method]] = {}
    question = ""
    for line in lines:
        name, paper, functions, picture = (cell.strip() for cell in line.strip("|").split("|"))
        figures = re.findall(r"\(experiments/figures/([\w.]+)\)", picture)
        figure = figures[0] if figures else ""
        if name.startswith("*"):
            question = name.strip("*")
            found[question] = [Method("all of them, side by side", "", [], figure)] if figure else []
        else:
            found[question].append(Method(name, paper, re.findall(r"`(\w+)`", functions), figure))
    return found


def copy(figure: str, out: Path) -> None:
    """Copy a picture to a page's folder, with a small one, `small/`, that loads at once."""
    (out / "figures" / "small").mkdir(parents=True, exist_ok=True)
    file = ROOT / "experiments" / "figures" / figure
    (out / "figures" / figure).write_bytes(file.read_bytes())
    with Image.open(file) as image:
        image.thumbnail((2 * _WIDTH, 4 * _WIDTH))
        image.convert("RGB").save(out / "figures" / "small" / f"{Path(figure).stem}.jpg", quality=88)
