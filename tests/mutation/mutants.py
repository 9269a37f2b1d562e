"""Small faults put into a source file, one at a time, as a test of the tests.

A mutant is the source with one change: a comparison, a number, an operator of arithmetic or logic, a condition turned
round, or a statement left out. Messages for people (f-strings and what is raised with them), annotations, docstrings,
decorators and ``strict`` of ``zip`` stay as they are.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of a source."""

    place: str
    """The function or class, by its qualified name; ``module`` outside of them."""
    before: str
    """The changed part, in one line."""
    after: str
    lines: tuple[int, int]
    """First and last line of the statement, or of its head where it has a body."""
    part: tuple[int, int]
    """Where the changed part begins and ends, in bytes."""
    number: int = 0
    """Counts equal changes in one place."""

    def applied(self, source: str) -> str:
        """The changed source."""
        raw = source.encode()
        return (raw[: self.part[0]] + self.after.encode() + raw[self.part[1] :]).decode()

    def __str__(self) -> str:
        again = f" (number {self.number + 1})" if self.number else ""
        return f"{self.place}: {self.before} -> {self.after}{again}"


def mutants(source: str) -> list[Mutant]:
    """All mutants of a source, in its order."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    raw = source.encode()
    found: list[Mutant] = []
    seen: dict[tuple[str, str, str], int] = {}
    for place, extent, node, text in _changes(ast.parse(source)):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        before = " ".join(raw[begin:end].decode().split())
        key = (place, before, text)
        found.append(Mutant(*key, extent, (begin, end), seen.get(key, 0)))
        seen[key] = seen.get(key, 0) + 1
    return found


Change = tuple[str, tuple[int, int], ast.expr | ast.stmt, str]
"""Place, lines, the node to replace, and the text to put there."""


def _changes(tree: ast.Module) -> Iterator[Change]:
    yield from _in_body(tree.body, "module")


def _in_body(body: list[ast.stmt], place: str) -> Iterator[Change]:
    for statement in body:
        inner = place
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = statement.name if place == "module" else f"{place}.{statement.name}"
        yield from _of_statement(statement, inner)
        for field in ("body", "orelse", "finalbody"):
            yield from _in_body(getattr(statement, field, []), inner)
        for handler in getattr(statement, "handlers", []):
            yield from _in_body(handler.body, inner)


def _of_statement(statement: ast.stmt, place: str) -> Iterator[Change]:
    """Changes of one statement, without those of the statements in it."""
    heads = _heads(statement)
    extent = (statement.lineno, statement.end_lineno or statement.lineno)
    if hasattr(statement, "body"):
        extent = (statement.lineno, max((head.end_lineno or 0 for head in heads), default=statement.lineno))
    if _can_go(statement):
        yield place, extent, statement, "pass"
    if isinstance(statement, ast.If | ast.While | ast.Assert) and not _of_types(statement.test):
        yield place, extent, statement.test, f"not ({ast.unparse(statement.test)})"
    for head in heads:
        for node, text in _in_expression(head):
            yield place, extent, node, text


def _heads(statement: ast.stmt) -> list[ast.expr]:
    """The expressions of a statement; of one with a body, those in front of it."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return [one for one in (*statement.args.defaults, *statement.args.kw_defaults) if one is not None]
    if isinstance(statement, ast.ClassDef | ast.Import | ast.ImportFrom | ast.Raise):
        return []
    if isinstance(statement, ast.AnnAssign):
        return [statement.value] if statement.value is not None else []
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return []  # a docstring
    if isinstance(statement, ast.With | ast.AsyncWith):
        return [item.context_expr for item in statement.items]
    if isinstance(statement, ast.If) and _of_types(statement.test):
        return []
    return [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.expr)]


def _of_types(test: ast.expr) -> bool:
    """Whether it is about checkers of types, which no test can see."""
    return "TYPE_CHECKING" in ast.unparse(test)


def _can_go(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call)
    return isinstance(statement, ast.AugAssign | ast.Raise | ast.Continue | ast.Break)


def _in_expression(node: ast.expr) -> Iterator[tuple[ast.expr, str]]:
    if isinstance(node, ast.JoinedStr):
        return  # text for people
    for changed in _variants(node):
        yield node, f"({ast.unparse(changed)})"
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from _in_expression(child)
        elif isinstance(child, ast.comprehension):
            for part in (child.iter, *child.ifs):
                yield from _in_expression(part)
        elif isinstance(child, ast.keyword) and not _is_strict_zip(node, child):
            yield from _in_expression(child.value)


def _is_strict_zip(node: ast.expr, keyword: ast.keyword) -> bool:
    """Whether it is ``strict`` of ``zip``, a check of the program itself that never fails."""
    return keyword.arg == "strict" and isinstance(node, ast.Call) and ast.unparse(node.func) == "zip"


def _variants(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare):
        for k, operator in enumerate(node.ops):
            changed = copy.deepcopy(node)
            changed.ops[k] = _COMPARISONS[type(operator)]()
            yield changed
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_text(node):
        changed_sum = copy.deepcopy(node)
        changed_sum.op = _ARITHMETIC[type(node.op)]()
        yield changed_sum
    elif isinstance(node, ast.BoolOp):
        other = copy.deepcopy(node)
        other.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield copy.deepcopy(node.operand)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(ast.UnaryOp(ast.Not(), copy.deepcopy(node.test)), node.body, node.orelse)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int | float):
            yield ast.Constant(node.value + 1)
            yield ast.Constant(node.value - 1)


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
        for side in (node.left, node.right)
    )
