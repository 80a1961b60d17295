"""One source file as its calls: which begin on a line, by what name, and what that name stands for.

A name is looked through where the file itself says what it is: `from pickle import dumps as d`, `send = socket.send`,
`h = hashlib.sha256()`, `self._dump = functools.partial(pickle.dumps, protocol=4)`. A name that is assigned twice, or is
a parameter, stands for itself.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MAX_ALIAS_STEPS = 4
_LEAVES = (ast.Name, ast.Constant, ast.expr_context, ast.operator, ast.cmpop, ast.unaryop, ast.boolop)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call in a source file: its dotted name, its arguments' names, the line it begins on and the lines it spans.

    `scope` is the qualified name of the function or class that it stands in, empty for the module. What is `awaited`
    waits without holding its thread.
    """

    name: str
    arguments: tuple[str, ...]
    line: int
    first_line: int
    last_line: int
    scope: str
    awaited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A function, class or module: the calls made in it and in no scope inside it, and what its names stand for.

    `aliases` maps to an empty text where a name is known to stand for nothing fixed. `statements` counts its own.
    """

    name: str
    first_line: int
    last_line: int
    calls: tuple[Call, ...]
    aliases: Mapping[str, str]
    statements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceIndex:
    """The calls of a file: by the line they begin on, and by scope for lines inside a call that spans several."""

    by_line: Mapping[int, list[Call]]
    scopes: tuple[Scope, ...]
    by_name: Mapping[str, Scope] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    def at(self, line: int) -> list[Call]:
        """Return the calls that begin on `line`, or else the smallest call of the innermost scope that spans it."""
        if line in self.by_line:
            return self.by_line[line]
        scope = self.scope_at(line)
        spanning = [call for call in scope.calls if call.first_line <= line <= call.last_line] if scope else []
        return [min(spanning, key=lambda call: call.last_line - call.first_line)] if spanning else []

    def scope_at(self, line: int) -> Scope | None:
        """Return the innermost scope that holds `line`, or None past the end of the file."""
        around = [scope for scope in self.scopes if scope.first_line <= line <= scope.last_line]
        return min(around, key=lambda scope: scope.last_line - scope.first_line, default=None)

    def meaning(self, name: str, scope: str) -> str:
        """Return what a dotted name in `scope` stands for, or the name itself."""
        for _ in range(_MAX_ALIAS_STEPS):
            resolved = self._step(name, scope)
            if resolved == name:
                break
            name = resolved
        return name

    def callee(self, name: str, scope: str) -> Scope | None:
        """Return the function of this file that a dotted name in `scope` calls, or None."""
        first, _, rest = name.partition(".")
        if first in {"self", "cls"}:
            owner = scope.rpartition(".")[0]
            return self.by_name.get(f"{owner}.{rest}") if owner else None
        return self.by_name.get(name)

    def _step(self, name: str, scope: str) -> str:
        parts = name.split(".")
        if parts[0] == "self" and len(parts) > 1:
            stands_for = self.attributes.get(_bare(parts[1]), "")
            return _joined(stands_for, parts[1], parts[2:]) if stands_for else name
        first = _bare(parts[0])
        # Class bodies are no enclosing scope of their methods, but their names rarely clash with anything called.
        places = scope.split(".") if scope else []
        for depth in range(len(places), -1, -1):
            holder = self.by_name.get(".".join(places[:depth]))
            if holder is not None and first in holder.aliases:
                stands_for = holder.aliases[first]
                return _joined(stands_for, parts[0], parts[1:]) if stands_for else name
        return name


@lru_cache(maxsize=512)
def index_source(text: str) -> SourceIndex | None:
    """Index a file's text, or return None where it does not parse."""
    try:
        # Foreign source may hold escapes that the parser warns of; that is its authors' affair, not our user's.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
        scopes = tuple(_scopes(tree, text.count("\n") + 1))
        attributes = _attributes(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    by_line: dict[int, list[Call]] = {}
    for scope in scopes:
        for call in scope.calls:
            by_line.setdefault(call.line, []).append(call)
    return SourceIndex(
        by_line=by_line,
        scopes=scopes,
        by_name={scope.name: scope for scope in reversed(scopes)},
        attributes=attributes,
    )


def _scopes(tree: ast.Module, lines: int) -> Iterator[Scope]:
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, name = waiting.pop()
        own = list(_own_nodes(node))
        for child in own:
            if isinstance(child, _SCOPES):
                label = getattr(child, "name", "<lambda>")
                waiting.append((child, f"{name}.{label}" if name else label))
        first, last = (0, lines) if isinstance(node, ast.Module) else _span(node)
        yield Scope(
            name=name,
            first_line=first,
            last_line=last,
            calls=tuple(_calls(own, name)),
            aliases=_aliases(node, own),
            statements=sum(isinstance(child, ast.stmt) and not _is_text(child) for child in own),
        )


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield what stands in a scope and in no scope inside it, those inner scopes' heads included."""
    waiting = [scope]
    while waiting:
        node = waiting.pop()
        if node is not scope:
            yield node
            if isinstance(node, _SCOPES):
                continue
        # As `ast.iter_child_nodes`, without what neither calls nor binds: half of all nodes are such leaves.
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                waiting.extend(item for item in value if isinstance(item, ast.AST))
            elif isinstance(value, ast.AST) and not isinstance(value, _LEAVES):
                waiting.append(value)


def _calls(own: list[ast.AST], scope: str) -> Iterator[Call]:
    awaited = {id(node.value) for node in own if isinstance(node, ast.Await)}
    for node in own:
        if isinstance(node, ast.Call):
            yield _read_call(node, scope, awaited=id(node) in awaited)
        elif isinstance(node, ast.withitem) and (name := dotted(node.context_expr)):
            # Entering is what the line waits for; the body is other lines.
            first, last = _span(node.context_expr)
            yield Call(
                name=f"{name}.__enter__", arguments=(), line=first, first_line=first, last_line=last, scope=scope
            )


def _read_call(node: ast.Call, scope: str, *, awaited: bool) -> Call:
    first, last = _span(node)
    arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
    # A chained call runs at the line of its own name, not where the chain began.
    line = node.func.end_lineno or first if isinstance(node.func, ast.Attribute) else first
    return Call(
        name=dotted(node.func),
        arguments=tuple(dotted(argument) for argument in arguments),
        line=line,
        first_line=first,
        last_line=last,
        scope=scope,
        awaited=awaited,
    )


def _aliases(scope: ast.AST, own: list[ast.AST]) -> dict[str, str]:
    aliases = _parameters(scope)
    for node in own:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name, stands_for in _imported(node):
                aliases.setdefault(name, stands_for)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    _learn(aliases, target.id, _value(node.value))
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and isinstance(node.target, ast.Name) and node.value:
            _learn(aliases, node.target.id, _value(node.value))
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)) and isinstance(node.target, ast.Name):
            _learn(aliases, node.target.id, "")
    return aliases


def _parameters(scope: ast.AST) -> dict[str, str]:
    """Return a function's parameters as names that stand for nothing fixed."""
    if not isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        return {}
    spec = scope.args
    names = (*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg)
    return {name.arg: "" for name in names if name is not None}


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        # `import a.b` binds `a`, which stands for itself.
        yield from ((name.asname, name.name) for name in node.names if name.asname)
        return
    module = "." * node.level + (f"{node.module}." if node.module else "")
    yield from ((name.asname or name.name, f"{module}{name.name}") for name in node.names)


def _attributes(tree: ast.Module) -> dict[str, str]:
    """Return what `self.NAME` stands for, over all classes of the file."""
    attributes: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and dotted(target.value) == "self":
                    _learn(attributes, target.attr, _value(node.value))
    return attributes


def _learn(aliases: dict[str, str], name: str, value: str) -> None:
    """Remember what a name stands for; a name that stands for two things stands for neither."""
    own = value.partition(".")[0].partition("(")[0]
    if own == name or (name in aliases and aliases[name] != value):
        value = ""
    aliases[name] = value


def _value(node: ast.expr) -> str:
    name = dotted(node)
    if isinstance(node, ast.Call) and name.endswith("partial()") and node.args:
        return dotted(node.args[0])
    return name if all(part for part in name.split(".")) else ""


def _joined(stands_for: str, first: str, rest: list[str]) -> str:
    """Put a name's meaning in its place, with what was called or indexed on it."""
    return ".".join([stands_for + first[len(_bare(first)) :], *rest])


def _bare(part: str) -> str:
    return part.partition("(")[0].partition("[")[0]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _span(node: ast.AST) -> tuple[int, int]:
    first: int = getattr(node, "lineno", 0)
    return first, getattr(node, "end_lineno", None) or first


def dotted(node: ast.expr) -> str:
    """Spell an expression as a dotted name; what is no name, call or item becomes empty."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return f"{dotted(node.func)}()"
    if isinstance(node, ast.Subscript):
        return f"{dotted(node.value)}[]"
    return ""
