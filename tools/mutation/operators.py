"""Mutants of a Python source: each changes one node of its syntax tree, in place.

Text in, mutants out; no files. A mutant replaces the exact text of one node, so its
difference is one a person could have typed. Left alone is what no test should be asked
to notice: annotations, docstrings, prose of messages (text with a space), assertions,
what goes to a log, `__all__`, imports, and `__repr__`.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from typing import Final

__all__ = ["Mutant", "mutants_of"]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module; offsets are in bytes of the UTF-8 source."""

    module: str
    line: int
    end_line: int
    start: int
    end: int
    old: str
    new: str
    where: str
    """Qualified name of the function or class it stands in; empty at module level."""
    occurrence: int
    """Counts equal changes in one place, from 0."""
    statement: int = 0
    """Line where its statement begins: of one over many lines, coverage may know only that."""

    @property
    def id(self) -> str:
        """Eight hexadecimal digits that stay the same when other lines change."""
        key = "\0".join((self.module, self.where, self.old, self.new, str(self.occurrence)))
        return hashlib.sha256(key.encode()).hexdigest()[:8]

    def apply(self, source: bytes) -> bytes:
        """The module's source with this change made."""
        return source[: self.start] + self.new.encode() + source[self.end :]


_COMPARE: Final[dict[type[ast.cmpop], tuple[str, ...]]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
_BINARY: Final[dict[type[ast.operator], str]] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "+",
    ast.FloorDiv: "*",
    ast.Div: "*",
    ast.Mod: "//",
    ast.LShift: ">>",
    ast.RShift: "<<",
    ast.BitAnd: "|",
    ast.BitOr: "&",
    ast.BitXor: "|",
    ast.Pow: "*",
}
_TOKENS: Final[dict[type[ast.operator], str]] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Div: "/", ast.Mod: "%",
    ast.LShift: "<<", ast.RShift: ">>", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^",
    ast.Pow: "**",
}  # fmt: skip


def mutants_of(source: str, module: str) -> list[Mutant]:
    """Every mutant of this source, in the order of the text."""
    found = _Finder(source, module)
    found.visit(ast.parse(source))
    return sorted(found.mutants, key=lambda m: (m.start, m.end, m.new))


class _Finder(ast.NodeVisitor):
    def __init__(self, source: str, module: str) -> None:
        self.module = module
        self.data = source.encode()
        self.lines = [0]
        for line in self.data.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.mutants: list[Mutant] = []
        self.seen: dict[tuple[str, str, str], int] = {}
        self.scope: list[str] = []
        self.statement = 0

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            self.statement = node.lineno
        super().visit(node)

    # --- making one ----------------------------------------------------------

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None, "a parsed node has an end"
        assert node.end_col_offset is not None, "a parsed node has an end"
        start = self.lines[node.lineno - 1] + node.col_offset
        return start, self.lines[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.span(node)
        return self.data[start:end].decode()

    def add(self, node: ast.expr | ast.stmt, new: str) -> None:
        start, end = self.span(node)
        old = self.data[start:end].decode()
        if new == old:
            return
        where = ".".join(self.scope)
        count = self.seen.get((where, old, new), 0)
        self.seen[where, old, new] = count + 1
        assert node.end_lineno is not None, "a parsed node has an end"
        self.mutants.append(
            Mutant(
                self.module,
                node.lineno,
                node.end_lineno,
                start,
                end,
                old,
                new,
                where,
                count,
                self.statement,
            )
        )

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str, whole: ast.expr) -> None:
        """Replace the operator that stands between two operands."""
        start, _ = self.span(whole)
        a, b = self.span(left)[1], self.span(right)[0]
        gap = self.data[a:b].decode()
        if gap.count(old) != 1:
            return  # a comment or a bracket stands there too
        swapped = gap.replace(old, new)
        text = self.text(whole)
        data = text.encode()
        self.add(whole, (data[: a - start] + swapped.encode() + data[b - start :]).decode())

    # --- what is left alone ----------------------------------------------------

    def visit_Import(self, node: ast.Import) -> None: ...
    def visit_ImportFrom(self, node: ast.ImportFrom) -> None: ...
    def visit_Assert(self, node: ast.Assert) -> None: ...
    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scope.append(node.name)
        self.body(node.body)
        self.scope.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name == "__repr__":
            return
        self.scope.append(node.name)
        for default in (*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)):
            self.visit(default)
        self.body(node.body)
        self.scope.pop()

    def visit_Module(self, node: ast.Module) -> None:
        self.body(node.body)

    def body(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            prose = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not prose:
                self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            if not isinstance(node.target, ast.Name):
                self.add(node, "pass")

    def visit_Assign(self, node: ast.Assign) -> None:
        first = node.targets[0]
        if isinstance(first, ast.Name) and first.id in ("__all__", "logger"):
            return
        if not isinstance(first, ast.Name):
            # A name that was never assigned is an error at once; other targets keep a value.
            self.visit(node.value)
            if isinstance(first, (ast.Attribute, ast.Subscript)):
                self.add(node, "pass")
            return
        self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.condition(node.test)
        self.generic_visit(node)

    # --- statements --------------------------------------------------------------

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self.condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.condition(node.test)
        self.generic_visit(node)

    def condition(self, test: ast.expr) -> None:
        # A single comparison has its own opposite among the operators.
        single = isinstance(test, ast.Compare) and len(test.ops) == 1
        if not single and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            self.add(test, f"not ({self.text(test)})")

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value
        if isinstance(call, ast.Call):
            head = call.func
            while isinstance(head, ast.Attribute):
                head = head.value
            if isinstance(head, ast.Name) and head.id == "logger":
                return
            self.add(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        old = _TOKENS.get(type(node.op))
        new = _BINARY.get(type(node.op))
        if old is not None and new is not None:
            text = self.text(node)
            self.add(node, text.replace(f"{old}=", f"{new}=", 1))
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        value = node.value
        if value is not None and not (isinstance(value, ast.Constant) and value.value is None):
            self.add(node, "return None")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.add(node, "pass")
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self.add(node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self.add(node, "break")

    # --- expressions ---------------------------------------------------------------

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for place, op in enumerate(node.ops):
            left, right = operands[place], operands[place + 1]
            a, b = self.span(left)[1], self.span(right)[0]
            written = self.data[a:b].decode().strip(" ()\n")
            for new in _COMPARE[type(op)]:
                self.between(left, right, written, new, node)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self.between(node.left, node.right, _TOKENS[type(node.op)], _BINARY[type(node.op)], node)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, old, new, node)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self.add(node, self.text(node.operand))
        elif isinstance(node.op, (ast.USub, ast.Invert)):
            self.add(node, f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr == "Struct":
            return  # a wrong format is an error at import, which proves nothing
        if isinstance(node.func, ast.Name) and node.func.id == "cast":
            self.visit(node.args[1])  # the type before it is for readers
            return
        for keyword in node.keywords:
            # What an error says to people is prose; what programs read of it is not.
            if keyword.arg != "advice":
                self.visit(keyword.value)
        for argument in (node.func, *node.args):
            self.visit(argument)

    def visit_Constant(self, node: ast.Constant) -> None:
        value: object = node.value
        if isinstance(value, bool):
            self.add(node, str(not value))
        elif isinstance(value, int):
            self.add(node, f"{value + 1}" if "x" not in self.text(node) else hex(value + 1))
        elif isinstance(value, bytes):
            # The first byte is another one: a magic, a prefix or padding is not itself any more.
            self.add(node, repr(bytes([value[0] ^ 1]) + value[1:]) if value else r'b"\1"')
        elif isinstance(value, str) and value and " " not in value:
            self.add(node, repr(value + "!"))
