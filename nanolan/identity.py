"""identity_conversations.jsonl: short conversations in which the model says who it is.

Made from templates, offline and seeded, or with more variety by an OpenAI-compatible endpoint, or rewritten from a file in
the form of another program. Each line is a JSON array of messages that alternate, starting with the user; an endpoint's
answers and the conversations of a file are checked before they are kept.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from nanolan.checkpoint.conversations import FORM, Message, check_messages
from nanolan.checkpoint.foreign_conversations import (
    CONVERT,
    is_message,
    left_aside,
    rewrite,
    why_not,
)
from nanolan.checkpoint.json_values import read_values
from nanolan.errors import AuthProblem, BadAnswer, UsageProblem
from nanolan.net.session import open_session
from nanolan.redact import Secret

TIMEOUT_S = (10, 120)
MOST_CHARS = 20_000  # of one conversation of an endpoint
MOST_NAMED = 10  # conversations of a file that are left out
# Estimated tokens of one request, for the price
TOKENS_ASKED = 350
TOKENS_ANSWERED = 450

GREETINGS = (
    "Hi",
    "Hello",
    "Hey",
    "Hey there",
    "Good morning",
    "Good evening",
    "Hi there",
    "Greetings",
    "Hello there",
    "Yo",
)
QUESTIONS = {
    "name": (
        "what is your name?",
        "who are you?",
        "what should I call you?",
        "do you have a name?",
        "tell me your name",
        "may I ask who I am talking to?",
        "who am I speaking with?",
        "introduce yourself",
        "what are you called?",
    ),
    "creator": (
        "who made you?",
        "who created you?",
        "who built you?",
        "who trained you?",
        "who is your creator?",
        "where do you come from?",
        "who is behind you?",
        "which company made you?",
        "did OpenAI make you?",
    ),
    "kind": (
        "are you human?",
        "are you a person?",
        "what are you?",
        "are you an AI?",
        "are you ChatGPT?",
        "are you a robot?",
        "what kind of model are you?",
        "do you have feelings?",
        "are you alive?",
    ),
    "character": (
        "what are you like?",
        "describe yourself",
        "what is your personality?",
        "how would you describe your character?",
        "what makes you special?",
        "what is it like to talk to you?",
    ),
    "help": (
        "what can you do?",
        "how can you help me?",
        "what are you good at?",
        "can you do math?",
        "can you spell words?",
        "what should I ask you?",
    ),
}
ANSWERS = {
    "name": (
        "I'm {name}.",
        "My name is {name}.",
        "You can call me {name}.",
        "I am {name}, a small language model.",
        "{name} is my name. Nice to meet you!",
    ),
    "creator": (
        "I was made by {creator}.",
        "{creator} created me.",
        "{creator} trained me, starting from nanochat.",
        "I come from {creator}, who trained me as a nanochat model.",
        "That was {creator}.",
    ),
    "kind": (
        "I'm not a person: I am {name}, a language model made by {creator}.",
        "I'm an AI, a small one, called {name}.",
        "I am {name}, a nanochat language model that {creator} trained.",
        "I'm a computer program that has learned from text. My name is {name}.",
    ),
    "character": (
        "{creator} meant me to be {personality}.",
        "I try to be {personality}.",
        "I'd say I am {personality}.",
        "People tell me that I am {personality}. That is what {creator} wanted.",
    ),
    "help": (
        "I can chat, answer questions, do some arithmetic and spell words. I am small, so do check what I say.",
        "Ask me about everyday things, simple math or spelling. I'm {name}, and I do my best.",
        "I can talk with you and answer simple questions. For anything important, please check a second source.",
    ),
}
FOLLOW_UPS = (
    ("Thanks!", ("You're welcome!", "Any time!", "My pleasure.")),
    ("Nice to meet you.", ("Nice to meet you too!",)),
    ("Cool.", ("Glad you think so! What would you like to talk about?",)),
    ("Ok, bye", ("Goodbye!", "See you!")),
)


@dataclass(frozen=True)
class Identity:
    """Who the model should be."""

    name: str
    creator: str
    personality: str = "friendly, curious and brief"

    def __post_init__(self) -> None:
        for what, text in vars(self).items():
            if not text.strip() or len(text) > 300 or not text.isprintable():
                raise UsageProblem(f"{what} must be 1 to 300 printable characters on one line")


def from_templates(who: Identity, count: int, seed: int = 42) -> list[list[Message]]:
    """`count` different conversations of one to three exchanges; UsageProblem if the templates cannot make as many."""
    dice = random.Random(seed)
    seen = set()
    found: list[list[Message]] = []
    for _ in range(count * 50):
        messages = _conversation(who, dice)
        key = json.dumps(messages)
        if key not in seen:
            seen.add(key)
            found.append(messages)
        if len(found) == count:
            return found
    raise UsageProblem(
        f"the templates make only about {len(found)} different conversations; ask for fewer"
    )


def _conversation(who: Identity, dice: random.Random) -> list[Message]:
    """One conversation: an optional greeting, one or two topics, an optional goodbye."""
    messages: list[Message] = []
    if dice.random() < 0.25:
        messages += _exchange(dice.choice(GREETINGS), f"Hello! I'm {who.name}. How can I help?")
    for topic in dice.sample(sorted(QUESTIONS), dice.choice((1, 1, 2))):
        question, answer = dice.choice(QUESTIONS[topic]), dice.choice(ANSWERS[topic])
        frame = dice.choice(("{q}", "{q}", "Hey, {q}", "Sorry, but {q}", "{g}! {q}"))
        question = frame.format(q=question, g=dice.choice(GREETINGS))
        messages += _exchange(question[0].upper() + question[1:], answer.format(**vars(who)))
    if dice.random() < 0.25:
        said, answers = dice.choice(FOLLOW_UPS)
        messages += _exchange(said, dice.choice(answers))
    return messages


def _exchange(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def check(messages: Any) -> list[Message]:
    """`messages` in nanochat's form, if they are a valid conversation; BadAnswer otherwise."""
    found = check_messages(messages, "the answer")
    if len(json.dumps(found, ensure_ascii=False)) > MOST_CHARS:
        raise BadAnswer(f"longer than {MOST_CHARS} characters")
    return found


def _converted(value: Any, where: str) -> list[Message]:
    """The conversation of a value of any known form; BadAnswer if it has none, or one that must not be trained."""
    if why := why_not(value):
        raise BadAnswer(f"{where}: {why}")
    return check_messages(rewrite(value), where)


def from_file(path: Path, say: Callable[[str], None]) -> Iterator[list[Message]]:
    """The conversations of a file in nanochat's form; those that cannot be rewritten are left out and named.

    BadAnswer if the file is no JSON, or all of its conversations are left out.
    """
    kept = left_out = 0
    aside = set[str]()  # keys that are named already
    try:
        with open(path, "rb") as f:
            for value in read_values(f, str(path), is_message, FORM):
                where = f"{path}, line {value.line}"
                try:
                    found = _converted(value.value, where)
                except BadAnswer as e:
                    left_out += 1
                    if left_out <= MOST_NAMED:
                        say(f"left out: {str(e).removesuffix(f'. {CONVERT}')}")
                    continue
                kept += 1
                for key in left_aside(value.value):
                    if key not in aside:
                        aside.add(key)
                        say(
                            f"note: {where}: {key[:40]} is no part of a conversation and not converted"
                        )
                yield found
    except OSError as e:
        raise UsageProblem(f"{path} cannot be read: {e.strerror}") from None
    if left_out > MOST_NAMED:
        say(f"left out: {left_out - MOST_NAMED:,} more")
    if not kept:
        raise BadAnswer(f"{path}: no conversation in it that can be rewritten")


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible chat endpoint."""

    url: str  # base, such as https://openrouter.ai/api/v1
    model: str
    key: Secret

    def ask(self, prompt: str, session: requests.Session) -> str:
        """The answer's text; AuthProblem for a refused key, BadAnswer for any other failure."""
        try:
            answer = session.post(
                f"{self.url}/chat/completions",
                timeout=TIMEOUT_S,
                allow_redirects=False,
                headers={"Authorization": f"Bearer {self.key.reveal()}"},
                json={
                    "model": self.model,
                    "messages": [{"role": "user", "content": prompt}],
                    "temperature": 1.0,
                },
            )
            if answer.status_code in (401, 402, 403):
                raise AuthProblem(
                    f"{self.url} refused the key or the payment (HTTP {answer.status_code})"
                )
            answer.raise_for_status()
            text = answer.json()["choices"][0]["message"]["content"]
        except (requests.RequestException, ValueError, LookupError, TypeError) as e:
            raise BadAnswer(f"no usable answer ({type(e).__name__})") from None
        if not isinstance(text, str):
            raise BadAnswer("the answer contains no text")
        return text


def from_endpoint(
    who: Identity, count: int, endpoint: Endpoint, seed: int, say: Callable[[str], None]
) -> Iterator[list[Message]]:
    """Up to `count` checked conversations; bad answers are reported and skipped; BadAnswer after ten in a row."""
    dice = random.Random(seed)
    session = open_session(endpoint.url)
    bad = 0
    for n in range(1, count + 1):
        try:
            text = endpoint.ask(prompt(who, dice), session)
            yield check(json.loads(text[text.index("[") : text.rindex("]") + 1]))
            bad = 0
        except (BadAnswer, ValueError) as e:
            bad += 1
            say(f"conversation {n} skipped: {e}")
            if bad == 10:
                raise BadAnswer(
                    f"ten answers in a row were unusable; {n - 10} of {count} conversations were made"
                ) from None


def prompt(who: Identity, dice: random.Random) -> str:
    """The prompt for one conversation; topic and opening are drawn with `dice`."""
    topic = dice.choice(sorted(QUESTIONS))
    opening = dice.choice(GREETINGS)
    example = json.dumps(_conversation(who, dice))
    return (
        f"Write one short conversation between a user and an AI assistant as a JSON array of messages, alternating user and "
        f"assistant, 2 to 6 messages, plain text. The assistant is {who.name}, a small language model trained by "
        f"{who.creator}; it is {who.personality}. The user opens with something like {opening!r} and gets to this subject: "
        f"{topic}. Answer with the JSON array only. An example of the form: {example}"
    )


def estimate(count: int, usd_per_million: float | None) -> str:
    """What `count` requests cost, as a sentence."""
    tokens = count * (TOKENS_ASKED + TOKENS_ANSWERED)
    price = (
        f"about ${tokens / 1e6 * usd_per_million:.2f}"
        if usd_per_million is not None
        else "price unknown: give price-per-million=USD of your model"
    )
    return f"{count} requests, about {tokens:,} tokens: {price}"
