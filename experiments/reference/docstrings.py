"""Docstrings in Google's style as HTML: sections as lists, code in color, public names as links."""

import html
import inspect
import re
from collections.abc import Callable

from entries import Entry
from markdown_it import MarkdownIt
from outputs import Ran
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

LISTS = ("Args", "Attributes", "Raises", "Warns")
HEADS = (*LISTS, "Returns", "Yields", "Example")
TITLES = {"Args": "Arguments", "Warns": "Warnings"}
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
Link = Callable[[str], str | None]


def code(source: str, link: Link) -> str:
    """Return a program in color, public names in it linked."""
    text = highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).rstrip("\n")

    def linked(match: re.Match[str]) -> str:
        address = link(match["name"])
        return match[0] if address is None else f'{match["before"]}<a href="{address}">{match["name"]}</a></span>'

    before = r'(?P<before><span class="n">jaxviz</span><span class="o">\.</span><span class="n">|<span class="n">)'
    return re.sub(before + r"(?P<name>\w+)</span>", lambda m: linked(m) if _qualified(m) else m[0], text)


def _qualified(match: re.Match[str]) -> bool:
    """Whether a name is `jaxviz.name`, or a type: variables of examples may have names of functions."""
    return "jaxviz" in match["before"] or match["name"][0].isupper()


def prose(text: str, link: Link, own: frozenset[str] = frozenset()) -> str:
    """Return Markdown as HTML; `name` in it is a link if it is public, and no argument of the entry's `own`."""

    def linked(match: re.Match[str]) -> str:
        name = re.match(r"(?:jaxviz\.)?([\w.]+)", match[1])
        address = link(name[1]) if name and name[1] not in own else None
        return match[0] if address is None else f'<a href="{address}">{match[0]}</a>'

    return re.sub(r"<code>([^<\n]+)</code>", linked, _MARKDOWN.render(text))


def rendered(entry: Entry, examples: list[Ran], link: Link) -> str:
    """Return an entry's docstring as HTML."""
    own = frozenset(entry.types)
    parts, last = [], False
    for head, text in _sections(entry.doc):
        if not head:
            kind = ' class="paper"' if last and re.search(r"\b(19|20)\d\d\b", text) else ""
            parts.append(f"<div{kind}>{prose(text, link, own)}</div>")
            continue
        parts.append(f"<h4>{TITLES.get(head, head)}</h4>")
        if head in LISTS:
            parts.append(_items(text, entry, link, own))
        elif head == "Example":
            parts.append(_example(examples, link))
            last = True
        else:
            parts.append(prose(text, link, own))
    return "".join(parts)


def _sections(doc: str) -> list[tuple[str, str]]:
    pieces = re.split(rf"(?m)^({'|'.join(HEADS)}):\n((?:    .*\n?|\n)+)", doc)
    found = [("", pieces[0])]
    for head, inside, after in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        found += [(head, inspect.cleandoc(inside)), ("", after)]
    return [(head, text) for head, text in found if text.strip()]


def _items(text: str, entry: Entry, link: Link, own: frozenset[str]) -> str:
    lines = []
    for item in re.split(r"\n(?=\S)", text):
        names, _, rest = item.partition(":")
        if "`" in names or not rest:  # a sentence, and no name before a colon
            lines.append(f"<dd>{prose(inspect.cleandoc(item), link, own)}</dd>")
            continue
        kinds = {entry.types.get(name.strip("*"), "") for name in names.split(", ")} - {""}
        kind = f' <span class="type">{html.escape(kinds.pop())}</span>' if len(kinds) == 1 else ""
        body = prose(inspect.cleandoc(f"\n{rest.strip()}" if "\n" not in rest else _flat(rest)), link, own)
        lines.append(f"<dt><code>{html.escape(names)}</code>{kind}</dt><dd>{body}</dd>")
    return f"<dl>{''.join(lines)}</dl>"


def _flat(rest: str) -> str:
    first, _, more = rest.partition("\n")
    return f"{first.strip()}\n{inspect.cleandoc(more)}"


def _example(examples: list[Ran], link: Link) -> str:
    """Return statements with what they print; what shows itself stands below the statement that made it."""
    blocks, lines = [], ""
    for statement in examples:
        lines += code(statement.source, link) + "\n"
        if statement.text:
            lines += f'<span class="out">{html.escape(statement.text.rstrip())}</span>\n'
        if statement.shown:
            blocks += [f"<pre>{lines}</pre>", *(f'<div class="shown">{one}</div>' for one in statement.shown[-2:])]
            lines = ""
    return "".join([*blocks, f"<pre>{lines}</pre>" if lines else ""])
