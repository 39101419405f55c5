"""A limit under another name is refused wherever it is set: ignored, it would be no limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.errors import UsageProblem
from nanolan.settings.load import load_settings
from tests.support.settings_fixtures import dotenv

MEANT = {
    "SPEND_LIMIT": (
        "spend_limit",
        "SPENDLIMIT",
        "SPEND_LIMT",
        "SPEND_LIMIT_USD",
        "SPEND_LIMIT_EUR",
        "SPEND_LIMIT_DOLLAR",
        "SPEND_LIMIT_PER_RUN",
        "TOTAL_SPEND_LIMIT",
        "DEFAULT_SPEND_LIMIT",
        "SPENDLIMIT_USD",
        "MAX_COST",
        "COST_LIMIT",
        "BUDGET_USD",
    ),
    "MAX_PRICE": (
        "max_price",
        "MAX_PRCE",
        "MAXPRICE",
        "MAX_PRICE_USD",
        "MAX_PRCE_USD",
        "MAX_PRICE_PER_HOUR",
        "MAX_HOURLY_PRICE",
        "NANOLAN_MAX_PRICE",
    ),
    "MAX_TOTAL": ("max_total", "MAX_TOTL", "MAX_TOTAL_USD", "NANOLAN_MAX_TOTAL"),
    "MAX_DURATION": ("Max_Duration", "MAX_DURATON", "MAX_DURATION_HOURS", "NANOLAN_MAX_DURATION"),
    "PROBATION_USD": ("probation_usd", "PROBATION_DOLLARS", "PROBATION_UDS"),
}
NAMES = [(name, meant) for meant, names in MEANT.items() for name in names]


@pytest.mark.parametrize(
    "name, meant, text",
    [
        (*row, text)
        for row in NAMES
        for text in ("{}=3", "export {}=3", "FOO=1;{}=3")
        if row[0].isupper() or "FOO" not in text  # in lower case it may be the text of a command
    ],
)
def test_a_misspelt_limit_in_the_file_is_refused(
    tmp_path: Path, name: str, meant: str, text: str
) -> None:
    file = dotenv(tmp_path, text.format(name) + "\n")
    with pytest.raises(UsageProblem, match=rf"line 1: .*({meant}|set inside)"):
        load_settings({}, {}, env_file=file)


@pytest.mark.parametrize("name, meant", NAMES)
def test_a_misspelt_limit_in_the_environment_is_refused_too(name: str, meant: str) -> None:
    with pytest.raises(
        UsageProblem,
        match=rf"^{name} \(environment\): not a setting; the setting is called {meant}",
    ):
        load_settings({}, {name: "40", "region": "x", "AWS_SPEND_LIMIT": "1"})


@pytest.mark.parametrize("limit", MEANT)
@pytest.mark.parametrize(
    "before", ["FOO=1 ", "FOO=1;", "FOO=1; ", "FOO=1,", "FOO=1&&", "FOO=1 && ", "FOO=1;export "]
)
def test_a_limit_behind_another_value_is_refused(tmp_path: Path, limit: str, before: str) -> None:
    with pytest.raises(UsageProblem, match=f"line 1: {limit} is set inside"):
        load_settings({}, {}, env_file=dotenv(tmp_path, f"{before}{limit}=40\n"))


@pytest.mark.parametrize(
    "text",
    [
        "GPU=H100 # SPEND_LIMIT=40 is enough",
        "GPU=H100 # mine; SPEND_LIMIT=40",
        "FOO=1 # MAX_PRICE_USD=3",
        "URL=http://127.0.0.1/?A=1&REGION=eu",
        "LIST=a,REGION=b;CLOUD=c",
        'CMD="run; SPEND_LIMIT=9"',
        "OPENAI_SPEND_LIMIT=1",
        "MAX_TOTAL_TOKENS=9",
        "MAX_LENGTH=9",
        "BUDGET=9",
        "TOTAL=9",
        "PRICE=9",
        "MAX_RUNS=9",
        "MAX_TIME=9",
        "MAX_WAIT_SECONDS=9",
        "MAX_PER_HOUR=9",
        "DURATION=9",
        "MAX_JOBS=9",
        "COST_CENTER=9",
    ],
)
def test_comments_and_variables_of_other_tools_are_no_limits(tmp_path: Path, text: str) -> None:
    assert load_settings({}, {}, env_file=dotenv(tmp_path, f"{text}\n")).spend_limit == 15_000
    name, _, value = text.partition("=")
    if name not in ("GPU",):
        assert load_settings({}, {name: value}).spend_limit == 15_000
