"""What the pages list: every public name, by the sections of `help(jaxviz)`, with its signature from the source."""

import ast
import inspect
import itertools
import re
import textwrap
import types
from pathlib import Path
from typing import Any, NamedTuple

import jaxviz

PAGES = {  # a page for each section of `help(jaxviz)`
    "What do the units respond to?": "units",
    "Which pixels matter?": "pixels",
    "Which image would ...?": "synthesis",
    "Scores: what to explain, or to maximize": "scores",
    "Networks": "networks",
    "Images and pages": "images",
}
# Types are listed with the functions of their folder; those that are not named here, with images and pages.
FOLDERS = {"activation": "units", "attribution": "pixels", "synthesis": "synthesis", "scores": "scores"}
FOLDERS |= dict.fromkeys(("program", "models", "fast", "_types"), "networks")
ROOT = Path(inspect.getfile(jaxviz)).parent


class Entry(NamedTuple):
    """A public name, or a method of a public type."""

    name: str
    kind: str
    signature: str
    types: dict[str, str]
    doc: str
    methods: list["Entry"]


class Row(NamedTuple):
    """A line of `help(jaxviz)`: functions, and what they are for."""

    names: list[str]
    text: str


class Page(NamedTuple):
    """A page: the rows of a section, and an entry for each name in them and each type of its folder."""

    title: str
    slug: str
    rows: list[Row]
    entries: list[Entry]


def introduction() -> str:
    """Return what `help(jaxviz)` says before it lists the functions."""
    return (inspect.getdoc(jaxviz) or "").split(f"\n{next(iter(PAGES))}\n")[0].split("\n", 1)[1]


def pages() -> list[Page]:
    """Return the pages, in the order of `help(jaxviz)`."""
    public = {name: getattr(jaxviz, name) for name in dir(jaxviz) if not name.startswith("_")}
    sections = {}
    for block in (inspect.getdoc(jaxviz) or "").split("\n\n"):
        title, *lines = block.splitlines()
        if lines and all(line.startswith("  ") for line in lines):
            sections[title] = _rows(lines)
    if list(sections) != list(PAGES):
        raise ValueError(f"expected the sections {list(PAGES)} in help(jaxviz), got {list(sections)}")
    listed = {name for rows in sections.values() for row in rows for name in row.names}
    homes = {name: _home(name, value) for name, value in public.items() if name not in listed}
    found = []
    for title, rows in sections.items():
        names = [name for row in rows for name in row.names]
        names += sorted((name for name, slug in homes.items() if slug == PAGES[title]), key=str.lower)
        found.append(Page(title, PAGES[title], rows, [_entry(name, public[name]) for name in names]))
    return found


def _rows(lines: list[str]) -> list[Row]:
    rows: list[Row] = []
    for line in lines:
        head = re.match(r"  ((?:\w+, )*\w+)\s*(.*)", line)
        if line.startswith("   ") or head is None:
            rows[-1] = Row(rows[-1].names, f"{rows[-1].text} {line.strip()}".strip())
        else:
            more = re.findall(r"\w+_style_net", head[2])  # "train such a net; init_style_net, ..."
            rows.append(Row([*head[1].split(", "), *more], head[2]))
    return rows


def _home(name: str, value: Any) -> str:
    module = getattr(value, "__module__", "")
    parts = module.split(".") if module.startswith("jaxviz.") else ["", *_alias(name)[0].relative_to(ROOT).parts]
    return FOLDERS.get(parts[1].removesuffix(".py"), "images")


def _alias(name: str) -> tuple[Path, str, str]:
    """Return where an alias of types is written, how, and the text below it: it does not know it."""
    for path in sorted(ROOT.rglob("*.py")):
        if f"\n{name} = " not in (source := path.read_text()):
            continue
        body = ast.parse(source).body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
                text = after.value if isinstance(after, ast.Expr) else None
                told = str(text.value) if isinstance(text, ast.Constant) else ""
                return path, ast.unparse(node), inspect.cleandoc(told)
    raise ValueError(f"{name}: expected an assignment in {ROOT}, found none")


def _entry(name: str, value: Any) -> Entry:
    doc = inspect.getdoc(value) or ""
    if isinstance(value, type):
        signature, kinds = _of_class(name, value)
        kind = "error" if issubclass(value, Exception) else "type"
        own = {method: found for method, found in vars(value).items() if method[0] != "_"}
        own = {k: v for k, v in own.items() if isinstance(v, types.FunctionType | classmethod)}
        methods = [_entry(f"{name}.{method}", getattr(value, method)) for method in own]
        return Entry(name, kind, signature, kinds, doc, methods)
    if not hasattr(value, "__name__") or getattr(value, "__origin__", None) is not None:
        _, signature, doc = _alias(name)
        return Entry(name, "type", signature.replace("'", '"'), {}, doc, [])
    signature, kinds = _of_function(name, value)
    return Entry(name, "method" if "." in name else "function", signature, kinds, doc, [])


def _node(value: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(value)))).body[0]


def _text(node: ast.AST | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return "" if node is None else re.sub(r'" (\w+)"', r'"\1"', _plain(node))  # jaxtyping's way to write one axis


def _of_function(name: str, value: Any) -> tuple[str, dict[str, str]]:
    node = _node(value)
    assert isinstance(node, ast.FunctionDef), name
    given, kinds, parts = node.args, {}, []
    one = lambda arg, default, stars="": _argument(arg, default, stars, kinds)
    before = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(before) - len(given.defaults)) + list(given.defaults)
    for i, (arg, default) in enumerate(zip(before, defaults, strict=True)):
        if arg.arg not in ("self", "cls"):
            parts.append(one(arg, default))
        if i + 1 == len(given.posonlyargs):
            parts.append("/")
    if given.vararg or given.kwonlyargs:
        parts.append(one(given.vararg, None, "*") if given.vararg else "*")
    parts += [one(arg, default) for arg, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    parts += [one(given.kwarg, None, "**")] if given.kwarg else []
    returns = _text(node.returns)
    return _laid_out(name, parts, f" -> {returns}" if returns else ""), kinds


def _argument(arg: ast.arg, default: ast.AST | None, stars: str, kinds: dict[str, str]) -> str:
    kind = kinds[arg.arg] = _text(arg.annotation)
    value = _plain(default) if default is not None else ""
    return f"{stars}{arg.arg}" + (f": {kind}" if kind else "") + (f" = {value}" if value else "")


def _laid_out(name: str, parts: list[str], after: str) -> str:
    line = f"{name}({', '.join(parts)}){after}"
    return line if len(line) <= 96 else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){after}"


def _of_class(name: str, value: type) -> tuple[str, dict[str, str]]:
    """Return how it is made from its fields, or called if it is a protocol."""
    fields = getattr(value, "_fields", None) or tuple(getattr(value, "__dataclass_fields__", ()))
    if not fields:
        call = "__init__" if "__init__" in vars(value) else "__call__"
        found = vars(value).get(call)
        return _of_function(name, found) if isinstance(found, types.FunctionType) else (f"class {name}", {})
    kinds, defaults = {}, {}
    for base in value.__mro__:
        if base.__module__.split(".")[0] != "jaxviz":
            continue
        node = _node(base)
        assert isinstance(node, ast.ClassDef), name
        for line in node.body:
            if isinstance(line, ast.AnnAssign):
                kinds.setdefault(_text(line.target), _text(line.annotation))
                if line.value is not None and "field(" not in ast.unparse(line.value):
                    defaults.setdefault(_text(line.target), _plain(line.value))
    parts = [
        f"{field}: {kinds.get(field, 'Any')}" + (f" = {defaults[field]}" if field in defaults else "")
        for field in fields
    ]
    named = [getattr(found, "kw_only", False) for found in getattr(value, "__dataclass_fields__", {}).values()]
    if any(named):
        parts.insert(named.index(True), "*")
    return _laid_out(name, parts, ""), kinds


def _plain(node: ast.AST) -> str:
    return ast.unparse(node).replace("'", '"')


def glossary() -> list[tuple[str, str, str]]:
    """Return the aliases that signatures use: name, what it stands for, and what it is."""
    body = ast.parse((ROOT / "_types.py").read_text()).body
    found = []
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found.append((ast.unparse(node.targets[0]), _plain(node.value), str(after.value.value)))
        if isinstance(node, ast.ClassDef) and node.name == "Score":
            found.append((node.name, "(params, images) -> (n,)", ast.get_docstring(node) or ""))
    return found
