"""The changes that are made: which operators of cosmic-ray, one more, and where none is made."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cosmic_ray.plugins
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.work_item import WorkerOutcome, WorkItem, WorkResult
from parso.python.tree import Keyword

if TYPE_CHECKING:
    from cosmic_ray.work_db import WorkDB

Position = tuple[int, int]

_COMPARISONS = (
    "Eq_NotEq NotEq_Eq Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Is_IsNot IsNot_Is"
)
_ARITHMETIC = "Add_Sub Sub_Add Mul_Add Div_Mul FloorDiv_Mul"
_BITS = "BitOr_BitAnd BitAnd_BitOr LShift_RShift RShift_LShift"
_UNARY = "Not_Nothing USub_Nothing Invert_Nothing"

OPERATORS = {
    *(f"core/ReplaceComparisonOperator_{name}" for name in _COMPARISONS.split()),
    *(f"core/ReplaceBinaryOperator_{name}" for name in f"{_ARITHMETIC} {_BITS}".split()),
    *(f"core/ReplaceUnaryOperator_{name}" for name in _UNARY.split()),
    *("core/AddNot", "core/ReplaceAndWithOr", "core/ReplaceOrWithAnd"),
    *("core/ReplaceTrueWithFalse", "core/ReplaceFalseWithTrue"),
    *("core/ReplaceBreakWithContinue", "core/ReplaceContinueWithBreak"),
    *("core/ExceptionReplacer", "core/NumberReplacer", "core/ZeroIterationForLoop"),
    *("core/RemoveDecorator", "ours/RemoveStatement"),
}
"""One or two replacements of each operator: the others, such as ``+`` by ``<<``, die at once."""

LOGGING = {"debug", "log", "warn"}
"""Calls of these names, or of their methods, write the log."""


class RemoveStatement:
    """Replaces a statement that is a call, or a raise, by pass.  cosmic-ray has no such operator."""

    @classmethod
    def arguments(cls) -> tuple[()]:
        """Return what the operator takes: nothing."""
        return ()

    def mutation_positions(self, node: Any) -> Iterator[tuple[Position, Position]]:
        """Yield where a node can be changed."""
        if node.type == "simple_stmt":
            first = node.children[0]
            last = getattr(first, "children", [first])[-1]
            calls = first.type in ("atom_expr", "power") and last.type == "trailer"
            if first.type == "raise_stmt" or (calls and last.children[0].value == "("):
                yield first.start_pos, first.end_pos

    def mutate(self, node: Any, _index: int) -> Any:
        """Return the node with its change."""
        first = node.children[0]
        prefix = first.get_first_leaf().prefix
        node.children[0] = Keyword("pass", first.start_pos, prefix)
        return node


cosmic_ray.plugins.OPERATOR_PROVIDERS["ours"] = {"RemoveStatement": RemoveStatement}


def prepare(database: WorkDB, modules: list[Path], sample: int | None, seed: int) -> None:
    """Fill a database with all mutants of some modules, and mark those that are not tried as skipped.

    A sample has as many mutants of each folder, as far as it has them.
    """
    init(modules, database, {})
    spans = {module: list(find_meaningless(ast.parse(module.read_text()))) for module in modules}
    rooms: dict[Path, list[WorkItem]] = {}
    for item in sorted(database.work_items, key=_key):
        [mutation] = item.mutations
        if mutation.operator_name in OPERATORS and not any(
            first <= mutation.start_pos < last for first, last in spans[mutation.module_path]
        ):
            rooms.setdefault(mutation.module_path.parent, []).append(item)
    tried: set[str] = set()
    for items in rooms.values():
        random.Random(seed).shuffle(items)
        number = None if sample is None else sample // len(rooms)
        tried.update(item.job_id for item in islice(filter(_compiles, items), number))
    others = [item.job_id for item in database.work_items if item.job_id not in tried]
    database.set_multiple_results(others, WorkResult(WorkerOutcome.SKIPPED))


def _key(item: WorkItem) -> tuple[str, Position, str, int]:
    [mutation] = item.mutations
    path = str(mutation.module_path)
    return path, mutation.start_pos, mutation.operator_name, mutation.occurrence


def _compiles(item: WorkItem) -> bool:
    """Whether a mutant can be imported at all: the ``*`` of parameters counts as an operator."""
    [mutation] = item.mutations
    operator = cosmic_ray.plugins.get_operator(mutation.operator_name)()
    try:
        compile(
            mutate_code(mutation.module_path.read_text(), operator, mutation.occurrence), "", "exec"
        )
    except SyntaxError:
        return False
    return True


def find_meaningless(tree: ast.Module) -> Iterator[tuple[Position, Position]]:
    """Yield the spans in which a change has no meaning: annotations, `TYPE_CHECKING`, `__all__`, the log."""
    for node in ast.walk(tree):
        for found in _list_meaningless(node):
            yield (
                (found.lineno, found.col_offset),
                (found.end_lineno or found.lineno, found.end_col_offset or 0),
            )


def _list_meaningless(node: ast.AST) -> list[ast.stmt | ast.expr]:
    if isinstance(node, ast.AnnAssign | ast.arg):
        return [node.annotation] if node.annotation else []
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.returns] if node.returns else []
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return [node]
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
        "__all__",
        "TYPE_CHECKING",
    ):
        return [node]
    if isinstance(node, ast.Call) and ast.unparse(node.func).partition(".")[0] in LOGGING:
        return [node]
    return []
