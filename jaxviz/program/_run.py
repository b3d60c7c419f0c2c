"""Evaluate a program, with actions instead of some of its equations."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, primitives

from jaxviz.program._trace import MAP_OPTIONS, Path, Program, call_body, is_map
from jaxviz.program._turns import called, name_of_call

Action = Callable[[list[Any], Callable[[], list[Any]]], tuple[list[Any], dict[str, Any]]]
"""What to do at one equation: `(operands, run) -> (results, captured)`; `run()` returns the ordinary results."""


def evaluate(program: Program, args: Any, actions: Mapping[Path, Action]) -> tuple[Any, dict[str, Any]]:
    """Run a traced program on new arguments, with actions instead of some equations; return what they captured, too."""
    outputs, taken = _run(program.jaxpr, actions, (), jax.tree.leaves(args))
    return jax.tree.unflatten(program.treedef, outputs), taken


def _run(
    closed: ClosedJaxpr, actions: Mapping[Path, Action], path: Path, args: Sequence[Any]
) -> tuple[list[Any], dict[str, Any]]:
    jaxpr = closed.jaxpr
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *args), strict=True))
    taken: dict[str, Any] = {}
    entered = {at[: len(path) + 1] for at in actions if len(at) > len(path) + 1}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for index, eqn in enumerate(jaxpr.eqns):
        here, operands = (*path, index), [read(atom) for atom in eqn.invars]
        with jax.named_scope(str(eqn.source_info.name_stack)):
            run = functools.partial(_enter if here in entered else bind, eqn, operands, actions, here)
            if here in actions:
                results, more = _act(actions[here], operands, run)
            else:
                results, more = run()
        taken.update(more)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars], taken


def _act(action: Action, operands: list[Any], run: Callable) -> tuple[list[Any], dict[str, Any]]:
    inner: dict[str, Any] = {}

    def ordinary() -> list[Any]:
        results, taken = run()
        inner.update(taken)
        return results

    results, taken = action(operands, ordinary)
    return results, inner | taken


def bind(eqn: JaxprEqn, operands: list[Any], *_: Any) -> tuple[list[Any], dict[str, Any]]:
    """Run one equation unchanged; calls, too, so that custom derivatives survive."""
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return list(results) if eqn.primitive.multiple_results else [results], {}


def _enter(eqn: JaxprEqn, operands: list[Any], actions: Mapping[Path, Action], path: Path) -> Any:
    """Run the body of a call instead of the call; a remat stays a remat, for the memory that it saves."""
    if is_map(eqn):
        return _enter_map(eqn, operands, actions, path)
    body = call_body(eqn, turns=True)
    assert body is not None  # only inlined equations have actions
    run = functools.partial(_run, body, actions, path)
    if eqn.primitive is primitives.remat_p:
        run = jax.checkpoint(run, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"])
    name = name_of_call(eqn)
    if name and any(isinstance(x, jax.core.Tracer) for x in operands):  # otherwise nothing traces this program again
        run = called(run, name)
    return run(operands)


def _enter_map(eqn: JaxprEqn, operands: list[Any], actions: Mapping[Path, Action], path: Path) -> Any:
    """Run the body of a shard_map on each device; what actions capture there is dropped."""
    body, options = ClosedJaxpr(eqn.params["jaxpr"], ()), {k: eqn.params[k] for k in MAP_OPTIONS}
    run = jax.shard_map(
        lambda *parts: tuple(_run(body, actions, path, parts)[0]),
        axis_names=set(eqn.params["newly_manual_axes"]),
        **options,
    )
    return list(run(*operands)), {}
