"""Small, safe expressions over the columns of a table: the filters and labels of concepts.

An expression is checked when it is compiled: its columns, functions and the kinds of its operands
(text, number, true/false). What passes cannot fail on a row. Missing values follow SQL: a comparison
with null is null, `null and False` is False, `not null` is null; only `is None` and `is not None` see
them. So `not same_team` is null, not true, for an act without a target.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from simpleeval import SimpleEval

from probeline.errors import ProbelineError, near_misses

MAX_LENGTH = 1000
MAX_NODES = 200
MAX_NUMBER = 10**15

TEXT, NUMBER, FLAG, NOTHING = "a text", "a number", "true or false", "None"


def _mentions(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


# name → (kinds of the arguments, kind of the result, implementation on values that are not null)
FUNCTIONS: dict[str, tuple[list[str], str, Callable[..., Any]]] = {
    "lower": ([TEXT], TEXT, str.lower),
    "len": ([TEXT], NUMBER, len),
    "contains": ([TEXT, TEXT], FLAG, operator.contains),
    "startswith": ([TEXT, TEXT], FLAG, str.startswith),
    "mentions": ([TEXT, TEXT], FLAG, _mentions),
}
ARITHMETIC: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
ORDER: dict[type, Callable[..., Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
EQUALITY: dict[type, Callable[..., Any]] = {ast.Eq: operator.eq, ast.NotEq: operator.ne}
MEMBERSHIP: dict[type, Callable[..., Any]] = {
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}
IDENTITY: dict[type, Callable[..., Any]] = {ast.Is: operator.is_, ast.IsNot: operator.is_not}
UNARY: dict[type, Callable[..., Any]] = {ast.USub: operator.neg, ast.Not: operator.not_}
COLUMN_KINDS = {
    "string": TEXT,
    "bool": FLAG,
    "int8": NUMBER,
    "int32": NUMBER,
    "int64": NUMBER,
    "double": NUMBER,
}


class Expression:
    """A compiled expression.

    Attributes:
        text: as written.
        columns: the columns that it reads.
        compared: each column that is compared with a text, and the text.
        is_flag: whether its value is true, false or null.
    """

    def __init__(self, text: str, tree: ast.expr, kind: str) -> None:
        self.text = text
        self.columns = frozenset(
            node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id not in FUNCTIONS
        )
        self.is_flag = kind == FLAG
        self.compared = [pair for node in ast.walk(tree) for pair in _compared(node)]
        self._tree = tree
        self._evaluator = _Evaluator()

    def evaluate(self, row: Mapping[str, Any]) -> Any:
        """The value on one row; None when it cannot be known.

        Args:
            row: column → value, with at least `columns`.
        """
        self._evaluator.names = row
        return self._evaluator.eval(self.text, previously_parsed=self._tree)


def _compared(node: ast.AST) -> list[tuple[str, str]]:
    if not isinstance(node, ast.Compare) or not isinstance(node.left, ast.Name):
        return []
    texts = [part for right in node.comparators for part in ast.walk(right)]
    return [
        (node.left.id, part.value)
        for part in texts
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]


def compile_expression(text: str, columns: Mapping[str, str]) -> Expression:
    """Check an expression and make it ready for rows.

    It may hold: columns, "texts", numbers, True, False, None; `== != < <= > >=`, `in [...]`,
    `is None`, `and or not`, `+ - * /`, and the functions lower(text), len(text),
    contains(text, part) and startswith(text, part) (both heed case), and
    mentions(text, words) (whole words, any case). Dividing by zero gives null.

    Args:
        text: the expression.
        columns: column → type, as declared in `probeline.schema` (`string`, `bool?`, …).

    Raises:
        ProbelineError: what is wrong, where in the expression, and what is close to it.
    """
    source = text.strip().replace("\n", " ")
    if not source or len(source) > MAX_LENGTH:
        raise ProbelineError(
            f"Expression {source[:60]!r} has {len(source)} characters; 1 to {MAX_LENGTH} are allowed."
        )
    try:
        tree = ast.parse(source, mode="eval").body
    except SyntaxError as error:
        # At the end of the text the parser gives no offset.
        raise _fault(source, error.offset or len(source) + 1, f"{error.msg}. {SYNTAX_HINT}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise _fault(source, 1, "it cannot be read; write it shorter and in plain characters.") from error
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise _fault(source, 1, f"it has more than {MAX_NODES} parts; write it shorter.")
    kinds = {name: COLUMN_KINDS[kind.rstrip("?")] for name, kind in columns.items()}
    return Expression(source, tree, _Checker(source, kinds).kind(tree))


SYNTAX_HINT = 'Write for example: actor_team == "werewolves" and target is not None.'


def _fault(source: str, position: int, what: str) -> ProbelineError:
    return ProbelineError(f"Expression {source!r}, position {position}: {what}")


class _Checker:
    """Finds the kind of every part of a parsed expression, and refuses what has none."""

    def __init__(self, source: str, columns: dict[str, str]) -> None:
        self.source = source
        self.columns = columns

    def kind(self, node: ast.expr) -> str:
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.Name():
                return self._column(node)
            case ast.BoolOp():
                for value in node.values:
                    self._want(value, FLAG)
                return FLAG
            case ast.UnaryOp(op=ast.Not()):
                self._want(node.operand, FLAG)
                return FLAG
            case ast.UnaryOp(op=ast.USub()):
                self._want(node.operand, NUMBER)
                return NUMBER
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                self._want(node.left, NUMBER)
                self._want(node.right, NUMBER)
                return NUMBER
            case ast.Compare():
                self._comparison(node)
                return FLAG
            case ast.Call():
                return self._call(node)
        segment = ast.get_source_segment(self.source, node)
        raise self._fault(
            node,
            f"{segment!r} is not allowed. Allowed: columns, comparisons, and, or, not, + - * /, functions.",
        )

    def _fault(self, node: ast.expr, what: str) -> ProbelineError:
        # The parser counts bytes; people count characters.
        position = len(self.source.encode()[: node.col_offset].decode()) + 1
        return _fault(self.source, position, what)

    def _want(self, node: ast.expr, wanted: str) -> None:
        found = self.kind(node)
        if found != wanted:
            segment = ast.get_source_segment(self.source, node)
            raise self._fault(node, f"{segment!r} is {found}, but {wanted} is needed here.")

    def _constant(self, node: ast.Constant) -> str:
        value = node.value
        if value is None:
            return NOTHING
        if isinstance(value, bool):
            return FLAG
        if isinstance(value, str):
            return TEXT
        if isinstance(value, int | float):
            if not abs(value) <= MAX_NUMBER:
                raise self._fault(node, f"numbers reach to {MAX_NUMBER:.0e}.")
            return NUMBER
        raise self._fault(node, f"{value!r} is neither text, number, True, False nor None.")

    def _column(self, node: ast.Name) -> str:
        if node.id in FUNCTIONS:
            raise self._fault(node, f"{node.id} is a function: write {node.id}(…).")
        if node.id not in self.columns:
            raise self._fault(
                node,
                f"unknown column {node.id!r} (a text stands in quotes; True, False and None have a capital). "
                + near_misses(node.id, self.columns),
            )
        return self.columns[node.id]

    def _call(self, node: ast.Call) -> str:
        if not isinstance(node.func, ast.Name):
            raise self._fault(node, f"only these functions can be called: {', '.join(sorted(FUNCTIONS))}.")
        name = node.func.id
        if name not in FUNCTIONS:
            raise self._fault(node, f"unknown function {name!r}. {near_misses(name, FUNCTIONS)}")
        wanted, result, _ = FUNCTIONS[name]
        if node.keywords or len(node.args) != len(wanted):
            raise self._fault(node, f"{name} takes {len(wanted)} argument(s) without names.")
        for argument, kind in zip(node.args, wanted, strict=True):
            self._want(argument, kind)
        return result

    def _comparison(self, node: ast.Compare) -> None:
        if len(node.ops) > 1:
            raise self._fault(node, "compare two things at a time and join the comparisons with `and`.")
        compare, right = type(node.ops[0]), node.comparators[0]
        if compare in IDENTITY:
            self.kind(node.left)
            if self.kind(right) != NOTHING:
                raise self._fault(right, "`is` is only for None; write == or !=.")
        elif compare in MEMBERSHIP:
            self._members(self.kind(node.left), right)
        elif compare in ORDER:
            self._want(node.left, NUMBER)
            self._want(right, NUMBER)
        else:
            left = self.kind(node.left)
            if NOTHING in (left, self.kind(right)):
                raise self._fault(node, "nothing equals None; write `is None` or `is not None`.")
            self._want(right, left)

    def _members(self, wanted: str, items: ast.expr) -> None:
        if not isinstance(items, ast.List | ast.Tuple):
            raise self._fault(
                items, "`in` needs a list, as in [1, 2]; within a text use contains(text, part)."
            )
        for item in items.elts:
            if not isinstance(item, ast.Constant):
                raise self._fault(item, "a list holds only texts and numbers.")
            self._want(item, wanted)


def _unless_null(function: Callable[..., Any]) -> Callable[..., Any]:
    def applied(*values: Any) -> Any:
        if None in values:
            return None
        try:
            return function(*values)
        except (ZeroDivisionError, OverflowError):
            return None

    return applied


class _Evaluator(SimpleEval):
    """simpleeval, cut down to the nodes that `_Checker` lets through, with the logic of nulls."""

    nodes: dict[type, Callable[..., Any]]

    def __init__(self) -> None:
        nullable = ARITHMETIC | ORDER | EQUALITY | MEMBERSHIP | UNARY
        super().__init__(
            operators={node: _unless_null(function) for node, function in nullable.items()} | IDENTITY,
            functions={name: _unless_null(function) for name, (_, _, function) in FUNCTIONS.items()},
            names={},
        )
        kept = (ast.Name, ast.Constant, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Call)
        self.nodes = {node: self.nodes[node] for node in kept} | {
            ast.BoolOp: self._three_valued,
            ast.List: self._items,
            ast.Tuple: self._items,
        }

    def _three_valued(self, node: ast.BoolOp) -> bool | None:
        decisive = isinstance(node.op, ast.Or)
        unknown = False
        for part in node.values:
            value = self._eval(part)
            if value is decisive:
                return decisive
            unknown = unknown or value is None
        return None if unknown else not decisive

    def _items(self, node: ast.List | ast.Tuple) -> list[Any]:
        return [self._eval(item) for item in node.elts]
