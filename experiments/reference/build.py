"""The reference: a page for each question, made from the docstrings, with the pictures and what the examples show.

    pip install -e '.[docs]' && python experiments/reference/build.py --out site

Every public name has its entry, in the order of `help(jaxviz)`. The examples are run, in this process: one that prints
something else than its docstring says ends the build, as do warnings and links that lead nowhere. About two minutes;
nothing is loaded from elsewhere when a page is looked at.
"""

import html
import importlib
import inspect
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import tyro
from pdoc import docstrings, render_helpers
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

import jaxviz

sys.path.insert(0, str(Path(__file__).parent))
examples: Any = importlib.import_module("examples")

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_FORMAT = HtmlFormatter(nowrap=True, classprefix="py-")


class Entry(NamedTuple):
    """A public name."""

    name: str
    signature: str
    html: str


class Page(NamedTuple):
    """A section of `help(jaxviz)`."""

    file: str
    title: str
    lines: list[tuple[list[str], str]]  # names, and what they do in one line
    entries: list[Entry]
    pictures: list[tuple[str, str]]  # file, caption


def main(out: Path = Path("site"), run: bool = True) -> None:
    """Write the pages.

    Args:
        out: folder for the pages, which is emptied of earlier ones.
        run: whether to run the examples; otherwise their output is what the docstrings say.
    """
    warnings.simplefilter("error")
    pages = _pages(run)
    links = {entry.name: f"{page.file}#{entry.name}" for page in pages for entry in page.entries}
    pages = [page._replace(entries=[_linked(entry, links) for entry in page.entries]) for page in pages]
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for old in (*out.glob("*.html"), *(out / "figures").glob("*.png")):
        old.unlink()
    template = jinja2.Environment(autoescape=True).from_string((HERE / "template.html").read_text())
    style = HtmlFormatter(style="friendly", classprefix="py-").get_style_defs()
    for page in (None, *pages):
        intro = render_helpers.to_html(_introduction()) if page is None else ""
        text = template.render(
            page=page, pages=pages, links=links, intro=intro, style=style, version=jaxviz.__version__
        )
        (out / ("index.html" if page is None else page.file)).write_text(text)
    for page in pages:
        for picture, _ in page.pictures:
            shutil.copy(ROOT / "experiments" / "figures" / picture, out / "figures" / picture)
    _check_links(out)
    print(f"{len(links)} names on {len(pages)} pages: {out / 'index.html'}")


def _introduction() -> str:
    return (jaxviz.__doc__ or "").split("\n\nWhat do")[0]


def _pages(run: bool) -> list[Page]:
    sections = re.split(r"\n\n(?=\S.*\n  \S)", (jaxviz.__doc__ or "").strip())[1:]
    pages, seen, captions = [], set(), _captions()
    for section in sections:
        title, *rows = section.splitlines()
        lines = _lines(rows)
        names = [name for some, _ in lines for name in some]
        seen |= set(names)
        title = title.split(":")[0]
        pictures = [(p, c) for p, (c, called) in captions.items() if set(called) & set(names) or title in c]
        captions = {p: c for p, c in captions.items() if p not in dict(pictures)}
        pages.append(Page(f"{_slug(title)}.html", title, lines, [_entry(name, run) for name in names], pictures))
    others = [name for name in sorted(jaxviz.__all__, key=str.lower) if name not in seen]  # type: ignore[attr-defined]
    entries = [_entry(name, run) for name in others]
    pages.append(Page("results.html", "Results, types and errors", [([name], "") for name in others], entries, []))
    return pages


def _lines(rows: list[str]) -> list[tuple[list[str], str]]:
    """Return the names of each line, and what is said of them, which may stand on the next."""
    lines: list[tuple[list[str], str]] = []
    for row in rows:
        found = re.match(r"  (\w+(?:, \w+)*)(?:\s{2,}|\s(?=arrays)|$)(.*)", row)
        if found:
            lines.append((found[1].split(", "), found[2]))
        elif lines:
            names, text = lines[-1]
            lines[-1] = names, f"{text} {row.strip()}".strip()
    # "train such a net; init_style_net, load_style_net": these have entries, too
    public = set(jaxviz.__all__)  # type: ignore[attr-defined]
    more = [[word for word in re.findall(r"\w+", text) if word in public and "_" in word] for _, text in lines]
    return [
        ([*names, *(w for w in extra if w not in names)], text)
        for (names, text), extra in zip(lines, more, strict=True)
    ]


def _captions() -> dict[str, tuple[str, list[str]]]:
    """Return what the README's table says of each picture: the method, and its functions."""
    found = {}
    for row in re.findall(r"^\| .*figures/.*$", (ROOT / "README.md").read_text(), re.M):
        method, _, names, picture = (cell.strip() for cell in row.strip()[1:-1].split("|"))
        for file in re.findall(r"figures/([\w.]+)", picture):
            found[file] = method.strip("*"), re.findall(r"`(\w+)`", names)
    return found


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _entry(name: str, run: bool) -> Entry:
    thing = getattr(jaxviz, name)
    doc = inspect.getdoc(thing) or ""
    return Entry(name, _signature(name, thing), _rendered(name, doc, run))


def _signature(name: str, thing: Any) -> str:
    """Return a signature on one line, or with a line for each argument."""
    if not callable(thing):
        return ""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    plain = signature.replace(
        parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()],
        return_annotation=signature.empty,
    )
    text = re.sub(r"<(?:function|class|object) '?(?:\w+\.)*(\w+)[^>]*>", r"\1", f"jaxviz.{name}{plain}")
    if len(text) > 100:
        text = re.sub(
            r"\((.*)\)$", lambda m: "(\n    " + re.sub(r", (?=[\w*])(?![^(\[]*[)\]])", ",\n    ", m[1]) + ",\n)", text
        )
    return highlight(text, PythonLexer(), _FORMAT)


def _rendered(name: str, doc: str, run: bool) -> str:
    """Return a docstring as HTML, with its examples run and what they show."""
    blocks: list[str] = []

    def block(found: re.Match[str]) -> str:
        blocks.append(found[0])
        return f"{found[1]}EXAMPLE{len(blocks) - 1}PLACE\n"

    # An example ends before a line that is empty.
    text = re.sub(r"^( *)>>> .*\n(?:(?! *$).*\n?)*", block, doc + "\n", flags=re.M)
    ran = iter(examples.ran(name, doc, run=run))
    made = []
    for source in blocks:
        count = len(examples.doctest.DocTestParser().get_examples(source))
        made.append("".join(map(_shown, (next(ran) for _ in range(count)))))
    rendered = render_helpers.to_html(docstrings.google(text))
    return re.sub(
        r"(?:<p>)?EXAMPLE(\d+)PLACE(?:</p>)?", lambda m: f'<div class="example">{made[int(m[1])]}</div>', rendered
    )


def _shown(ran: Any) -> str:
    text = f'<pre class="code">{highlight(ran.source, PythonLexer(), _FORMAT)}</pre>'
    text += f'<pre class="output">{html.escape(ran.text.rstrip())}</pre>' if ran.text.strip() else ""
    return text + "".join(f'<div class="shown">{one}</div>' for one in ran.shown)


def _linked(entry: Entry, links: dict[str, str]) -> Entry:
    def link(found: re.Match[str]) -> str:
        name = found[1].removeprefix("jaxviz.").split("(")[0]
        if name not in links or name == entry.name:
            return found[0]
        return f'<a href="{links[name]}"><code>{found[1]}</code></a>'

    return entry._replace(html=re.sub(r"<code>((?:jaxviz\.)?\w+(?:\([^<]*\))?)</code>", link, entry.html))


def _check_links(out: Path) -> None:
    texts = {path.name: path.read_text() for path in out.glob("*.html")}
    anchors = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in texts.items()}
    for name, text in texts.items():
        for target in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            if target.startswith("data:"):
                continue
            file, _, anchor = target.partition("#")
            there = (out / file).exists() if file else True
            if not there or (anchor and anchor not in anchors.get(file or name, ())):
                raise ValueError(f"{name}: a link leads nowhere: {target}")


if __name__ == "__main__":
    tyro.cli(main)
