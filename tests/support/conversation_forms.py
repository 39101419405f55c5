"""Files of conversations in the forms that people bring: what is read from each, or the line and the reason of its refusal."""

from __future__ import annotations

import gzip
import json
from typing import Any, NamedTuple

Messages = list[dict[str, Any]]


def turns(*texts: Any) -> Messages:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def text(value: Any, **how: Any) -> bytes:
    return json.dumps(value, **how).encode()


def lines(*values: Any, end: bytes = b"\n") -> bytes:
    """JSON lines; bytes stay as they are."""
    return b"".join((v if isinstance(v, bytes) else text(v)) + end for v in values)


def said(**message: Any) -> dict[str, Any]:
    return message


HI, BYE = turns("Who are you?", "I am Lanbot."), turns("Hi", "Hello!", "Bye", "See you.")
KIND = said(role="system", content="Be kind.")
WITH_KIND = turns("Be kind.\n\nWho are you?", "I am Lanbot.")
TOOLS = [
    said(type="text", text="So "),
    said(type="python", text="2+3"),
    said(type="python_output", text="5"),
]
SHAREGPT = said(
    id="QWJhYvA_0",
    conversations=[
        said(**{"from": "human"}, value="Who are you?"),
        said(**{"from": "gpt"}, value="I am Lanbot."),
    ],
)
BOM = b"\xef\xbb\xbf"
BOTH = lines(HI, BYE)

# name -> (file, conversations)
ACCEPTED: dict[str, tuple[bytes, list[Messages]]] = {
    "an array a line": (BOTH, [HI, BYE]),
    "no end of the last line": (BOTH.rstrip(), [HI, BYE]),
    "one line": (lines(HI), [HI]),
    "an object a line": (lines({"messages": HI}, {"messages": BYE}), [HI, BYE]),
    "arrays and objects": (lines(HI, {"messages": BYE}), [HI, BYE]),
    "an object with more": (lines({"id": 7, "messages": HI, "source": {"a": [1]}}), [HI]),
    "an object from somewhere": (lines({"from": "me", "role": "x", "messages": HI}), [HI]),
    "messages with more": (
        lines([{**HI[0], "name": "Ann", "id": None}, {**HI[1], "weight": 1, "tool_calls": None}]),
        [HI],
    ),
    "an array of arrays": (text([HI, BYE]), [HI, BYE]),
    "an array of arrays over lines": (text([HI, BYE], indent=2), [HI, BYE]),
    "an array of objects": (text([{"messages": HI}, {"messages": BYE}]), [HI, BYE]),
    "an array of objects over lines": (
        text([{"messages": HI}, {"messages": BYE}], indent=2),
        [HI, BYE],
    ),
    "an array of both": (text([HI, {"messages": BYE}], indent="\t"), [HI, BYE]),
    "an array with a conversation a line": (
        b"[\n" + text(HI) + b",\n" + text(BYE) + b"\n]\n",
        [HI, BYE],
    ),
    "one conversation over lines": (text(HI, indent=4), [HI]),
    "objects over lines": (
        text({"messages": HI}, indent=2) + b"\n" + text({"messages": BYE}, indent=2),
        [HI, BYE],
    ),
    "an array of arrays a line": (lines([HI], [BYE, HI]), [HI, BYE, HI]),
    "blank lines": (b"\n \n" + lines(HI, b"", b"\t", BYE) + b"\n\n", [HI, BYE]),
    "blanks around": (lines(b"  " + text(HI) + b"\t ", BYE), [HI, BYE]),
    "a BOM": (BOM + BOTH, [HI, BYE]),
    "a BOM before a document": (BOM + text([HI, BYE], indent=1), [HI, BYE]),
    "CRLF": (lines(HI, b"", BYE, end=b"\r\n"), [HI, BYE]),
    "CR": (lines(HI, b"", BYE, end=b"\r"), [HI, BYE]),
    "a document with CRLF": (text([HI, BYE], indent=1).replace(b"\n", b"\r\n"), [HI, BYE]),
    "a system message first": (lines([KIND, *HI], BYE), [WITH_KIND, BYE]),
    "a system message in the second line": (lines(BYE, [KIND, *HI]), [BYE, WITH_KIND]),
    "a system message in an object": (lines({"messages": [KIND, *HI]}), [WITH_KIND]),
    "tool calls": (lines(turns("2+3?", TOOLS)), [turns("2+3?", TOOLS)]),
    "a call that prints nothing": (
        lines(turns("go", [said(type="python", text="x"), said(type="python_output", text="")])),
        [turns("go", [said(type="python", text="x"), said(type="python_output", text="")])],
    ),
    "parts with more": (
        lines(turns("2+3?", [{**part, "id": 1} for part in TOOLS])),
        [turns("2+3?", TOOLS)],
    ),
    "one part of text": (lines(turns("Hi", [said(type="text", text="Yo")])), [turns("Hi", "Yo")]),
    "other scripts and emoji": (
        lines(json.dumps(turns("Wer? \u00fc", "\u6211 \U0001f600"), ensure_ascii=False).encode()),
        [turns("Wer? \u00fc", "\u6211 \U0001f600")],
    ),
    "escaped emoji": (lines(turns("Hi", "\U0001f600")), [turns("Hi", "\U0001f600")]),
    "a separator of lines in a text": (
        lines(json.dumps(turns("a\u2028b\u0085c\x0cd", "e"), ensure_ascii=False).encode(), BYE),
        [turns("a\u2028b\u0085c\x0cd", "e"), BYE],
    ),
    "brackets and quotes in a text": (
        text([turns('[[{{"' * 99, "\\"), BYE]),
        [turns('[[{{"' * 99, "\\"), BYE],
    ),
    "special tokens and NUL": (
        lines(turns("<|bos|>", "<|assistant_end|> \0")),
        [turns("<|bos|>", "<|assistant_end|> \0")],
    ),
    "blanks around a text": (lines(turns(" Hi\n", "\tYo ")), [turns(" Hi\n", "\tYo ")]),
    "sixty exchanges": (lines(turns(*"ab" * 60)), [turns(*"ab" * 60)]),
    "metadata forty levels deep": (
        lines(b'{"x": ' + b"[" * 40 + b"]" * 40 + b', "messages": ' + text(HI) + b"}"),
        [HI],
    ),
    "a line of nearly 1 MiB": (
        lines(HI, turns("x" * 1_048_000, "y")),
        [HI, turns("x" * 1_048_000, "y")],
    ),
    "one object over lines with metadata": (
        text(
            {"version": "1", "messages": [{"id": "m", **m} for m in HI], "metadata": {}}, indent=2
        ),
        [HI],
    ),
    "a document with a system message": (text([{"messages": [KIND, *HI]}], indent=2), [WITH_KIND]),
    "a document of 3 MiB in one line": (
        text([turns("x" * 500_000, "y")] * 6),
        [turns("x" * 500_000, "y")] * 6,
    ),
}


class Refusal(NamedTuple):
    """A file that is refused: at this line (0: the whole file), with these words."""

    file: bytes
    line: int
    why: str


CONVERT = "Convert it: just identity --from FILE"


def second(value: Any) -> bytes:
    """A good line, then this one, then a good one."""
    return lines(HI, value, BYE)


REFUSED: dict[str, Refusal] = {
    "an empty file": Refusal(b"", 1, "an empty file"),
    "blank lines only": Refusal(b"\n \r\n", 0, "no conversations in it"),
    "an empty document": Refusal(b"[]", 1, "no array of two or more messages"),
    "an empty document over lines": Refusal(b"[\n]", 1, "no array of two or more messages"),
    "ShareGPT": Refusal(lines(SHAREGPT), 1, f"ShareGPT (from and value). {CONVERT}"),
    "ShareGPT in one document": Refusal(text([SHAREGPT], indent=2), 2, f"value). {CONVERT}"),
    "ShareGPT without the object": Refusal(second(SHAREGPT["conversations"]), 2, CONVERT),
    "ShareGPT's key with messages": Refusal(
        lines({"conversations": HI}), 1, f"messages under the name conversations. {CONVERT}"
    ),
    "Alpaca": Refusal(
        text([{"instruction": "Hi", "input": "", "output": "Yo"}], indent=4),
        2,
        f"the form instruction and output. {CONVERT}",
    ),
    "prompt and completion": Refusal(
        lines({"prompt": "Hi", "completion": "Yo"}), 1, f"prompt and completion. {CONVERT}"
    ),
    "prompt and response": Refusal(
        second({"prompt": "Hi", "response": "Yo"}), 2, f"prompt and response. {CONVERT}"
    ),
    "messages as prompt and completion": Refusal(
        lines({"prompt": HI[:1], "completion": HI[1:]}), 1, CONVERT
    ),
    "a thread of OpenAssistant": Refusal(
        lines({"thread": [said(text="Hi", role="prompter"), said(text="Yo", role="assistant")]}),
        1,
        f"messages with text in place of content. {CONVERT}",
    ),
    "the role human": Refusal(
        second([said(role="human", content="Hi"), HI[1]]), 2, "'human': nanochat knows user"
    ),
    "plain text": Refusal(lines({"text": "User: Hi"}), 1, "an object without a list of messages"),
    "preferences": Refusal(
        lines({"chosen": HI, "rejected": BYE}), 1, "(its keys: chosen, rejected)"
    ),
    "messages in a string": Refusal(lines({"messages": json.dumps(HI)}), 1, "without a list of"),
    "conversations within messages": Refusal(
        lines({"messages": [HI, BYE]}), 1, "an array of 2 arrays, no conversation"
    ),
    "conversations within a line": Refusal(second([HI, BYE]), 2, "an array of 2 arrays"),
    "a list of strings": Refusal(second(["Hi", "Yo"]), 2, "message 1 is no object with role"),
    "UTF-16": Refusal(BOTH.decode().encode("utf-16"), 1, "UTF-16 text: save it as UTF-8"),
    "UTF-16 without a BOM": Refusal(BOTH.decode().encode("utf-16-le"), 1, "UTF-16 or UTF-32"),
    "UTF-32": Refusal(BOTH.decode().encode("utf-32-be"), 1, "UTF-16 or UTF-32 text"),
    "latin-1": Refusal(
        second(json.dumps(turns("Gr\u00fc\u00dfe", "x"), ensure_ascii=False).encode("latin-1")),
        2,
        "not UTF-8 text (byte 0xfc; perhaps latin-1",
    ),
    "latin-1 in a document": Refusal(
        json.dumps([HI, turns("\u00fc", "x")], ensure_ascii=False, indent=1).encode("latin-1"),
        15,
        "not UTF-8 text (byte 0xfc",
    ),
    "gzip": Refusal(gzip.compress(BOTH), 1, "packed by gzip: unpack it"),
    "zip": Refusal(b"PK\x03\x04" + bytes(99), 1, "a zip archive: unpack it"),
    "parquet": Refusal(b"PAR1" + bytes(99), 1, "a parquet file"),
    "a git-lfs pointer": Refusal(
        b"version https://git-lfs.github.com/spec/v1\noid", 1, "a git-lfs pointer"
    ),
    "a web page": Refusal(b"<!DOCTYPE html><html>", 1, "a web page"),
    "CSV": Refusal(b"prompt,response\nHi,Yo\n", 1, "not JSON (column 1)"),
    "Python's quotes": Refusal(second(str(HI).encode()), 2, "not JSON (column 3)"),
    "a line cut off": Refusal(second(text(HI)[:-9]), 2, "not JSON"),
    "two in one line": Refusal(second(text(HI) + b" " + text(BYE)), 2, "not JSON"),
    "commas between lines": Refusal(
        text(HI) + b",\n" + text(BYE) + b",\n",
        1,
        "a comma after a conversation that is in no array",
    ),
    "a document cut off": Refusal(text([HI, BYE], indent=1)[:-20], 27, "not JSON"),
    "a document without its end": Refusal(text([HI, BYE])[:-1], 1, "has no end here"),
    "a comma at the end of a document": Refusal(
        b"[\n" + text(HI) + b",\n]\n", 3, "not JSON (column 1)"
    ),
    "an error within a document": Refusal(
        text([HI, BYE], indent=1).replace(b'"Bye"', b"'Bye'"), 23, "not JSON (column 15)"
    ),
    "NaN": Refusal(second(b'{"x": NaN, "messages": []}'), 2, "NaN is no JSON value"),
    "Infinity in a document": Refusal(b"[\n" + text(HI) + b",\n[-Infinity]]", 3, "-Infinity is no"),
    "a key twice": Refusal(
        second(b'[{"role": "user", "content": "a", "content": "b"}]'),
        2,
        "the key 'content' stands twice",
    ),
    "half a character": Refusal(second(rb'[{"role": "user", "content": "\ud83d"}]'), 2, "half a"),
    "the other half": Refusal(second(rb'[{"role": "user", "content": "\uDE00 x"}]'), 2, "half a"),
    "a control character": Refusal(second(b'[{"role": "user", "content": "\1"}]'), 2, "not JSON"),
    "deep arrays": Refusal(second(b"[" * 100_000), 2, "nested deeper than 64"),
    "deep objects": Refusal(second(b'{"a":' * 70 + b"1" + b"}" * 70), 2, "nested deeper than 64"),
    "deep in a document": Refusal(
        b"[\n" + text(HI) + b",\n" + b"[" * 99 + b"]" * 99 + b"]", 3, "nested deeper than 64"
    ),
    "a long line": Refusal(second(turns("x" * (1 << 20), "y")), 2, "longer than 1 MiB"),
    "a long line without end": Refusal(lines(HI) + b'["' + b"x" * (3 << 20), 2, "longer than 1"),
    "a long conversation in a document": Refusal(
        b"[\n" + text(HI) + b",\n" + text(turns("x" * (2 << 20), "y")) + b"]", 3, "longer than 1"
    ),
    "of many bytes a character": Refusal(
        json.dumps([HI, turns("\u6211" * 400_000, "y")], ensure_ascii=False).encode(), 1, "longer"
    ),
    "a number": Refusal(second(5), 2, "no array of messages"),
    "a number of many digits": Refusal(second(b"9" * 9000), 2, "not JSON that can be read"),
    "null": Refusal(second(None), 2, "no array of messages"),
    "one message": Refusal(second(HI[:1]), 2, "no array of two or more messages"),
    "the assistant first": Refusal(second(HI[1:] + HI[:1]), 2, "message 1 is of the assistant"),
    "the user twice": Refusal(second([HI[0], HI[0], HI[1]]), 2, "message 2 is of the user, but"),
    "the assistant twice": Refusal(second([*HI, HI[1]]), 2, "message 3 is of the assistant"),
    "ends with the user": Refusal(second(BYE[:3]), 2, "ends with the user"),
    "a system message alone": Refusal(second([KIND]), 2, "no message of the user after"),
    "system, then assistant": Refusal(second([KIND, HI[1]]), 2, "no message of the user after"),
    "a system message later": Refusal(second([*HI, KIND, *HI]), 2, "message 3 is of the system"),
    "two system messages": Refusal(second([KIND, KIND, *HI]), 2, "no message of the user after"),
    "an empty system message": Refusal(
        second([said(role="system", content=""), *HI]), 2, "is empty"
    ),
    "the role tool": Refusal(
        second([*HI, said(role="tool", content="5")]), 2, "message 3 has the role 'tool'"
    ),
    "no role": Refusal(second([said(content="Hi"), HI[1]]), 2, "message 1 has the role None"),
    "an empty text": Refusal(second(turns("Hi", "")), 2, "message 2 is empty"),
    "a blank text": Refusal(second(turns(" \n", "Yo")), 2, "message 1 is empty"),
    "no content": Refusal(second([HI[0], said(role="assistant")]), 2, "its content is NoneType"),
    "a number for a text": Refusal(second(turns("Hi", 5)), 2, "its content is int"),
    "an object for a text": Refusal(second(turns("Hi", {"text": "Yo"})), 2, "content is dict"),
    "parts of the user": Refusal(
        second(turns([said(type="text", text="Hi")], "Yo")),
        2,
        f"only the assistant's may be. {CONVERT}",
    ),
    "no parts": Refusal(second(turns("Hi", [])), 2, "message 2 is empty"),
    "an image": Refusal(second(turns("Hi", [said(type="image_url")])), 2, "part 'image_url'"),
    "a part that is a text": Refusal(second(turns("Hi", ["Yo"])), 2, "has a part 'Yo'"),
    "a part without text": Refusal(second(turns("Hi", [said(type="text")])), 2, "without text"),
    "a result without a call": Refusal(
        second(turns("Hi", TOOLS[::-1])), 2, "a python_output without a python"
    ),
    "an empty call": Refusal(
        second(turns("Hi", [TOOLS[0], said(type="python", text=" ")])), 2, "python that is empty"
    ),
    "calls of an API": Refusal(
        second([HI[0], said(role="assistant", content="", tool_calls=[{"id": "x"}])]),
        2,
        "message 2 has tool_calls",
    ),
    "an answer that is not trained": Refusal(
        second([HI[0], {**HI[1], "weight": 0}]), 2, "message 2 has the weight 0"
    ),
    # what people brought to other trainers, by their issues
    "a message a line": Refusal(
        lines({"session": "x", "title": "Hi"}, *HI), 1, "(its keys: session, title)"
    ),
    "messages without a session": Refusal(lines(*HI), 1, "a message, no conversation"),
    "an export of ChatGPT": Refusal(
        text([{"title": "x", "mapping": {"a": {"parent": None}}, "current_node": "a"}]),
        1,
        "(its keys: current_node, mapping, title)",
    ),
    "an export of Claude": Refusal(
        text([{"chat_messages": [said(sender="human", text="Hi")]}]), 1, CONVERT
    ),
    "a history": Refusal(
        text([{"instruction": "c", "input": "", "output": "d", "history": [["a", "b"]]}]),
        1,
        CONVERT,
    ),
    "calls in ShareGPT": Refusal(
        lines({"conversations": [said(**{"from": "observation"}, value="5")], "tools": "[]"}),
        1,
        CONVERT,
    ),
    "a BOM before prompt and completion": Refusal(
        BOM + lines({"prompt": "", "completion": "Yo"}), 1, CONVERT
    ),
    "the assistant after a system message": Refusal(
        lines({"messages": [KIND, HI[1], HI[0], HI[1]]}), 1, "no message of the user after"
    ),
    "an answer of null": Refusal(
        second({"messages": [HI[0], said(role="assistant", content=None, tool_calls=[{}])]}),
        2,
        "message 2 has tool_calls",
    ),
    "two questions at the end": Refusal(
        second([*HI, HI[0], HI[0]]), 2, "message 4 is of the user, but"
    ),
    "messages in arrays, empty": Refusal(
        text({"messages": [[KIND, *turns("", "")]]}, indent=4), 1, "an array of 1 arrays"
    ),
}
