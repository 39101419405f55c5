"""Conversations in the forms of other programs: named when a file is refused, rewritten by `just identity --from FILE`.

ShareGPT ({"conversations": [{"from": "human", "value": ...}]}), prompts with their answers ({"instruction", "input", "output"},
{"prompt", "completion"}, ...), messages under other names or of other roles, and text in parts. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONVERT = "Convert it: just identity --from FILE"
LISTS = (
    "messages",
    "conversations",
    "conversation",
    "chat_messages",
    "thread",
    "turns",
    "dialogue",
    "dialog",
)
ROLE_KEYS = ("role", "from", "sender", "speaker")
TEXT_KEYS = ("content", "value", "text")
ROLES = {
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bot", "model", "ai"),
    "system": ("system", "developer"),
}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
# The keys of a question and of its answer
PAIRS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "output"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("input", "output"),
    ("user", "assistant"),
)

# Text that belongs to the question
CONTEXTS = ("input", "context", "passage", "document", "background")
# Answers to choose from, without which a letter or number for an answer means nothing
CHOICES = ("choices", "options", "endings", "candidates")
BESIDE = ("id", "system", "system_prompt", "history", "label", *LISTS)


def is_message(value: Any) -> bool:
    """Whether an object is a message of a conversation, in any of the forms, and not a conversation."""
    return (
        isinstance(value, dict)
        and _key(value, ROLE_KEYS) is not None
        and _key(value, LISTS) is None
    )


def form_of(value: Any) -> str:
    """The name of the foreign form that a value has; "" if it has none that is known."""
    if isinstance(value, list):
        first = value[0] if value else None
        return _form_of_messages(first) if isinstance(first, dict) else ""
    if not isinstance(value, dict):
        return ""
    if key := _key(value, LISTS):
        messages = value[key]
        first = messages[0] if isinstance(messages, list) and messages else None
        named = _form_of_messages(first) if isinstance(first, dict) else ""
        return named or (f"messages under the name {key}" if key != "messages" else "")
    pair = _pair(value)
    return f"the form {pair[0]} and {pair[1]}" if pair else ""


def _form_of_messages(first: Mapping[str, Any]) -> str:
    if "from" in first and "role" not in first:
        return "the form of ShareGPT (from and value)"
    if "role" in first and "content" not in first and _key(first, TEXT_KEYS):
        return f"messages with {_key(first, TEXT_KEYS)} in place of content"
    return ""


def rewrite(value: Any) -> Any:
    """The messages of a value as nanochat has them, not checked; what is not known stays as it is."""
    if isinstance(value, list):
        return _messages(value)
    if not isinstance(value, dict):
        return value
    if key := _key(value, LISTS):
        found = _messages(value[key])
        return [*_system(value), *found] if isinstance(found, list) else found
    if pair := _pair(value):
        return [*_system(value), *_history(value), *_exchange(value, *pair)]
    return value


def why_not(value: Any) -> str:
    """Why training on a value's conversation would teach something else than the value says; "" if it would not."""
    if not isinstance(value, dict):
        return ""
    if "label" in value and value["label"] in (False, 0):
        return "its label is false: the answer is a rejected one, and nanochat trains every answer"
    if _key(value, LISTS) is None and (key := _key(value, CHOICES)):
        return f"{key} to choose from have no place in a conversation: write them into the question"
    return ""


def left_aside(value: Any) -> list[str]:
    """The keys with text that a rewritten conversation does not hold."""
    if not isinstance(value, dict):
        return []
    pair = None if _key(value, LISTS) else _pair(value)
    held = {*BESIDE, *pair, *CONTEXTS} if pair else {*BESIDE}
    return [k for k, v in value.items() if k not in held and isinstance(v, str) and v.strip()]


def _messages(messages: Any) -> Any:
    """Messages with the roles of nanochat; an empty system message is left out."""
    found = [_message(m) for m in messages] if isinstance(messages, list) else messages
    if found and isinstance(found, list) and _is_empty_system(found[0]):
        return found[1:]
    return found


def _message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    role, text = _key(message, ROLE_KEYS), _key(message, TEXT_KEYS)
    if role is None or text is None:
        return message
    name = message[role]
    known = ROLE_OF.get(name.strip().lower(), name) if isinstance(name, str) else name
    # what else it has may change what it means, and is checked
    rest = {k: v for k, v in message.items() if k not in (role, text)}
    return {**rest, "role": known, "content": _text(message[text], known)}


def _text(content: Any, role: Any) -> Any:
    """Text in parts as one text, where nanochat reads no parts."""
    if role == "assistant" or not isinstance(content, list):
        return content
    texts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") == "text"]
    whole = len(texts) == len(content) and all(isinstance(t, str) for t in texts)
    return "\n".join(str(t) for t in texts) if whole else content


def _is_empty_system(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") == "system"
        and isinstance(message.get("content"), str)
        and not message["content"].strip()
    )


def _system(value: Mapping[str, Any]) -> list[dict[str, str]]:
    """The system message that stands beside a conversation."""
    text = value.get("system") or value.get("system_prompt")
    return [{"role": "system", "content": text}] if isinstance(text, str) and text.strip() else []


def _history(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Earlier exchanges: "history": [[question, answer], ...]."""
    history = value.get("history")
    pairs = history if isinstance(history, list) else []
    return [
        {"role": role, "content": text}
        for pair in pairs
        if isinstance(pair, list)
        for role, text in zip(("user", "assistant"), pair, strict=False)
    ]


def _exchange(value: Mapping[str, Any], question: str, answer: str) -> list[Any]:
    asked, said = value[question], value[answer]
    if isinstance(asked, list) and isinstance(said, list):  # both are messages
        return list(_messages([*asked, *said]))
    for more in (value.get(key) for key in CONTEXTS if key != question):
        if isinstance(more, str) and more.strip() and isinstance(asked, str):
            asked = f"{asked}\n\n{more}" if asked.strip() else more
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


def _pair(value: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if pair[0] in value and pair[1] in value), None)


def _key(value: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((key for key in keys if key in value), None)
