"""Types of expressions, as tensorrt_uses.py follows them, and the uses of TensorRT's names in them.

A type is a set of strings: ``module`` for TensorRT itself, ``ILayer`` for an instance, ``class ILayer``, ``each
ILayer`` for a collection of instances, ``call ILayer.get_input`` for a bound function; ``def f``, ``new C`` and ``self
C`` for functions, classes and instances of the file; ``other`` for what is certainly not of TensorRT.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Types = frozenset[str]
NOTHING: Types = frozenset()
MODULE: Types = frozenset({"module"})
OTHER: Types = frozenset({"other"})

_COLLECTIONS = {"Sequence", "Iterable", "Iterator", "list", "tuple", "set"}
RETURNED = {
    "get_plugin_registry": "IPluginRegistry",
    "IPluginRegistry.get_creator": "IPluginCreator",
    "IPluginRegistry.all_creators": "each IPluginCreator",
    "OnnxParser.get_error": "ParserError",
}
"""Types of what the bindings describe as objects or C++ types only."""


@dataclass(frozen=True)
class Use:
    """One use of a name.

    Args:
        name: As in the stored signatures: ``Builder.create_network``, ``float16``.
        where: File and line.
        call: Number of positional arguments and names of keywords, for a call; None if it is not called.
        tested: Whether this use is a test for existence: ``hasattr``, or ``getattr`` with a default.
    """

    name: str
    where: str
    call: tuple[int, tuple[str, ...]] | None = None
    tested: bool = False


@dataclass
class Found:
    """Uses of a file, and attributes with a name of TensorRT's on objects of unknown type, by name, with lines."""

    uses: list[Use] = field(default_factory=list)
    unresolved: dict[str, list[int]] = field(default_factory=dict)


class Expressions:
    """Infers types and collects uses; see :func:`tensorrt_uses.uses_in`."""

    def __init__(self, file: str, described: Mapping[str, str], modules: set[tuple[str, str]]) -> None:
        self.file, self.described, self.modules = file, described, modules
        self.names = {name.rpartition(".")[2] for name in described}
        self.found = Found()
        self.fields: dict[str, Types] = {}
        self.returned: dict[str, Types] = {}
        self.given: dict[tuple[str, int | str], Types] = {}
        """Types of arguments by function and by position or keyword."""

    def assign(
        self, target: ast.expr, value: Types, scope: dict[str, Types], function: str, node: ast.expr | None = None
    ) -> None:
        if isinstance(target, ast.Name):
            scope[target.id] = MODULE if (function, target.id) in self.modules else value
        elif isinstance(target, (ast.Tuple, ast.List)):
            values = node.elts if isinstance(node, ast.Tuple) and len(node.elts) == len(target.elts) else None
            for index, part in enumerate(target.elts):
                self.assign(part, self.quiet(values[index], scope) if values else elements(value), scope, function)
        elif isinstance(target, ast.Attribute):
            for name in self.infer(target.value, scope):
                if name.startswith("self "):
                    key = f"{name}.{target.attr}"
                    self.fields[key] = self.fields.get(key, NOTHING) | value
                else:
                    self.member(name, target.attr, target)
        else:
            self.infer(target, scope)

    def quiet(self, node: ast.expr, scope: dict[str, Types]) -> Types:
        """The type of an expression whose uses were found already."""
        found, self.found = self.found, Found()
        types = self.infer(node, scope)
        self.found = found
        return types

    def infer(self, node: ast.expr, scope: dict[str, Types]) -> Types:
        """The type of an expression."""
        kind = getattr(self, f"of_{type(node).__name__.lower()}", self.of_others)
        types: Types = kind(node, scope)
        return types

    def of_others(self, node: ast.expr, scope: dict[str, Types]) -> Types:
        types = [self.infer(child, scope) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        return frozenset().union(*types) if isinstance(node, ast.BoolOp) else NOTHING

    def of_name(self, node: ast.Name, scope: dict[str, Types]) -> Types:
        return scope.get(node.id, NOTHING)

    def of_attribute(self, node: ast.Attribute, scope: dict[str, Types]) -> Types:
        base = self.infer(node.value, scope)
        if not base and node.attr in self.names:
            self.found.unresolved.setdefault(node.attr, []).append(node.lineno)
        return frozenset().union(*(self.member(name, node.attr, node) for name in base))

    def of_listcomp(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp, scope: dict[str, Types]) -> Types:
        return collection(self.infer(node.elt, self.comprehension(node.generators, scope)))

    of_generatorexp = of_setcomp = of_listcomp

    def of_dictcomp(self, node: ast.DictComp, scope: dict[str, Types]) -> Types:
        inner = self.comprehension(node.generators, scope)
        self.infer(node.key, inner)
        self.infer(node.value, inner)
        return NOTHING

    def of_tuple(self, node: ast.Tuple | ast.List | ast.Set, scope: dict[str, Types]) -> Types:
        return collection(frozenset().union(*(self.element(part, scope) for part in node.elts)))

    of_list = of_set = of_tuple

    def of_subscript(self, node: ast.Subscript, scope: dict[str, Types]) -> Types:
        value = self.infer(node.value, scope)
        self.infer(node.slice, scope)
        return value if isinstance(node.slice, ast.Slice) else elements(value)

    def of_ifexp(self, node: ast.IfExp, scope: dict[str, Types]) -> Types:
        self.infer(node.test, scope)
        return self.infer(node.body, scope) | self.infer(node.orelse, scope)

    def of_namedexpr(self, node: ast.NamedExpr, scope: dict[str, Types]) -> Types:
        value = self.infer(node.value, scope)
        self.assign(node.target, value, scope, "")
        return value

    def of_lambda(self, node: ast.Lambda, scope: dict[str, Types]) -> Types:
        self.infer(node.body, scope | {argument.arg: NOTHING for argument in node.args.args})
        return NOTHING

    def element(self, node: ast.expr, scope: dict[str, Types]) -> Types:
        return elements(self.infer(node.value, scope)) if isinstance(node, ast.Starred) else self.infer(node, scope)

    def comprehension(self, generators: list[ast.comprehension], scope: dict[str, Types]) -> dict[str, Types]:
        inner = dict(scope)
        for generator in generators:
            self.assign(generator.target, elements(self.infer(generator.iter, inner)), inner, "")
            for condition in generator.ifs:
                self.infer(condition, inner)
        return inner

    def of_call(self, node: ast.Call, scope: dict[str, Types]) -> Types:
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            return self.named(node, scope)
        functions = self.infer(node.func, scope)
        arguments: dict[int | str, Types] = {i: self.element(part, scope) for i, part in enumerate(node.args)}
        arguments |= {keyword.arg or "": self.infer(keyword.value, scope) for keyword in node.keywords}
        for name in (function.removeprefix("def ") for function in functions if function.startswith("def ")):
            for key, types in arguments.items():
                self.given[name, key] = self.given.get((name, key), NOTHING) | types
        return frozenset().union(*(self.called(function, node) for function in functions))

    def named(self, node: ast.Call, scope: dict[str, Types]) -> Types:
        """``getattr`` and ``hasattr``."""
        target, name, *default = node.args
        types = self.infer(target, scope)
        if not isinstance(name, ast.Constant):
            self.infer(name, scope)
            return frozenset(type_.removeprefix("class ") for type_ in types)
        tested = node.func.id == "hasattr" or bool(default)  # type: ignore[attr-defined]
        found = [self.member(type_, str(name.value), node, tested=tested) for type_ in types]
        return NOTHING if node.func.id == "hasattr" else frozenset().union(*found)  # type: ignore[attr-defined]

    def called(self, function: str, node: ast.Call) -> Types:
        kind, _, name = function.partition(" ")
        if kind == "def":
            return self.returned.get(name, NOTHING)
        if kind in ("new", "other"):
            return frozenset({f"self {name}"}) if kind == "new" else OTHER
        if kind not in ("call", "class", "unbound"):
            return NOTHING
        positional = len(node.args) - (kind == "unbound")
        keywords = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
        called = f"{name}.__init__" if kind == "class" else name
        self.use(called, node, (positional, keywords))
        return frozenset({name}) if kind == "class" else self.result(called)

    def member(self, type_: str, attribute: str, node: ast.expr, *, tested: bool = False) -> Types:
        """The type of an attribute of a type, after recording the use."""
        kind, _, name = type_.partition(" ")
        if kind == "self":
            return self.fields.get(f"{type_}.{attribute}", frozenset({f"def {attribute}"}))
        if kind == "other":
            return frozenset({f"def {attribute}"}) if attribute in self.returned else OTHER
        if kind in ("each", "call", "def", "new") or (attribute.startswith("__") and attribute != "__init__"):
            return NOTHING
        owner = name if kind == "class" else kind
        full = attribute if kind == "module" else f"{owner}.{attribute}"
        described = self.described.get(full, "")
        if described.startswith("(") and not tested:
            return frozenset({f"{'unbound' if kind == 'class' else 'call'} {full}"})
        self.use(full, node, tested=tested)
        if described.startswith("class"):
            return frozenset({f"class {described.partition(' ')[2] or full}"})
        return self.result(full)

    def result(self, name: str) -> Types:
        """The type of what a function returns, a property holds, or a constant is."""
        described = self.described.get(name, "")
        text = RETURNED.get(name) or described.rpartition("-> ")[2].removeprefix("property ").removeprefix("value ")
        text = text.partition(" = ")[0]
        text = text.replace("list[", "each ").rstrip("]")
        return frozenset({text}) if text.rpartition(" ")[2] in self.described else NOTHING

    def annotation(self, node: ast.expr | None, scope: dict[str, Types]) -> Types:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self.annotation(ast.parse(node.value, mode="eval").body, scope)
        if isinstance(node, ast.BinOp):
            return self.annotation(node.left, scope) | self.annotation(node.right, scope)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in _COLLECTIONS:
            return collection(self.annotation(node.slice, scope))
        if isinstance(node, ast.Name):
            return MODULE if node.id == "ModuleType" else NOTHING if node.id == "Any" else OTHER
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and scope.get(node.value.id) == MODULE:
            self.use(node.attr, node, tested=True)  # never evaluated
            return frozenset({node.attr})
        return NOTHING

    def use(
        self, name: str, node: ast.AST, call: tuple[int, tuple[str, ...]] | None = None, *, tested: bool = False
    ) -> None:
        self.found.uses.append(Use(name, f"{self.file}:{getattr(node, 'lineno', 0)}", call, tested))


def elements(types: Types) -> Types:
    return frozenset(name.removeprefix("each ") for name in types if name.startswith("each ")) | (types & OTHER)


def collection(types: Types) -> Types:
    return frozenset(name if name == "other" else f"each {name}" for name in types if " " not in name)
