"""`--model FILE.py:FUNCTION` and `--model PACKAGE.MODULE:FUNCTION`: networks from the user's own code.

The file is run, as `python FILE.py` would run it, and the function is called without arguments.
"""

import ast
import importlib
import importlib.machinery
import importlib.util
import sys
import traceback
import types
from collections.abc import Callable
from difflib import get_close_matches
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from jaxviz.models import Network

_FORMS = "FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION"
_RETURNS = "(net, params) or a jaxviz.Network(net, params, ...)"


def is_own(model: str) -> bool:
    """Tell what names a function of the user's from the name of a network that comes with jaxviz."""
    return ":" in model or model.endswith(".py")


def own_network(model: str) -> Network:
    """Call the function that `model` names, and return its network.

    Raises:
        ValueError: there is no such file, module or function, several are meant, it raised, or it returned no network.
    """
    place, _, name = (model, "", "") if model.endswith(".py") else model.rpartition(":")
    is_file = place.endswith(".py") or "/" in place or "\\" in place
    if not place or not all(part.isidentifier() for part in name.split(".")):
        there = f"; {place} has {_listed(_functions_in(Path(place)))}" if is_file and Path(place).is_file() else ""
        raise ValueError(f"--model: expected {_FORMS}, got {model!r}{there}")
    module = _run(model, lambda: _from_file(model, Path(place)) if is_file else _imported(model, place))
    function = _function(model, module, name)
    return _as_network(model, _run(model, function))


# The module


def _from_file(model: str, path: Path) -> types.ModuleType:
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise _ModelError(f"--model {model}: expected a Python file at {path}, got {got}")
    path = path.resolve()
    name = f"jaxviz_model_{path.stem}"  # its own name may be that of a module it imports
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # for what it imports from beside it
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def _imported(model: str, name: str) -> types.ModuleType:
    first = name.partition(".")[0]
    here = _places(PathFinder.find_spec(first, [str(Path.cwd())]))
    installed = _places(PathFinder.find_spec(first, [at for at in sys.path if at and Path(at).resolve() != Path.cwd()]))
    if here and installed and here != installed:
        raise _ModelError(
            f"--model {model}: expected one module {first}, got two: {here[0]} and {installed[0]}; say the file, as in "
            f"{first}.py:FUNCTION, or run the command in another folder for the installed one"
        )
    if not here and not installed and first not in sys.builtin_module_names:
        raise _ModelError(f"--model {model}: expected a module that Python finds here or installed, got {name!r}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def _places(spec: ModuleSpec | None) -> list[str]:
    """Return where a module is."""
    found = [] if spec is None else [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return [str(Path(at).resolve()) for at in found if at]


# The function


def _function(model: str, module: types.ModuleType, name: str) -> Callable[[], Any]:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if callable(found):
        return found
    at = getattr(module, "__file__", None) or module.__name__
    own = [key for key, value in vars(module).items() if callable(value) and _is_of(value, module)]
    got = "none of this name" if found is None else f"a {type(found).__name__}"
    close = get_close_matches(name, own, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(f"--model {model}: expected a function {name!r} in {at}, got {got}{hint}; it has {_listed(own)}")


def _is_of(value: Any, module: types.ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def _functions_in(path: Path) -> list[str]:
    """Return the functions that a file defines, without running it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) or "no functions"


# What it does, and returns


class _ModelError(ValueError):
    """An error of ours, which is told as it is."""


def _run(model: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except _ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"--model {model} raised {described(error)}") from error


def described(error: BaseException) -> str:
    """Return what was raised in code of the user's, and where: the last lines of its traceback."""
    only = "".join(traceback.format_exception_only(error)).strip()
    hidden = ("<frozen ", str(Path(__file__).resolve().parents[1]))
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(hidden)]
    libraries = (f"{sys.prefix}/", f"{sys.base_prefix}/lib/python")
    own = [each for each in frames if not each.filename.startswith(libraries)]
    shown = own[-3:] + ([] if not frames or frames[-1] in own else frames[-1:])
    lines = "".join(traceback.format_list(shown)).rstrip()
    return f"{only}\n{lines}" if lines else only


def _as_network(model: str, returned: Any) -> Network:
    """Return what a function returned as a network; it may be a pair."""
    if isinstance(returned, Network):
        return returned
    expected = f"--model {model}: expected {_RETURNS} to be returned"
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        count = f" of {len(returned)}" if isinstance(returned, tuple | list) else ""
        raise ValueError(f"{expected}, got a {type(returned).__name__}{count}{advice_on(returned)}")
    net, params = returned
    if not callable(net):
        swapped = "; the network comes first" if callable(params) else ""
        raise ValueError(f"{expected}, got ({type(net).__name__}, {type(params).__name__}){swapped}{advice_on(net)}")
    return Network(net, params)


_GLUE = {
    "flax.linen": "its method is the network: (model.apply, variables)",
    "flax.nnx": "graph, state = nnx.split(model), then (lambda state, images: nnx.merge(graph, state)(images), state)",
    "equinox": "arrays, static = eqx.partition(model, eqx.is_inexact_array), then a function of (arrays, images)",
    "keras": "use model.stateless_call with the values of its variables",
}


def advice_on(model: Any) -> str:
    """Return how a model of a framework becomes a function of parameters and images."""
    bases = [base.__module__ for base in type(model).__mro__]
    found = [text for name, text in _GLUE.items() if any(f"{base}.".startswith(f"{name}.") for base in bases)]
    return f"; {found[0]}; jaxviz's README has a line for each framework" if found else ""
