"""A key in the line of another setting: no error quotes it, whatever setting, option or word it stands in."""

from __future__ import annotations

import re

import pytest

from nanolan.errors import UsageProblem, quoted, without_keys
from nanolan.phases import parse_gate
from nanolan.settings.load import usable_settings
from nanolan.settings.settings import TABLE
from tests.code.test_secret_scan import SHAPES as SCANNED

SECRET = "S3CRET" + "q7Xw2VbN8kTz4RjM"
HUB = "hf_" + SECRET + "abcdefghijkl"
WRONG = {  # what may stand in the wrong line
    "a Hub token": HUB,
    "a Shadeform key": SECRET,
    "in a query": f"https://h.example/?token={SECRET}",
    "a password in an address": f"https://me:{SECRET}@h.example:x",
    "a login without a scheme": f"me:{SECRET}@h.example",
    "among other words": f"x {HUB} y",
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("name", [n for n in TABLE if not TABLE[n]["secret"]])
def test_no_setting_quotes_a_key(name: str, what: str) -> None:
    environ = {TABLE[name]["env"]: WRONG[what]}
    _, wrong = usable_settings({}, environ, None, lambda: None)
    assert not re.search("S3CRET", "".join(wrong))
    try:
        usable_settings({name: WRONG[what]}, {}, None, lambda: None)
    except UsageProblem as e:
        assert "S3CRET" not in str(e)


@pytest.mark.parametrize("name", [n for n in TABLE if not TABLE[n]["secret"]])
def test_a_token_of_a_known_service_is_no_value_of_another_setting(name: str) -> None:
    _, wrong = usable_settings({}, {TABLE[name]["env"]: HUB}, None, lambda: None)
    assert wrong == (
        f"{TABLE[name]['env']} (environment): this is a key or token; it belongs into the setting "
        "for that key",
    )


@pytest.mark.parametrize(
    "name, key",
    [
        ("SHADEFORM_API", "SHADEFORM_API_KEY"),
        ("HF_ENDPOINT", "HF_TOKEN"),
        ("WANDB_BASE_URL", "WANDB_API_KEY"),
    ],
)
def test_an_address_that_is_none_is_not_quoted_and_the_key_is_named(name: str, key: str) -> None:
    _, wrong = usable_settings({}, {name: "short-key"}, None, lambda: None)
    assert len(wrong) == 1 and f"the key is {key}" in wrong[0] and "short-key" not in wrong[0]


ONE_LINE = [k for k in SCANNED.values() if not re.search(r"\s|[=:]", k)]


@pytest.mark.parametrize("key", ONE_LINE, ids=range(len(ONE_LINE)))
def test_every_key_that_the_scanner_knows_alone_is_masked_in_quotes(key: str) -> None:
    assert quoted(key, 500).count("***") == 1 and key[8:24] not in quoted(key, 500)


@pytest.mark.parametrize(
    "text",
    [
        "H200x8",
        "lanbot-v3-of-2026-with-a-long-name",
        "8x_b200_pcie_192gb",
        "you/nanochat-d20:base_checkpoints/d20",
        "https://hub.example.org/a/b",
        "git@github.com:me/nanochat",
        "5f0e8a4e-43d4-4b6d-a7ab-2b9cbd8d3a11",
        "hf_endpoint",
        "hf-token",
        "sk-learn-experiment",
        "val_bpb<0.5",
        "canada-1",
    ],
)
def test_ordinary_values_are_quoted_as_they_are(text: str) -> None:
    assert quoted(text) == repr(text)


def test_a_quoted_value_is_cut_after_it_is_masked() -> None:
    assert quoted("name " + HUB, 10) == "'name ***'"
    assert without_keys(f"a {HUB}, b") == "a ***, b"


def test_a_gate_with_a_key_shows_none() -> None:
    with pytest.raises(UsageProblem) as e:
        parse_gate(HUB)
    assert "S3CRET" not in str(e.value)
