"""Parsers of setting values: each converts a text, or raises a UsageProblem that says what is wrong with it."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable
from urllib.parse import urlsplit

from nanolan.errors import UsageProblem, quoted, without_keys
from nanolan.phases import parse_gate, phase_sequence
from nanolan.redact import Secret

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}"
REPO = r"(?=.{3,96}\Z)[A-Za-z0-9](?:[\w.-]*\w)?/[A-Za-z0-9](?:[\w.-]*\w)?"  # same rule as huggingface_hub
NO_OWNERS = ("datasets", "models", "spaces", "api")
ADDRESS = r"(https?)://(?:[\w.-]+|\[::1\])(?::[0-9]{1,5})?(?:/[\w./~-]*)?"
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise UsageProblem(
            f"{quoted(text, 80)} is not a usable name: letters, digits, '.', '_', '-', at most 60, "
            "starting with a letter or digit"
        )
    return text


def repo(text: str) -> str:
    if re.fullmatch(REPO, text, re.ASCII) and not (
        re.search(r"\.\.|--|\.git$", text) or text.split("/")[0] in NO_OWNERS
    ):
        return text
    plain = re.sub(r"\.git$", "", re.sub(r"^https?://[^/]*/", "", text).strip("/"))
    meant = (
        f": {without_keys(plain)}"
        if plain != text and re.fullmatch(REPO, plain, re.ASCII)
        else ", as in https://huggingface.co/owner/name"
    )
    raise UsageProblem(f"{quoted(text, 80)} is not a Hub repo: give owner/name{meant}")


def init(text: str) -> str:
    """OWNER/REPO:FOLDER, where FOLDER may be left out: the repo's root."""
    name, _, folder = text.partition(":")
    repo(name)
    if folder and not re.fullmatch(
        r"(?!\.)[A-Za-z0-9_][\w.-]*(/(?!\.)[\w][\w.-]*)*/?", folder, re.ASCII
    ):
        raise UsageProblem(
            f"{quoted(text, 100)}: give OWNER/REPO:FOLDER, such as you/nanochat:d20/checkpoints"
        )
    return f"{name}:{folder.strip('/')}"


def address_beside(key: str) -> Callable[[str], str]:
    """A parser of the address of a service, whose key is the setting `key`."""

    def parse(text: str) -> str:
        _not_a_key(text, key)
        return address(text)

    return parse


def _not_a_key(text: str, key: str) -> None:
    """Refuse a text that is no address at all, and quote nothing of it: it may be the key, in the wrong line."""
    if "://" not in text:
        raise UsageProblem(
            f"this is the address of the service and must be https://host; the key is {key}"
        )


def address(text: str) -> str:
    # no user, no backslash: programs disagree on which host such an address names
    plain = re.fullmatch(ADDRESS, text, re.ASCII)
    if plain and (plain[1] == "https" or is_loopback(text)):
        return text.rstrip("/")
    raise UsageProblem(
        f"address {quoted(text)} must be https://host, or http on this machine (127.0.0.1), "
        "with no user, blank or query"
    )


def wandb_address(text: str) -> str:
    _not_a_key(text, "WANDB_API_KEY")
    if not re.fullmatch(
        r"https?://(?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?(?:/[\w./~-]*)?", text, re.ASCII
    ):
        raise UsageProblem(
            f"address {quoted(text)} does not look like https://wandb.example.org; "
            "it must not contain a name or password"
        )
    return text.rstrip("/")


def secret(text: str) -> Secret:
    if not text.isascii() or re.search(r"\s", text):
        raise UsageProblem("a key or token has no spaces and only ASCII characters; copy it again")
    if re.match(r"[\"'`<]|(?:export_?)?[A-Z][A-Z_]{3,}=", text) or text.endswith(
        ('"', "'", "`", ">")
    ):
        raise UsageProblem(
            "give the key or token alone, without a name, quotes or brackets around it; copy it again"
        )
    return Secret(text)


def gpu(text: str) -> str:
    kind, colon, number = text.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_ -]{0,39}", kind):
        raise UsageProblem(f"{quoted(text, 40)} is not a GPU type such as H100 or H100:8")
    if colon:
        count(number)
    return text


def notify(text: str) -> Secret:
    wrong = [
        u
        for u in re.split(r"[\s,]+(?=[a-z][a-z0-9+.-]*://)", text)
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S+", u)
    ]
    if wrong:
        raise UsageProblem(
            "give addresses such as ntfy://topic or slack://..., with blanks between them: "
            "https://appriseit.com/services/"
        )
    return Secret(text)


def count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 1024:
        raise UsageProblem(f"{quoted(text, 40)} is not a number from 1 to 1024")
    return int(text)


def phase(text: str) -> str:
    """Only the form: which names there are depends on the trainer."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}(\+[a-z][a-z0-9_]{0,39}){0,9}", text):
        phase_sequence(text)
    return text


def train_options(text: str) -> tuple[tuple[str, str], ...]:
    """Options of a foreign trainer: "init-lr-frac=0.1 sft.eval-every=50", quoted as in a shell. Name -> value, dashes as "_"."""
    try:
        words = shlex.split(text)
    except ValueError as e:
        raise UsageProblem(f"{quoted(text, 80)}: {e}") from None
    found = dict[str, str]()
    for word in words:
        name, sign, given = word.partition("=")
        name = name.removeprefix("train.").replace("-", "_")
        if not sign or not re.fullmatch(
            r"([a-z][a-z0-9_]{0,39}\.)?[A-Za-z][A-Za-z0-9_]{0,59}", name
        ):
            raise UsageProblem(f"{quoted(word, 60)} is not an option such as init-lr-frac=0.1")
        if name in found:
            raise UsageProblem(f"{name} is given twice")
        found[name] = given
    return tuple(found.items())


def is_url(text: str) -> bool:
    """Whether a `trainer` is an address, not a folder."""
    return "://" in text or re.match(r"[\w.-]+@[\w.-]+:", text) is not None


def minutes(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text):
        raise UsageProblem(f"{quoted(text, 40)} is not a number of minutes such as 10 or 0.5")
    return float(text)


def few(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,2}", text):
        raise UsageProblem(f"{quoted(text, 40)} is not a number from 0 to 99")
    return int(text)


def one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            near = difflib.get_close_matches(text.lower(), words, 1, 0.6)
            raise UsageProblem(
                f"{quoted(text, 40)} is not one of {', '.join(words)}"
                + (f". Did you mean {near[0]}?" if near else "")
            )
        return text.lower()

    return parse


def yes(text: str) -> bool:
    return one_of("yes", "no", "1", "0", "true", "false", "on", "off")(text) in (
        "yes",
        "1",
        "true",
        "on",
    )


def gate(text: str) -> str | None:
    """A condition; "none" removes that of .env, or of the run that is resumed."""
    if text.lower() == "none":
        return None
    parse_gate(text)
    return text


def duration(text: str) -> int:
    """Seconds of "90m", "2h", "1d" or a bare number of seconds."""
    m = re.fullmatch(r"([0-9]{1,7})([smhd]?)", text)
    seconds = int(m[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[m[2]] if m else 0
    if not 0 < seconds <= 30 * 86400:
        raise UsageProblem(f"{quoted(text, 40)} is not a duration such as 90m or 2h (at most 30d)")
    return seconds


def is_loopback(url: str) -> bool:
    """True for an address on this machine."""
    return urlsplit(url).hostname in LOOPBACK
