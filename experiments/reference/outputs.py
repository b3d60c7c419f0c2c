"""Runs the examples of a docstring as doctest does, and keeps what they print and the results that show themselves."""

import ast
import contextlib
import doctest
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS  # as in pyproject.toml


class Ran(NamedTuple):
    """A statement with what it printed, and the HTML of the results that show themselves."""

    source: str
    text: str
    shown: list[str]


class ExampleError(Exception):
    """An example raises, or prints something else than its docstring says."""


def ran(name: str, doc: str, *, run: bool = True) -> list[Ran]:
    """Return the statements of a docstring's examples, with their output.

    Args:
        name: what it is the docstring of.
        doc: the docstring.
        run: whether to run them, in an empty temporary folder. Otherwise, and where they are marked `+SKIP`, the output
            is what the docstring says.

    Returns:
        One for each statement.

    Raises:
        ExampleError: an example raises, or its output is not that of the docstring.
    """
    examples = doctest.DocTestParser().get_examples(doc, name)
    if not run or any(example.options.get(doctest.SKIP) for example in examples):
        return [Ran(_plain(example.source), example.want, []) for example in examples]
    scope: dict[str, Any] = {"__name__": "__main__"}
    with _elsewhere():
        return [_ran(name, example, scope) for example in examples]


def _plain(source: str) -> str:
    return "\n".join(line.split("  # doctest:")[0] for line in source.splitlines()) + "\n"


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def _ran(name: str, example: doctest.Example, scope: dict[str, Any]) -> Ran:
    results: list[Any] = []
    scope["_seen"] = lambda value: results.append(value) or value
    tree = ast.fix_missing_locations(_Watched().visit(ast.parse(example.source, mode="single")))
    printed, hook = io.StringIO(), sys.displayhook
    sys.displayhook = lambda value: None if value is None else print(repr(value))
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, f"<example of {name}>", "single"), scope)
    except Exception as error:
        if example.exc_msg is None or not str(error).startswith(example.exc_msg.split(": ", 1)[-1].strip()):
            raise ExampleError(f"{name}: the example {example.source.strip()!r} raised {error!r}") from error
        return Ran(_plain(example.source), example.want, [])
    finally:
        sys.displayhook = hook
    text = printed.getvalue()
    if not doctest.OutputChecker().check_output(example.want, text, FLAGS):
        raise ExampleError(f"{name}: {example.source.strip()!r}: expected {example.want!r}, got {text!r}")
    return Ran(_plain(example.source), example.want, [html for value in results if (html := _html(value))])


class _Watched(ast.NodeTransformer):
    """Hands what each call `jaxviz.name(...)` returns to `_seen`: examples often print but a part of a result."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        function = node.func
        if isinstance(function, ast.Attribute) and getattr(function.value, "id", "") == "jaxviz":
            return ast.Call(ast.Name("_seen", ast.Load()), [node], [])
        return node


def _html(value: Any) -> str:
    if hasattr(value, "savefig"):  # a figure, which shows itself only where there is a notebook
        file = io.StringIO()
        value.savefig(file, format="svg")
        return file.getvalue()[file.getvalue().index("<svg") :]
    method = getattr(type(value), "_repr_html_", None)
    return (method(value) or "") if method is not None else ""
