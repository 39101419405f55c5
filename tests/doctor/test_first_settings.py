"""`just init`: each answer is tried before the next question, and nothing is asked for twice that works."""

from __future__ import annotations

import pytest

from nanolan.doctor.first_settings import ask_all
from nanolan.settings.load import load_settings
from nanolan.sim.hub.state import READER, WRITER
from nanolan.sim.world import REPO, World
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures

NOWHERE = "http://127.0.0.1:9/v1"  # nothing listens on the discard port


class Typist:
    """Answers in turn; remembers what it was asked and told."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked, self.told = list(answers), [(("", False))], ""

    def ask(self, text: str, hidden: bool) -> str:
        self.asked.append((text, hidden))
        return self.answers.pop(0)

    def say(self, text: str) -> None:
        self.told += text + "\n"


def answered(world: World, *answers: str, **env: str) -> tuple[dict[str, str], Typist]:  # noqa: F811
    own = {k: v for k, v in world.env().items() if k in ("SHADEFORM_API", "HF_ENDPOINT")}
    typist = Typist(*answers)
    found = ask_all(load_settings({}, own | env), typist.ask, typist.say, 3.0)
    assert not typist.answers, "an answer was not asked for"
    return found, typist


def test_every_answer_is_tried_and_returned(world: World) -> None:  # noqa: F811
    found, typist = answered(world, world.cloud.key, WRITER, REPO)
    assert found == {"SHADEFORM_API_KEY": world.cloud.key, "HF_TOKEN": WRITER, "HF_REPO": REPO}
    assert "0 instances bill" in typist.told and f"{REPO}, private" in typist.told
    assert [hidden for _, hidden in typist.asked[1:]] == [True, True, False]
    assert world.cloud.key not in typist.told and WRITER not in typist.told


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("", ""),
        ("  ", ""),
        ("sk-of-somebody-else", "not accepted"),
        ("two words", "no spaces"),
        ("SHADEFORM_API_KEY=abc", "without a name"),
        ("'quoted'", "quotes"),
        ("kéy", "ASCII"),
    ],
)
def test_a_refused_key_is_asked_for_again(world: World, wrong: str, reason: str) -> None:  # noqa: F811
    found, typist = answered(world, wrong, world.cloud.key, WRITER, REPO)
    assert found["SHADEFORM_API_KEY"] == world.cloud.key and reason in typist.told


@pytest.mark.parametrize(
    "wrong", ["lanbot", "a/b/c", "https://huggingface.co/me/lanbot", "me/ lan"]
)
def test_a_name_that_is_no_repo_is_asked_for_again(world: World, wrong: str) -> None:  # noqa: F811
    found, typist = answered(world, world.cloud.key, WRITER, wrong, REPO)
    assert found["HF_REPO"] == REPO and "not accepted" in typist.told


def test_a_repo_that_is_not_there_yet_is_accepted(world: World) -> None:  # noqa: F811
    found, typist = answered(world, world.cloud.key, WRITER, "me/new")
    assert found["HF_REPO"] == "me/new" and "just upload base creates it" in typist.told


def test_an_empty_answer_keeps_what_is_set(world: World) -> None:  # noqa: F811
    found, typist = answered(
        world, "", "", "", SHADEFORM_API_KEY=world.cloud.key, HF_TOKEN=READER, HF_REPO=REPO
    )
    assert found == {} and f"[{REPO}]" in typist.asked[-1][0]
    assert world.cloud.key not in "".join(text for text, _ in typist.asked)


def test_a_repo_that_was_typed_is_tried_and_not_asked_for(world: World) -> None:  # noqa: F811
    own = {k: v for k, v in world.env().items() if k in ("SHADEFORM_API", "HF_ENDPOINT")}
    typist = Typist(world.cloud.key, WRITER)
    found = ask_all(load_settings({"hf_repo": REPO}, own), typist.ask, typist.say, 3.0)
    assert found["HF_REPO"] == REPO and f"{REPO}, private" in typist.told and not typist.answers


def test_a_key_that_cannot_be_tried_is_kept_and_said(world: World) -> None:  # noqa: F811
    found, typist = answered(world, "key", WRITER, REPO, SHADEFORM_API=NOWHERE)
    assert found["SHADEFORM_API_KEY"] == "key" and "could not be tried" in typist.told
