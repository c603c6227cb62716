"""Every use of a TensorRT name in a source file, found in its syntax tree.

Types are followed from annotations (``trt.IBuilderConfig``, ``ModuleType``), through assignments, loops and calls; what
TensorRT's own functions and properties return comes from the stored signatures.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from tensorrt_types import MODULE, NOTHING, OTHER, Expressions, Found, Types, elements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def uses_in(
    source: str,
    file: str,
    described: Mapping[str, str],
    *,
    finders: Iterable[str] = (),
    modules: Iterable[tuple[str, str]] = (),
) -> Found:
    """Find the uses of TensorRT in a file.

    Args:
        source: Content of the file.
        file: Its name, for :attr:`Use.where`.
        described: Descriptions of TensorRT's names, from all versions.
        finders: Names of functions of other files that return TensorRT's module.
        modules: Pairs of a function and a local variable of it that holds TensorRT's module.
    """
    tree = ast.parse(source)
    walker = _Statements(file, described, set(modules))
    walker.returned.update(dict.fromkeys(finders, MODULE))
    for _ in range(3):  # then attributes of self, later functions and arguments of calls are known
        walker.found = Found()
        walker.statements(tree.body, {}, "", "")
    return walker.found


class _Statements(Expressions):
    def statements(self, body: list[ast.stmt], scope: dict[str, Types], function: str, cls: str) -> None:
        for statement in body:
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                kind = "new" if isinstance(statement, ast.ClassDef) else "def"
                scope[statement.name] = frozenset({f"{kind} {statement.name}"})
        for statement in body:
            self.statement(statement, scope, function, cls)

    def statement(self, node: ast.stmt, scope: dict[str, Types], function: str, cls: str) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self.function(node, scope, cls)
        elif isinstance(node, ast.ClassDef):
            self.class_(node, scope)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                scope[name] = frozenset({f"def {name}"}) if name in self.returned else OTHER
                if isinstance(node, ast.Import) and alias.name == "tensorrt":
                    scope[name] = MODULE
        elif isinstance(node, ast.Assign):
            value = self.infer(node.value, scope)
            for target in node.targets:
                self.assign(target, value, scope, function, node.value)
        elif isinstance(node, ast.AnnAssign):
            value = self.infer(node.value, scope) if node.value else NOTHING
            self.assign(node.target, self.annotation(node.annotation, scope) or value, scope, function)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self.assign(node.target, elements(self.infer(node.iter, scope)), scope, function)
            self.statements([*node.body, *node.orelse], scope, function, cls)
        else:
            self.children(node, scope, function, cls)

    def children(self, node: ast.AST, scope: dict[str, Types], function: str, cls: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self.statement(child, scope, function, cls)
            elif isinstance(child, ast.expr):
                self.infer(child, scope)
            else:  # handlers, items of with, cases of match
                self.children(child, scope, function, cls)

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: dict[str, Types], cls: str) -> None:
        inner = dict(scope)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if cls and arguments:
            inner[arguments.pop(0).arg] = frozenset({f"self {cls}"})
        for index, argument in enumerate(arguments):
            given = [self.given.get((node.name, key), NOTHING) for key in (index, argument.arg)]
            inner[argument.arg] = self.annotation(argument.annotation, scope) or frozenset().union(*given)
        if node.returns:
            self.returned[node.name] = self.annotation(node.returns, scope)
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.infer(default, scope)
        self.statements(node.body, inner, node.name, "")

    def class_(self, node: ast.ClassDef, scope: dict[str, Types]) -> None:
        bases = {name for base in node.bases for name in self.infer(base, scope)}
        for base in (name.removeprefix("class ") for name in bases if name.startswith("class ")):
            for method in (m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")):
                names = tuple(argument.arg for argument in method.args.args[1:])
                self.use(f"{base}.{method.name}", method, (0, names))
        self.statements(node.body, dict(scope), "", node.name)
