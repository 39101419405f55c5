"""The questions of `just init`: each answer is parsed and tried before the next question."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from nanolan.errors import AuthProblem, NanolanError, NotFound, UsageProblem
from nanolan.hub.client import Hub
from nanolan.redact import Secret
from nanolan.settings.settings import TABLE, Settings
from nanolan.shadeform.client import Shadeform

Ask = Callable[[str, bool], str]  # the question, whether the answer is hidden
Say = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """One setting: what is asked, and `try_it(answer, answers so far)`, which says what was found."""

    name: str
    text: str
    try_it: Callable[[str, Mapping[str, str]], str]

    @property
    def variable(self) -> str:
        return str(TABLE[self.name]["env"])


def questions(now: Settings, patience_s: float) -> tuple[Question, ...]:
    """What a first launch needs, in the order in which the answers need each other."""
    return (
        Question(
            "shadeform_api_key", "Shadeform key", partial(_try_key, now.shadeform_api, patience_s)
        ),
        Question("hf_token", "Hub token", partial(_try_token, now.hf_endpoint, patience_s)),
        Question(
            "hf_repo", "repo of your checkpoints, owner/name", partial(_try_repo, now, patience_s)
        ),
    )


def ask_all(now: Settings, ask: Ask, say: Say, patience_s: float) -> dict[str, str]:
    """Variable -> answer, of each question that was answered; an empty answer keeps what is set.

    A refused answer is asked again. One that could not be tried, because a service does not answer, is kept.
    """
    answers: dict[str, str] = {}
    for question in questions(now, patience_s):
        say(f"\n{TABLE[question.name]['where']}")
        answer = _answer(question, now, answers, ask, say)
        if answer:
            answers[question.variable] = answer
    return answers


def _answer(
    question: Question, now: Settings, answers: Mapping[str, str], ask: Ask, say: Say
) -> str:
    secret, current = TABLE[question.name]["secret"], getattr(now, question.name)
    typed = now.sources.get(question.name) == "flag"
    if typed and _accepted(question, current, answers, say):
        return str(current)
    kept = "as it is set" if secret else str(current)
    prompt = f"{question.text}{f' [{kept}]' if current else ''}"
    while True:
        answer = ask(prompt, secret).strip()
        if not answer and current:
            return ""
        if answer and _accepted(question, answer, answers, say):
            return answer


def _accepted(question: Question, answer: str, answers: Mapping[str, str], say: Say) -> bool:
    try:
        TABLE[question.name]["parse"](answer)
        say(f"  {question.try_it(answer, answers)}")
    except (UsageProblem, AuthProblem) as e:
        say(f"  not accepted: {e}")
        return False
    except NanolanError as e:
        say(f"  kept, but it could not be tried: {e}")
    return True


def _try_key(address: str, patience_s: float, key: str, answers: Mapping[str, str]) -> str:
    api = Shadeform(Secret(key), address, call_s=patience_s)
    billing = sum(instance.billing for instance in api.instances())
    return f"works; {billing} instances bill on the account"


def _try_token(endpoint: str, patience_s: float, token: str, answers: Mapping[str, str]) -> str:
    who = Hub(endpoint, Secret(token), patience_s=patience_s).whoami()
    return f"works, as {who.get('name', 'an unknown account')}"


def _try_repo(now: Settings, patience_s: float, repo: str, answers: Mapping[str, str]) -> str:
    token = Secret(answers["HF_TOKEN"]) if "HF_TOKEN" in answers else now.hf_token
    try:
        tree = Hub(now.hf_endpoint, token, patience_s=patience_s).tree(repo)
    except NotFound:
        return "not there yet: just upload base creates it, private"
    return f"{tree.repo}, {'private' if tree.private else 'PUBLIC'}, {len(tree.files)} files"
