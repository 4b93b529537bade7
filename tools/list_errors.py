"""Collect the messages of all errors that cellfm raises on purpose, and write the page of them.

``python tools/list_errors.py`` writes docs/reference/errors.md; a test compares the page with what is made now. The messages are read from the
source: wherever an error of the tree in cellfm/errors.py is made, the text that it is made of is followed through local names, conditions
and functions of the package that return text. Nothing is imported and nothing is run.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "cellfm"
PAGE = ROOT / "docs" / "reference" / "errors.md"
BASE = "CellFMError"
MOST_WAYS = 64
"""Of one message: more than that are not a message but a text that is put together; it has to be written more simply."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
SENTENCE = re.compile(r"(?<=[.!?])['\")]?\s+(?=[A-Z`'\"{(])|(?<=…)\s(?=[A-Z])|\n")


class UnreadableError(Exception):
    """A message cannot be read from the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A class of errors."""

    name: str
    base: str
    meaning: str
    module: str


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Message:
    """A message as a user may read it, values as names in braces."""

    module: str
    line: int
    kind: str
    text: str

    @property
    def next_step(self) -> str:
        """Its last sentence."""
        return SENTENCE.split(self.text)[-1]

    @property
    def problem(self) -> str:
        """What stands before."""
        return self.text[: len(self.text) - len(self.next_step)].strip()

    @property
    def room(self) -> str:
        """The part of the package it comes from."""
        return self.module.split(".")[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A file of the package."""

    name: str
    tree: ast.Module

    @property
    def functions(self) -> dict[str, Function]:
        """Functions and methods by name; of two of one name the last."""
        found = [node for node in ast.walk(self.tree) if isinstance(node, Function)]
        return {node.name: node for node in found}

    @property
    def imported(self) -> dict[str, str]:
        """Module of the package that a name comes from."""
        nodes = [node for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom)]
        return {alias.asname or alias.name: node.module or "" for node in nodes for alias in node.names}  # fmt: skip

    @property
    def constants(self) -> dict[str, ast.expr]:
        """Values of the names at the top of the module."""
        found: dict[str, ast.expr] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = node.value
        return found


@dataclass(frozen=True)
class Package:
    """All files of the package."""

    modules: dict[str, Module] = field(default_factory=dict)

    @classmethod
    def read(cls, source: Path = SOURCE) -> "Package":
        """Parse every file."""
        files = {
            ".".join(("cellfm", *path.relative_to(source).with_suffix("").parts)): path
            for path in sorted(source.rglob("*.py"))
        }
        return cls(
            {
                name.removesuffix(".__init__"): Module(
                    name=name.removesuffix(".__init__"),
                    tree=ast.parse(path.read_text(encoding="utf-8")),
                )
                for name, path in files.items()
            }
        )

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        """The tree: classes that descend from the base, wherever they are defined."""
        classes = [
            Kind(
                name=node.name,
                base=ast.unparse(node.bases[0]),
                meaning=(ast.get_docstring(node) or "").partition("\n")[0],
                module=module.name,
            )
            for module in self.modules.values()
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ClassDef) and node.bases
        ]
        found = {kind.name: kind for kind in classes if kind.name == BASE}
        while more := [kind for kind in classes if kind.base in found and kind.name not in found]:
            found.update((kind.name, kind) for kind in more)
        return found

    def messages(self) -> list[Message]:
        """Every message, in the order of the files.

        Raises
        ------
        UnreadableError
            One is made in a way that is not followed.
        """
        found, problems = set[Message](), list[str]()
        for module in self.modules.values():
            for call, blocks in _places(module.tree, (), self.kinds):
                try:
                    texts = Reader(self, module, blocks).texts(call.args[0])
                except UnreadableError as error:
                    problems.append(f"{module.name}:{call.lineno} {error}")
                    continue
                found |= {
                    Message(module=module.name, line=call.lineno, kind=_called(call.func), text=text)
                    for text in texts
                }  # fmt: skip
        if problems:
            raise UnreadableError("\n".join(problems))
        return sorted(found)


@dataclass(frozen=True, slots=True)
class Reader:
    """Follows an expression to the texts it may be.

    Attributes
    ----------
    package, module
        Where it stands.
    blocks
        Nodes around it, the innermost last.
    depth
        Functions that were followed.
    """

    package: Package
    module: Module
    blocks: tuple[ast.AST, ...]
    depth: int = 0

    def texts(self, node: ast.expr) -> list[str]:  # noqa: C901, PLR0911 - one case a kind of expression
        """Return all texts an expression may be.

        Parameters
        ----------
        node
            Of the first argument of an error.
        """
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=values):
                parts = [self._part(value) for value in values[:-1]]
                return _joined(
                    [*parts, *(self._part(value, is_last=True) for value in values[-1:])]
                )
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return _joined([self.texts(left), self.texts(right)])
            case ast.IfExp(body=body, orelse=orelse):
                return [*self.texts(body), *self.texts(orelse)]
            case ast.Name(id=name):
                return self._named(name, node.lineno)
            case ast.Call(func=ast.Name(id="str"), args=[ast.Name(id=name)]) if self._caught(name):
                return []  # a message that is listed where it was made
            case ast.Call(func=ast.Attribute(attr="join"), args=[lines]):
                return self._line(lines)
            case ast.Call():
                return self._returned(node)
        msg = f"is made of {ast.unparse(node)}"
        raise UnreadableError(msg)

    def _part(self, node: ast.expr, *, is_last: bool = False) -> list[str]:
        """Return what a part of an f-string may be: text where it can be followed, else its name in braces."""
        if not isinstance(node, ast.FormattedValue):
            return self.texts(node)
        if isinstance(node.value, ast.Name) and (kind := self._caught(node.value.id)):
            return ["{" + kind + "}"]
        if is_last and isinstance(node.value, ast.Name) and (texts := self._passed(node.value.id)):
            return texts
        is_join = isinstance(node.value, ast.Call) and _called(node.value.func) == "join"
        if node.conversion == -1 and node.format_spec is None and not is_join:
            try:
                return self.texts(node.value)
            except UnreadableError:
                pass
        return [_placeholder(node.value)]

    def _named(self, name: str, line: int) -> list[str]:
        """Return what is assigned to a name: nearest before in the same block, else in the function, else in the module."""
        scope = self._scope()
        if scope is not None:
            inner = self.blocks.index(scope)
            if _is_parameter(scope, name):
                msg = f"is made of the parameter {name}"
                raise UnreadableError(msg)
            for block in reversed(self.blocks[inner:]):
                for body in _bodies(block):
                    before = [one for one in body if one.lineno < line]
                    if (texts := self._assigned(name, before)) is not None:
                        return texts
            nodes = [one for one in ast.walk(scope) if isinstance(one, ast.stmt)]
            before = sorted((one for one in nodes if one.lineno < line), key=lambda one: one.lineno)
            values = [value for one in before if (value := _value_of(name, one)) is not None]
            if values:
                return [text for value in values for text in self.texts(value)]
        if name in self.module.constants:
            return self.texts(self.module.constants[name])
        msg = f"is made of {name}"
        raise UnreadableError(msg)

    def _caught(self, name: str) -> str | None:
        """Return the class of the tree that a name was caught as, or asked whether it is."""
        for block in self.blocks:
            if isinstance(block, ast.ExceptHandler) and block.name == name and block.type:
                kind = _called(block.type)
            elif isinstance(block, ast.If) and ast.unparse(block.test).startswith(
                f"isinstance({name}, "
            ):
                kind = ast.unparse(block.test).removesuffix(")").rpartition(" ")[2]
            else:
                continue
            if kind in self.package.kinds:
                return kind
        return None

    def _passed(self, name: str) -> list[str]:
        """Return what a parameter of the function is by default, or what the module passes as it."""
        scope = self._scope()
        if scope is None or not _is_parameter(scope, name):
            return []
        arguments = scope.args.posonlyargs + scope.args.args
        place = next((i for i, one in enumerate(arguments) if one.arg == name), -1)
        defaults = dict(zip(reversed([one.arg for one in arguments]), reversed(scope.args.defaults), strict=False))  # fmt: skip
        defaults |= {one.arg: value for one, value in zip(scope.args.kwonlyargs, scope.args.kw_defaults, strict=True) if value}  # fmt: skip
        passed = [(defaults[name], self.blocks[:1])] if name in defaults else []
        for call, blocks in _places(self.module.tree, (), {scope.name}):
            passed += [(one.value, blocks) for one in call.keywords if one.arg == name]
            passed += [(one, blocks) for one in call.args[place : place + 1] if place >= 0]
        return [text for value, blocks in passed for text in self._outside(value, blocks)]

    def _outside(self, value: ast.expr, blocks: tuple[ast.AST, ...]) -> list[str]:
        """Return what an argument may be where it is passed."""
        outer = Reader(self.package, self.module, blocks, self.depth + 1)
        if isinstance(value, ast.Name) and (texts := outer._passed(value.id)):
            return texts
        try:
            return outer.texts(value)
        except UnreadableError:
            return []

    def _line(self, lines: ast.expr) -> list[str]:
        """Return what each of lines that are joined may be."""
        if isinstance(lines, ast.Name) and (scope := self._scope()) is not None:
            values = [_value_of(lines.id, node) for node in ast.walk(scope)]
            lines = next((value for value in values if value is not None), lines)
        if isinstance(lines, ast.ListComp | ast.GeneratorExp):
            return self.texts(lines.elt)
        msg = f"is made of {ast.unparse(lines)}"
        raise UnreadableError(msg)

    def _scope(self) -> Function | None:
        """Return the function around."""
        return next((one for one in reversed(self.blocks) if isinstance(one, Function)), None)

    def _assigned(self, name: str, statements: Sequence[ast.stmt]) -> list[str] | None:
        """Return the texts of a name after statements of one block, None if they do not set it."""
        texts: list[str] | None = None
        for one in statements:
            match one:
                case ast.AugAssign(target=ast.Name(id=same), value=more) if same == name and texts:
                    texts = _joined([texts, self.texts(more)])
                case ast.If(body=[ast.AugAssign(target=ast.Name(id=same), value=more)]) if (
                    same == name and texts
                ):
                    texts = [*texts, *_joined([texts, self.texts(more)])]
                case _ if (value := _value_of(name, one)) is not None:
                    texts = self.texts(value)
                case ast.If() | ast.Try() | ast.For() | ast.With() if _sets(name, one):
                    return None
        return texts

    def _returned(self, call: ast.Call) -> list[str]:
        """Return the texts that a function of the package returns."""
        name, home = _called(call.func), self.module
        if name not in home.functions:
            home = self.package.modules.get(self.module.imported.get(name, ""), home)
        function = home.functions.get(name)
        returns = [] if function is None else list(_returns(function, ()))
        if not returns or self.depth > 2:
            msg = f"is made of {ast.unparse(call)}"
            raise UnreadableError(msg)
        return [
            text
            for value, blocks in returns
            for text in Reader(self.package, home, blocks, self.depth + 1).texts(value)
        ]


def _places(node, blocks, kinds) -> Iterator[tuple[ast.Call, tuple[ast.AST, ...]]]:
    """Yield the places where an error is made, with the nodes around each."""
    if isinstance(node, ast.Call) and _called(node.func) in kinds:
        yield node, blocks
    for child in ast.iter_child_nodes(node):
        yield from _places(child, (*blocks, node), kinds)


def _is_parameter(function: Function, name: str) -> bool:
    """Whether a name is a parameter of a function."""
    return any(isinstance(one, ast.arg) and one.arg == name for one in ast.walk(function.args))


def _returns(node, blocks) -> Iterator[tuple[ast.expr, tuple[ast.AST, ...]]]:
    """Yield what a function returns, with the nodes around it."""
    if isinstance(node, ast.Return) and node.value is not None:
        yield node.value, blocks
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.Lambda):
            yield from _returns(child, (*blocks, node))


def _bodies(node: ast.AST) -> list[list[ast.stmt]]:
    """Return the lists of statements of a node."""
    fields = (getattr(node, name, None) for name in ("body", "orelse", "handlers", "finalbody"))
    return [one for one in fields if isinstance(one, list) and one and isinstance(one[0], ast.stmt)]


def _value_of(name: str, statement: ast.AST) -> ast.expr | None:
    """Return what a statement assigns to a name."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=same)], value=value) if same == name:
            return value
        case ast.AnnAssign(target=ast.Name(id=same), value=value) if same == name:
            return value
        case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)) if len(
            targets
        ) == len(values):
            return next(
                (v for t, v in zip(targets, values, strict=True) if ast.unparse(t) == name), None
            )
    return None


def _sets(name: str, statement: ast.stmt) -> bool:
    """Whether a statement or one inside it assigns to a name."""
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        for node in ast.walk(statement)
    )


def _joined(parts: Sequence[list[str]]) -> list[str]:
    """Return all texts of parts one after the other."""
    texts = list(dict.fromkeys("".join(way) for way in product(*parts)))
    if len(texts) > MOST_WAYS:
        msg = f"can be {len(texts)} texts; write it more simply"
        raise UnreadableError(msg)
    return texts


def _called(function: ast.expr) -> str:
    """Return the last name of what is called."""
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _placeholder(value: ast.expr) -> str:
    """Return the name of a value in braces."""
    match value:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return "{" + name.strip("_") + "}"
    return "…"


HEAD = """# Errors

Every error that the package raises on purpose is of one tree, and its message ends in what to do next. The command line prints the message
without a traceback (`--debug` adds it) and leaves with code 2: what was given has to change. Other errors leave with code 1.

This page is made from the source by `python tools/list_errors.py`; a test fails if a message is missing here or lacks a next step. Values
stand as names in braces, or as …
"""


def page(package: Package) -> str:
    """Return the page of all messages.

    Parameters
    ----------
    package
        With the source.
    """
    messages = package.messages()
    lines = [HEAD, "## The tree", "", *_tree(package), ""]
    for room in sorted({message.room for message in messages}):
        lines += [f"## {room}", ""]
        here = [message for message in messages if message.room == room]
        for module in sorted({message.module for message in here}):
            lines += [f"### {module.partition('.')[2]}", "", "| message | next step | error |", "|---|---|---|"]  # fmt: skip
            rows = (
                f"| {_cell(one.problem or '…')} | {_cell(one.next_step)} | `{one.kind}` |"
                for one in here
                if one.module == module
            )
            lines += [*dict.fromkeys(rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def _tree(package: Package, base: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the classes below one as a list."""
    for kind in package.kinds.values():
        if (kind.base if kind.name != BASE else "") == base:
            yield f"{'  ' * depth}- `{kind.name}`: {kind.meaning}"
            yield from _tree(package, kind.name, depth + 1)


def _cell(text: str) -> str:
    """Return text as a cell of a table, shown as it is."""
    for special, shown in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(special, shown)
    escaped = re.sub(r"([\\`*_\[\]|~$#{}])", r"\\\1", text)
    return re.sub(r"(https?|hf)://", r"\1&#58;//", " ".join(escaped.split()))


if __name__ == "__main__":
    PAGE.write_text(page(Package.read()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
