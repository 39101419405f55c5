"""What the fuzzing draws from: values that break things, good documents with something wrong in them, text of a screen."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

DEEP = "[" * 3000 + "]" * 3000
NUMBERS = st.sampled_from(
    [
        0,
        -1,
        1,
        2**31,
        2**63,
        2**64,
        10**30,
        -(10**30),
        0.5,
        -0.0,
        1e308,
        -1e308,
        float("nan"),
        float("inf"),
        True,
    ]
)
WORDS = st.sampled_from(
    [
        "",
        " ",
        "a" * 5000,
        "../../pwned",
        "/etc/passwd",
        "C:\\x",
        "\0",
        "\n",
        "\x1b]52;c;cHduZWQ=\x07",
        "\x1b[2J",
        "\u202e",
        "\ud800",
        "<script>alert(1)</script>",
        "\"'&<>",
        "$(touch pwned)",
        "`touch pwned`",
        "'; touch pwned #",
        "-oProxyCommand=touch pwned",
        "--help",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "2026-13-40",
        "1" * 5000,
        "nan",
        "1e999",
        "\u0661\u0662",
        "null",
        "NaN",
        "x\r\nSet: y",
    ]
)
TEXT = st.one_of(WORDS, st.text(max_size=30))
ANY = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXT),
    lambda some: st.one_of(st.lists(some, max_size=4), st.dictionaries(TEXT, some, max_size=4)),
    max_leaves=8,
)
# More of what a terminal, a page or a shell could take for its own
SCREEN = st.lists(
    st.one_of(
        WORDS,
        st.text(max_size=12),
        st.sampled_from(
            [
                "| ",
                " step ",
                "[rank0]: ",
                "Traceback (most recent call last):\n",
                "  ",
                "\r",
                "\t",
                "1",
                ",",
                "loss 1.0 |",
                " tok/s |",
            ]
        ),
    ),
    max_size=40,
).map("".join)


def paths_of(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is something in a document, by keys and numbers."""
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [here, *(p for key, v in inside for p in paths_of(v, (*here, key)))]


@st.composite
def spoilt(draw: st.DrawFn, good: Any, most: int = 3) -> Any:
    """A good document in which a few values are others, missing, doubled or under another name."""
    document = copy.deepcopy(good)
    for _ in range(draw(st.integers(0, most))):
        places = [p for p in paths_of(document) if p]
        if not places:
            return draw(ANY)
        *above, key = draw(st.sampled_from(places))
        into = document
        for step in above:
            into = into[step]
        what = draw(st.sampled_from(("value", "value", "value", "gone", "more")))
        if what == "value":
            into[key] = draw(ANY)
        elif what == "gone":
            del into[key]
        elif isinstance(into, dict):
            into[draw(TEXT)] = draw(ANY)
        else:
            into.append(copy.deepcopy(into[key]))
    return document


@st.composite
def as_json(draw: st.DrawFn, good: Any, most: int = 3) -> bytes:
    """Such a document as JSON; sometimes cut off, nested without end, or with a byte changed."""
    text = json.dumps(draw(spoilt(good, most)))
    if draw(st.integers(0, 9)) == 0:
        text = text.replace(draw(st.sampled_from(["null", "1", '""', "{}", "true"])), DEEP, 1)
    return draw(cut(text.encode("utf-8", "surrogatepass")))


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> bytes:
    """The same bytes, or damaged ones."""
    how = draw(st.integers(0, 11))
    at = draw(st.integers(0, max(0, len(data) - 1)))
    if how == 0:
        return data[:at]
    if how == 1 and data:
        return data[:at] + draw(st.binary(min_size=1, max_size=3)) + data[at + 1 :]
    return data
