"""Reads the docstrings below fields of models and members of enums."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise


@cache
def attribute_docstrings(kind: type) -> dict[str, str]:
    """The docstring below each attribute of a class, without those of its bases; by name.

    pydantic's `use_attribute_docstrings` does the same for models when the class is defined, which
    slows down every start; this runs only when the text is needed. Empty if the source code is not
    available.
    """
    if kind.__module__.partition(".")[0] in ("builtins", "pydantic", "typing"):
        return {}
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError):
        return {}
    found: dict[str, str] = {}
    body = definition.body if isinstance(definition, ast.ClassDef) else []
    for attribute, text in pairwise(body):
        match attribute, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(docstring))),
            ):
                found[name] = inspect.cleandoc(docstring).replace("\n", " ")
    return found
