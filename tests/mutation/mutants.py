"""Makes the mutants of a module: copies of its source with one change inside a function."""

from __future__ import annotations

import ast
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitOr: ast.BitAnd,
}
_UNTRIED = ("logger", "raise_if_cancelled")
"""Calls of these are not removed: most logs are not promised, and lost cancellations are rare."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a module."""

    function: str
    line: int
    before: str
    after: str
    source: str
    """The whole module, changed."""

    def __str__(self) -> str:
        return f"{self.function}: {self.before} → {self.after}"


def sites(source: str) -> list[tuple[int, int]]:
    """Where a module can be changed: for `mutate`."""
    tree = ast.parse(source)
    functions = _functions(tree)
    return [
        (number, variant)
        for number, node in enumerate(ast.walk(tree))
        if id(node) in functions
        for variant in range(_variants(node))
    ]


def mutate(source: str, site: tuple[int, int]) -> Mutant:
    """The mutant of one site."""
    number, variant = site
    tree = ast.parse(source)
    functions = _functions(tree)
    place = next(one for at, one in enumerate(ast.walk(tree)) if at == number)
    assert isinstance(place, ast.stmt | ast.expr)
    function, line, before = functions[id(place)], place.lineno, ast.unparse(place)
    changed = _change(place, variant)
    if changed is not place:
        _Replace(place, changed).visit(tree)
    after = ast.unparse(ast.fix_missing_locations(changed))
    ast.fix_missing_locations(tree)
    return Mutant(function, line, _short(before), _short(after), ast.unparse(tree))


def _functions(tree: ast.Module) -> dict[int, str]:
    """The name of the function or method that a node is in, by its `id`."""
    functions: dict[int, str] = {}
    _name_functions(tree, "", functions, in_function=False)
    return functions


def _name_functions(
    node: ast.AST, name: str, functions: dict[int, str], *, in_function: bool
) -> None:
    """`in_function`: the nearest scope of the children is a function, not a class or the module."""
    for child in ast.iter_child_nodes(node):
        is_body = not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            child in node.body
        )
        if not is_body or isinstance(child, ast.expr_context | ast.operator | ast.cmpop):
            continue
        if isinstance(node, ast.AnnAssign) and child is node.annotation:
            continue
        if in_function and _is_code(child):
            functions[id(child)] = name
        within, is_function = name, in_function
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            within = f"{name}.{child.name}" if name else child.name
            is_function = not isinstance(child, ast.ClassDef)
        _name_functions(child, within, functions, in_function=is_function)


def _is_code(node: ast.AST) -> bool:
    return not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _variants(node: ast.AST) -> int:
    match node:
        case ast.Compare(ops=[op]):
            return int(type(op) in _COMPARISONS)
        case ast.BinOp(op=op):
            return int(type(op) in _OPERATORS)
        case ast.BoolOp():
            return 1 + len(node.values)
        case ast.UnaryOp(op=ast.Not()) | ast.IfExp():
            return 1
        case ast.If(test=test) | ast.While(test=test):
            return int(not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant))
        case ast.Constant(value=bool() | int() | float()):
            return 1
        case ast.Expr(value=ast.Call() | ast.Await()):
            return int(not ast.unparse(node).removeprefix("await ").startswith(_UNTRIED))
        case ast.AugAssign() | ast.Delete() | ast.Break() | ast.Continue():
            return 1
        case ast.Return(value=ast.expr() as value):
            return int(not isinstance(value, ast.Constant))
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return 1
    return 0


def _change(node: ast.stmt | ast.expr, variant: int) -> ast.stmt | ast.expr:
    """Change a node in place, or return another one for its place."""
    match node:
        case ast.Compare(ops=[op]):
            node.ops = [_COMPARISONS[type(op)]()]
        case ast.BinOp(op=op):
            node.op = _OPERATORS[type(op)]()
        case ast.BoolOp(values=values) if variant:
            rest = [one for at, one in enumerate(values) if at != variant - 1]
            return rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.UnaryOp(operand=operand):
            return operand
        case ast.IfExp() | ast.If() | ast.While():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Constant(value=bool(value)):
            return ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            return ast.Constant(value + 1)
        case ast.Return():
            node.value = ast.Constant(None)
        case _:
            return ast.Pass()
    return node


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self._new if node is self._old else self.generic_visit(node)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:97]}..."
