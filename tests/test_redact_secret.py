"""Secrets print as ***, and the mask finds every form of them."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolan.redact import STARS, Mask, Secret, short
from tests.support.core_fixtures import forms_of

KEY = 'hf_CANARY+/="quoted"0123456789'
ASCII = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60)


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        "{}".format,
        "{!r}".format,
        "%s".__mod__,
        "%r".__mod__,
        lambda s: f"{s}",
        lambda s: str([s]),
        lambda s: str({"key": s}),
        lambda s: repr(ValueError(s)),
        lambda s: str(vars(type("X", (), {"k": s}))["k"]),
    ],
)
def test_a_secret_prints_as_stars_however_it_is_shown(show) -> None:
    shown = show(Secret(KEY))
    assert STARS in shown and KEY[:6] not in shown


def test_a_secret_does_not_serialize() -> None:
    with pytest.raises(TypeError):
        json.dumps(Secret(KEY))


def test_reveal_equality_and_truth_are_those_of_the_value() -> None:
    assert (
        Secret(KEY).reveal() == KEY
        and Secret(KEY) == Secret(KEY) != Secret("other")
        and len({Secret(KEY), Secret(KEY)}) == 1
    )
    assert Secret(KEY) != KEY and not Secret("")


@given(key=ASCII, before=st.binary(max_size=7), after=st.binary(max_size=7))
def test_the_mask_hides_a_secret_in_every_form_and_at_every_alignment(
    key: str, before: bytes, after: bytes
) -> None:
    mask = Mask([Secret(key)])
    encoded = base64.b64encode(before + key.encode() + after).decode()
    text = mask.hide(f"raw {key} url {quote(key, safe='')} json {json.dumps(key)} b64 {encoded}.")
    assert text.count(STARS) >= 4
    assert key not in text and quote(key, safe="") not in text and json.dumps(key)[1:-1] not in text
    assert not any(form in text for form in forms_of(key) if len(form) > 8)


@given(key=ASCII, text=st.text("0123456789 \n.", max_size=80))
def test_the_mask_leaves_other_text_as_it_is(key: str, text: str) -> None:
    if key not in text:
        assert Mask([Secret(key)]).hide(text) == text
    assert Mask([]).hide(key) == key


def test_a_secret_inside_another_leaves_no_rest() -> None:
    assert (
        Mask([Secret("abcdef"), Secret("abcdefghi")]).hide("abcdefghi abcdef") == f"{STARS} {STARS}"
    )


def test_short_and_missing_values_blank_no_ordinary_words() -> None:
    assert (
        Mask([None, Secret(""), Secret("a"), Secret("step")]).hide("a step at a time")
        == "a step at a time"
    )


@pytest.mark.parametrize(
    "value, part",
    [
        (
            "json://host.example.org/tok3n-of-the-hook-0123 ntfy://another-topic-0123",
            "tok3n-of-the-hook-0123",
        ),
        (
            "json://host.example.org/tok3n-of-the-hook-0123 ntfy://another-topic-0123",
            "ntfy://another-topic-0123",
        ),
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXkt0123\nAAAABG5vbmU0123\n-----END OPENSSH PRIVATE KEY-----\n",  # pragma: allowlist secret
            "AAAABG5vbmU0123",
        ),
    ],
    ids=["part of an address", "one of two addresses", "line of a key"],
)
def test_parts_of_a_secret_are_masked_too(value: str, part: str) -> None:
    mask = Mask([Secret(value)], pieces=True)
    assert (
        part not in mask.hide(f"x {part} y")
        and mask.hide("PRIVATE host://x BEGIN") == "PRIVATE host://x BEGIN"
        and mask.hits == 1
    )


def test_ordinary_words_of_an_address_stay_in_texts_for_programs() -> None:
    assert (
        Mask([Secret("ntfy://lanbot-checkpoints")]).hide('{"repo": "me/lanbot-checkpoints"}')
        == '{"repo": "me/lanbot-checkpoints"}'
    )


def test_quoted_texts_are_masked_before_they_are_cut() -> None:
    key = Secret("k" * 40)
    assert (
        short(f"{'x ' * 140} {key.reveal()}", 300).endswith("x ***")
        and short("a\n  b") == "a b"
        and len(short("y" * 10**6, 50)) == 50
    )
