"""Conversations of other programs become nanochat's; what has no place in them is left for the check to refuse."""

from __future__ import annotations

from typing import Any

import pytest

from nanolan.checkpoint.conversations import check_messages
from nanolan.checkpoint.foreign_conversations import (
    form_of,
    is_message,
    left_aside,
    rewrite,
    why_not,
)
from nanolan.errors import BadAnswer
from tests.support.conversation_forms import BYE, HI, KIND, SHAREGPT, TOOLS, WITH_KIND, said, turns

ASK, ANSWER = "Who are you?", "I am Lanbot."


def shared(*pairs: tuple[str, str], **beside: Any) -> dict[str, Any]:
    """A conversation of ShareGPT: (from, value) of each message."""
    return {"conversations": [said(**{"from": who}, value=text) for who, text in pairs], **beside}


REWRITTEN: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "ShareGPT": (SHAREGPT, HI),
    "ShareGPT without the object": (SHAREGPT["conversations"], HI),
    "a system message in ShareGPT": (
        shared(("system", "Be kind."), ("human", ASK), ("gpt", ANSWER)),
        WITH_KIND,
    ),
    "a system message beside ShareGPT": (
        shared(("human", ASK), ("gpt", ANSWER), system="Be kind.", tools=""),
        WITH_KIND,
    ),
    "an empty system message": (shared(("system", ""), ("human", ASK), ("gpt", ANSWER)), HI),
    "roles in capitals": (shared(("Human", ASK), ("Assistant", ANSWER)), HI),
    "Alpaca": ({"instruction": ASK, "input": "", "output": ANSWER}, HI),
    "Alpaca with an input": (
        {"instruction": "Spell it.", "input": "cat", "output": "c-a-t"},
        turns("Spell it.\n\ncat", "c-a-t"),
    ),
    "Alpaca with its input alone": ({"instruction": " ", "input": ASK, "output": ANSWER}, HI),
    "Alpaca with a system message": (
        {"instruction": ASK, "output": ANSWER, "system": "Be kind."},
        WITH_KIND,
    ),
    "Alpaca with a history": (
        {"instruction": "Bye", "output": "See you.", "history": [["Hi", "Hello!"]], "system": ""},
        BYE,
    ),
    "Dolly": (
        {
            "instruction": "When was it?",
            "context": "It was in 2015.",
            "response": "2015",
            "category": "closed_qa",
        },
        turns("When was it?\n\nIt was in 2015.", "2015"),
    ),
    "a question about a passage": (
        {"question": "When?", "passage": "In 2015.", "answer": "2015"},
        turns("When?\n\nIn 2015.", "2015"),
    ),
    "KTO, of a good answer": ({"prompt": ASK, "completion": ANSWER, "label": True}, HI),
    "airoboros": ({"instruction": ASK, "response": ANSWER}, HI),
    "prompt and completion": ({"prompt": ASK, "completion": ANSWER}, HI),
    "prompt and response": ({"prompt": ASK, "response": ANSWER, "id": 3}, HI),
    "question and answer": ({"question": ASK, "answer": ANSWER, "source": "x"}, HI),
    "input and output": ({"input": ASK, "output": ANSWER}, HI),
    "messages as prompt and completion": ({"prompt": BYE[:3], "completion": BYE[3:]}, BYE),
    "a thread of OpenAssistant": (
        {"thread": [said(text=ASK, role="prompter"), said(text=ANSWER, role="assistant")]},
        HI,
    ),
    "an export of Claude": (
        {
            "uuid": 1,
            "chat_messages": [
                said(sender="human", text=ASK),
                said(sender="assistant", text=ANSWER),
            ],
        },
        HI,
    ),
    "a developer's message": ([said(role="developer", content="Be kind."), *HI], WITH_KIND),
    "text in parts": (
        [
            said(role="user", content=[said(type="text", text=t) for t in ("Who", "are you?")]),
            HI[1],
        ],
        turns("Who\nare you?", ANSWER),
    ),
    "nanochat's own": (HI, HI),
    "an object with messages": ({"messages": [KIND, *HI]}, WITH_KIND),
    "tool calls": (turns(ASK, TOOLS), turns(ASK, TOOLS)),
}

LEFT: dict[str, tuple[Any, str]] = {
    "calls in ShareGPT": (
        shared(("human", ASK), ("function_call", "{}"), ("observation", "5"), ("gpt", ANSWER)),
        "message 2 has the role 'function_call'",
    ),
    "a misspelt role": (shared(("hummany", ASK), ("gpt", ANSWER)), "the role 'hummany'"),
    "ends with the user": (shared(("human", ASK), ("gpt", ANSWER), ("human", "?")), "ends with"),
    "begins with the assistant": (shared(("gpt", ANSWER), ("human", ASK)), "it is the user's turn"),
    "an empty prompt": ({"prompt": "", "completion": "x"}, "message 1 is empty"),
    "an answer of null": ({"instruction": ASK, "output": None}, "its content is NoneType"),
    "a history of no pairs": (
        {"instruction": ASK, "output": ANSWER, "history": [["Hi"]]},
        "message 2 is of the user",
    ),
    "an image": (
        [said(role="user", content=[said(type="image_url")]), HI[1]],
        "only the assistant's may be",
    ),
    "calls of an API": (
        [HI[0], said(role="assistant", content="x", tool_calls=[{}])],
        "has tool_calls",
    ),
    "preferences": ({"chosen": HI, "rejected": BYE}, "no array of messages"),
    "text": ("Hi", "no array of messages"),
    "messages of text": ({"conversations": ["Hi", "Yo"]}, "message 1 is no object"),
    "conversations of text": ({"conversations": "Hi"}, "no array of messages"),
    "no messages": ({"conversations": []}, "no array of two or more messages"),
}


@pytest.mark.parametrize("form", REWRITTEN)
def test_a_foreign_form_becomes_a_conversation(form: str) -> None:
    value, want = REWRITTEN[form]
    assert check_messages(rewrite(value), "x") == want


@pytest.mark.parametrize("form", LEFT)
def test_what_has_no_place_in_nanochats_form_is_refused_with_the_reason(form: str) -> None:
    value, why = LEFT[form]
    with pytest.raises(BadAnswer, match=why):
        check_messages(rewrite(value), "x")


def test_the_forms_have_names_and_nanochats_has_none() -> None:
    named = {name for name, (value, _) in REWRITTEN.items() if form_of(value)}
    own = {"an object with messages", "nanochat's own", "tool calls"}
    by_role = {"a developer's message", "text in parts"}  # named by their message
    assert named == REWRITTEN.keys() - own - by_role


def test_a_conversation_is_no_message() -> None:
    assert is_message(HI[0]) and is_message(SHAREGPT["conversations"][0])
    assert not any(is_message(v) for v in (HI, SHAREGPT, {"messages": HI, "from": "x"}, "x", {}))


@pytest.mark.parametrize(
    "value, why",
    [
        ({"prompt": ASK, "completion": ANSWER, "label": False}, "its label is false"),
        ({"prompt": ASK, "completion": ANSWER, "label": 0}, "its label is false"),
        ({"messages": HI, "label": False}, "its label is false"),
        ({"question": "2+3?", "choices": ["4", "5"], "answer": "B"}, "choices to choose from"),
        ({"question": "2+3?", "options": {"A": "5"}, "answer": "A"}, "options to choose from"),
        ({"prompt": ASK, "completion": ANSWER, "label": "greeting"}, ""),
        ({"messages": HI, "options": {}}, ""),
        (HI, ""),
    ],
    ids=str,
)
def test_a_conversation_that_would_teach_something_else_is_named(value: Any, why: str) -> None:
    assert why_not(value).startswith(why) and bool(why_not(value)) == bool(why)


@pytest.mark.parametrize("key", ["weight", "train", "training", "train_on_turn", "loss"])
@pytest.mark.parametrize("off", [0, False])
def test_an_answer_that_other_trainers_leave_out_is_refused(key: str, off: Any) -> None:
    with pytest.raises(BadAnswer, match=f"message 2 has the {key} (0|false): nanochat trains"):
        check_messages([HI[0], {**HI[1], key: off}], "x")
    sharegpt = shared(("human", ASK), ("gpt", ANSWER))
    sharegpt["conversations"][1][key] = off
    with pytest.raises(BadAnswer, match=f"has the {key}"):
        check_messages(rewrite(sharegpt), "x")
    assert check_messages([{**HI[0], key: off}, {**HI[1], key: 1}], "x") == HI


def test_text_that_a_conversation_does_not_hold_is_listed() -> None:
    dolly = {"instruction": "a", "context": "b", "response": "c", "category": "d", "n": 1, "e": " "}
    assert left_aside(dolly) == ["category"]
    assert left_aside({"messages": HI, "context": "b", "id": "7"}) == ["context"]
    assert left_aside({"prompt": "a", "response": "b", "rejected": "c"}) == ["rejected"]
