"""Names of values in the iterations of loops: `blocks[3]/mlp/dense_0`."""

from collections.abc import Sequence

from jaxviz.program._trace import Path, Program, Value


def turns_around(program: Program, path: Path) -> list[tuple[Path, int]]:
    """Return the loops around a value, or a loop, at this path, outermost first, each with the iteration."""
    starts = [path[:end] for end in range(1, len(path))]
    return [(start[:-1], program.turns[start]) for start in starts if start in program.turns]


def with_turns(program: Program, names: Sequence[tuple[str, Value]]) -> list[tuple[str, Value]]:
    """Put the iteration into the names of values in loops: after the path that all names in a loop share."""
    around = [turns_around(program, value.path) for _, value in names]
    inside: dict[Path, list[str]] = {}
    for (name, _), loops in zip(names, around, strict=True):
        for loop, _ in loops:
            inside.setdefault(loop, []).append(name)
    common = {loop: _common_path(found) for loop, found in inside.items()}
    return [
        (_indexed(name, [(common[loop], turn) for loop, turn in loops]), value)
        for (name, value), loops in zip(names, around, strict=True)
    ]


def place_in_loops(program: Program, value: Value) -> str:
    """Return the prefix of numbered names in a loop: `scan_0[3]/`; "" outside of loops."""
    place, around = "", turns_around(program, value.path)
    for depth, (loop, turn) in enumerate(around):
        beside = [other for other in program.scans if turns_around(program, other) == around[:depth]]
        place += f"scan_{beside.index(loop)}[{turn}]/"
    return place


def _common_path(names: Sequence[str]) -> str:
    shared = names[0]
    while shared and not all(name == shared or name.startswith((f"{shared}/", f"{shared}.")) for name in names):
        shared = shared.rpartition("/")[0]
    return shared


def _indexed(name: str, turns: Sequence[tuple[str, int]]) -> str:
    """Insert iterations into a name, the innermost loop's last."""
    ends = [(len(common) or len(name.partition("/")[0]), f"[{turn}]") for common, turn in turns]
    for end in sorted({end for end, _ in ends}, reverse=True):
        name = name[:end] + "".join(text for at, text in ends if at == end) + name[end:]
    return name
