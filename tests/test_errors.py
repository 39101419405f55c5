"""The error tree: one exit code each, as the table at its top says."""

from __future__ import annotations

import re
import traceback

import pytest

from nanolan import errors
from nanolan.errors import without_keys
from nanolan.redact import Secret
from nanolan.sim.marker import MARKER

ROWS = dict(re.findall(r"^ +([A-Z]\w+) +(\d)\b", errors.__doc__ or "", re.M))


def test_every_error_is_in_the_table() -> None:
    assert set(ROWS) == {
        n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, Exception)
    }


@pytest.mark.parametrize("name", ROWS)
def test_the_exit_code_is_the_one_in_the_table(name: str) -> None:
    assert getattr(errors, name).exit_code == int(ROWS[name])


def test_the_tree_is_drawn_as_it_is() -> None:
    above: list[tuple[int, type]] = []
    for indent, name in re.findall(r"^( +)([A-Z]\w+) +\d", errors.__doc__ or "", re.M):
        kind = getattr(errors, name)
        above = [(n, k) for n, k in above if n < len(indent)]
        assert kind.__base__ is (above[-1][1] if above else Exception), name
        above.append((len(indent), kind))


def test_may_be_billing_is_not_an_api_problem_that_is_retried() -> None:
    assert not issubclass(errors.MayBeBilling, errors.ApiProblem)
    assert issubclass(errors.UnclearAnswer, errors.ApiProblem)


def test_no_error_text_contains_a_secret() -> None:
    key = Secret(f"key-{MARKER}")
    error = errors.ApiProblem(f"refused {key.reveal()}")
    assert str(error) == f"{error}" == "refused ***" and MARKER not in "".join(
        traceback.format_exception(error)
    )


@pytest.mark.parametrize("text", ["a:" * 10_000, "://" + "a" * 20_000, "@:" * 10_000, "a" * 20_000])
def test_a_long_text_of_the_user_is_masked_in_linear_time(text: str) -> None:
    assert len(without_keys(text)) <= len(text)  # a pattern in cubic time took hours


def test_a_login_is_masked_and_words_beside_an_address_stay() -> None:
    said = without_keys("https://me:S3cret@hub.example.org/x and ask me:pw@host, or mail me@x.org")
    assert "S3cret" not in said and ":pw" not in said and said.endswith("or mail me@x.org")
