"""The reference: pages of every public name, made from the docstrings, with a gallery of the methods.

    pip install '.[docs]' && python experiments/reference/make.py --out reference

Open `reference/index.html`. The examples run as doctest would run them, and results that show themselves are on the
page, as in a notebook, in two minutes of processor time. `--text` runs none: seconds, with the output that the
docstrings say, which the tests check.
An example that fails, a name without a text, or a link that leads nowhere is an error.
"""

import argparse
import html
import os
import re
import warnings
from pathlib import Path
from typing import Any

import docstrings
import entries
import gallery
import jinja2
import outputs
from pygments.formatters import HtmlFormatter

import jaxviz


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reference"), help="the folder that the pages are written to")
    parser.add_argument("--text", action="store_true", help="run no examples: the output is what the docstrings say")
    options = parser.parse_args()
    # As in the tests: nearly all of the time goes into compiling small programs that run once.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    make(options.out, run=not options.text)
    print(options.out / "index.html")


def make(out: Path, *, run: bool = True) -> None:
    """Write the pages to a folder; raise ValueError for a link to nothing."""
    import matplotlib

    matplotlib.use("agg")
    pages, methods = entries.pages(), gallery.methods()
    homes = {name: page.slug for page in pages for name in _names(page)}
    figures = {row.functions[0]: row.figure for rows in methods.values() for row in rows if row.functions}
    out.mkdir(parents=True, exist_ok=True)
    for figure in {row.figure for rows in methods.values() for row in rows} - {""}:
        gallery.copy(figure, out)
    template = _template(pages, homes)
    link = lambda name: _address(name, homes)
    words = [(name, html.escape(stands), docstrings.prose(text, link)) for name, stands, text in entries.glossary()]
    inside = dict.fromkeys((name for name, *_ in words), "index") | homes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = {page.slug: [_shown(entry, run, link, inside) for entry in page.entries] for page in pages}
    for page in pages:
        text = template.render(page=page, shown=shown[page.slug], figures=figures)
        (out / f"{page.slug}.html").write_text(text)
    introduction = docstrings.prose(entries.introduction(), link)
    index = template.render(page=None, introduction=introduction, methods=methods, words=words)
    (out / "index.html").write_text(index)
    if lost := lost_links(out):
        raise ValueError(f"links that lead nowhere: {', '.join(lost)}")


def _names(page: entries.Page) -> list[str]:
    return [name for entry in page.entries for name in (entry.name, *(method.name for method in entry.methods))]


def _address(name: str, homes: dict[str, str]) -> str | None:
    return f"{homes[name]}.html#{name}" if name in homes else None


def _shown(
    entry: entries.Entry, run: bool, link: docstrings.Link, inside: dict[str, str]
) -> tuple[entries.Entry, str, str, list[Any]]:
    """Return an entry with the HTML of its signature and its text, and its methods likewise."""
    if not entry.doc:
        raise ValueError(f"{entry.name}: expected a docstring")
    told = docstrings.rendered(entry, outputs.ran(entry.name, entry.doc, run=run), link)
    signature = docstrings.code(entry.signature, lambda name: None if name == entry.name else _address(name, inside))
    return entry, signature, told, [_shown(method, run, link, inside) for method in entry.methods]


def _template(pages: list[entries.Page], homes: dict[str, str]) -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    link = lambda name: f'<a href="{_address(name, homes)}"><code>{name}</code></a>'
    colors = HtmlFormatter(style="friendly").get_style_defs("pre"), HtmlFormatter(style="monokai").get_style_defs("pre")
    light, dark = ("\n".join(line for line in text.splitlines() if line.startswith("pre .")) for text in colors)
    common = {"pages": pages, "link": link, "version": jaxviz.__version__, "light": light, "dark": dark}
    prose = lambda text: docstrings.prose(text, lambda name: _address(name, homes)).removeprefix("<p>")
    environment.globals |= common | {"inline": lambda text: prose(text).strip().removesuffix("</p>")}
    return environment.get_template("page.html")


def lost_links(out: Path) -> list[str]:
    """Return the links and pictures of pages that lead to no file, and to no place within one."""
    texts = {path.name: path.read_text() for path in out.glob("*.html")}
    places = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in texts.items()}
    lost = []
    for name, text in texts.items():
        for address in set(re.findall(r'(?:href|src)="(?!data:)([^"]+)"', text)):
            file, _, place = address.partition("#")
            wrong = not (out / (file or name)).is_file() or (place and place not in places.get(file or name, set()))
            if wrong:
                lost.append(f"{address} in {name}")
    return sorted(lost)


if __name__ == "__main__":
    main()
