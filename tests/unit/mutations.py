"""Valid logs made hostile, for property-based tests."""

from copy import deepcopy
from typing import Any

import orjson
from hypothesis import strategies as st

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**64, -(2**70), 10**400, float("nan"), float("inf"), 1e308]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", " ", "\x00", "\ud800", "<script>", "../../etc/passwd", "{game}", "9999-99-99"]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=3),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in a JSON value."""
    found = []
    stack = [value]
    while stack:
        one = stack.pop()
        inner = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, item in inner:
            found.append((one, key))
            stack.append(item)
    return found


@st.composite
def mutated(draw: Any, value: Any, odd: st.SearchStrategy[Any] = ODD) -> Any:
    """`value` with up to three of its nodes replaced by something odd, removed or doubled."""
    value = deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        if not (spots := places(value)):
            break
        container, key = draw(st.sampled_from(spots))
        how = draw(st.sampled_from(["replace", "remove", "double"]))
        if how == "remove":
            del container[key]
        elif how == "double" and isinstance(container, list):
            container.append(deepcopy(container[key]))
        else:
            container[key] = draw(odd)
    return value


@st.composite
def damaged(draw: Any, data: bytes) -> bytes:
    """`data` cut off, or with some bytes overwritten."""
    if draw(st.booleans()):
        return data[: draw(st.integers(0, len(data)))]
    place = draw(st.integers(0, len(data) - 1))
    return data[:place] + draw(st.binary(max_size=6)) + data[place + draw(st.integers(0, 6)) :]


def deep(levels: int = 5000) -> bytes:
    return b"[" * levels + b"]" * levels


def lines(*values: Any) -> bytes:
    return b"".join(orjson.dumps(value) + b"\n" for value in values)
