"""Run the notebooks of this folder, and keep what they show.

    pip install -e '.[notebooks]' && python experiments/notebooks/run.py
    python experiments/notebooks/run.py --small --out /tmp/notebooks   # as CI does: small pictures, few steps

Six minutes on two idle cores, three of them small. What a cell prints to stderr, and what would differ from run to run
without a change, is not kept: a notebook is written whole, or not at all.
"""

import base64
import io
import re
from pathlib import Path

import nbformat
import tyro
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent


def main(small: bool = False, out: Path = HERE, only: tuple[str, ...] = ()) -> None:
    """Run each notebook in a kernel of its own.

    Args:
        small: with the smaller numbers that its first cell of code has in its metadata.
        out: folder for the notebooks with what they show.
        only: parts of names; by default all.
    """
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(HERE.glob("*.ipynb")):
        if only and not any(part in path.name for part in only):
            continue
        book = nbformat.read(path, as_version=4)
        numbers = next(cell for cell in book.cells if cell.cell_type == "code")
        asked = numbers.source
        numbers.source = numbers.metadata["small"] if small else asked
        NotebookClient(book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}).execute()
        numbers.source = asked
        written = out / f"{path.name}.new"
        written.write_text(nbformat.writes(tidied(book)))
        written.replace(out / path.name)  # whole, or not at all
        print(path.name, f"{(out / path.name).stat().st_size / 1e6:.2f} MB", flush=True)


def tidied(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a notebook without what says nothing about its results."""
    book.metadata = {key: book.metadata[key] for key in ("kernelspec", "language_info") if key in book.metadata}
    book.metadata["language_info"] = {"name": "python"}
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                data = output.get("data", {})
                if "image/png" in data:
                    kind, picture = _smaller(data.pop("image/png"))
                    data[f"image/{kind}"] = picture
                for kind in [kind for kind in data if kind.startswith("text/")]:
                    text = re.sub(r" at 0x[0-9a-f]+", "", data[kind])
                    data[kind] = re.sub(r"data:image/png;base64,([A-Za-z0-9+/=]+)", _smaller_link, text)
    return book


def _smaller(png: str) -> tuple[str, str]:
    """Return a picture as JPEG where that is much smaller, as it is of photographs: its format, and its base64."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").save(buffer, "jpeg", quality=88)
    jpeg = base64.b64encode(buffer.getvalue()).decode()
    return ("jpeg", jpeg) if 2 * len(jpeg) < len(png) else ("png", png.strip())


def _smaller_link(found: re.Match[str]) -> str:
    kind, picture = _smaller(found[1])
    return f"data:image/{kind};base64,{picture}"


if __name__ == "__main__":
    tyro.cli(main)
