"""The plan reaches the box unchanged, or the box refuses it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolan.cost.budget import keyless_life_s, life_s, soft_life_s, worst_case_cents
from nanolan.errors import BadAnswer
from nanolan.plan import Limits, Plan, new_run_id, read_plan
from nanolan.times import iso, parse_time
from tests.support.core_fixtures import PLAN, a_plan

ANY = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@given(
    name=ANY,
    tag=ANY,
    repo=ANY,
    path=ANY,
    batch=st.none() | st.integers(1, 1024),
    recipe=st.dictionaries(ANY, st.integers(0, 2**40)),
)
def test_any_text_in_a_plan_reads_back_the_same(
    name: str, tag: str, repo: str, path: str, batch: int | None, recipe: dict[str, int]
) -> None:
    first = PLAN.inputs[0]
    pinned = msgspec.structs.replace(
        first, files=(msgspec.structs.replace(first.files[0], path=path),)
    )
    plan = a_plan(
        run_name=name,
        model_tag=tag,
        output_tag=tag,
        hf_repo=repo,
        inputs=(pinned,),
        batch=batch,
        recipe=recipe,
    )
    assert read_plan(plan.to_json()) == plan


def test_a_field_from_a_newer_version_is_refused_by_name() -> None:
    with pytest.raises(BadAnswer, match="new_thing"):
        read_plan(json.dumps(json.loads(PLAN.to_json()) | {"new_thing": 1}))
    with pytest.raises(BadAnswer, match="version 2"):
        read_plan(json.dumps(json.loads(PLAN.to_json()) | {"version": 2}))


@pytest.mark.parametrize("field", [f.name for f in msgspec.structs.fields(Plan) if f.required])
def test_a_plan_without_a_field_it_needs_is_refused_by_name(field: str) -> None:
    raw = json.loads(PLAN.to_json())
    del raw[field]
    with pytest.raises(BadAnswer, match=field):
        read_plan(json.dumps(raw))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"<html>",
        b"{}",
        b"\xff\xfe",
        b'{"version": null}',
        b'{"version": "1"}',
    ],
)
def test_an_invalid_plan_is_refused(data: bytes) -> None:
    with pytest.raises(BadAnswer, match="plan.json"):
        read_plan(data)


@pytest.mark.parametrize(
    "change",
    [
        {"limit_cents": "15000"},
        {"limit_cents": 1.5},
        {"phases": "sft"},
        {"processes": None},
        {"offer": None},
    ],
    ids=str,
)
def test_a_field_of_another_type_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadAnswer, match=next(iter(change))):
        read_plan(json.dumps(json.loads(PLAN.to_json()) | change))


def test_the_instance_name_has_phase_time_and_run_id() -> None:
    assert PLAN.instance_name == "lanbot-sft-20261123-1200-ab12cd34"
    assert a_plan(phases=("mid", "sft")).instance_name == "lanbot-mid-sft-20261123-1200-ab12cd34"
    assert a_plan(attempt=2).instance_name == "lanbot-sft-20261123-1200-a2-ab12cd34"
    assert PLAN.folder == "runs/ab12cd34"


def test_run_ids_are_eight_hex_digits_and_never_a_number() -> None:
    ids = {new_run_id() for _ in range(300)}
    assert len(ids) == 300 and all(len(i) == 8 and int(i, 16) >= 0 and not i.isdigit() for i in ids)


# ---- how long the provider lets it live


@pytest.mark.parametrize(
    "limit, rate, hours, asked, seconds",
    [
        (15_000, 3360, 1.0, None, 4 * 3600),  # 3 x the estimate + 1 h
        (15_000, 3360, 10.0, None, 15_000 * 3600 // 3360),  # the money ends first
        (15_000, 3360, None, None, 15_000 * 3600 // 3360),  # no estimate
        (15_000, 3360, 1.0, 600, 600),  # --max-duration
        (100, 3360, 1.0, 86400, 100 * 3600 // 3360),
    ],
)  # --max-duration cannot outlast the money
def test_the_deadline_is_what_ends_first(
    limit: int, rate: int, hours: float | None, asked: int | None, seconds: int
) -> None:
    assert life_s(limit, rate, hours, asked) == seconds


@given(
    limit=st.integers(1, 10**6),
    rate=st.integers(1, 10**5),
    hours=st.none() | st.floats(0.01, 100),
    asked=st.none() | st.integers(1, 10**6),
)
def test_the_worst_case_is_never_above_the_limit(
    limit: int, rate: int, hours: float | None, asked: int | None
) -> None:
    seconds = life_s(limit, rate, hours, asked)
    assert 0 <= worst_case_cents(limit, rate, seconds) <= limit
    assert rate * seconds / 3600 <= limit


@pytest.mark.parametrize(
    "limit, rate, hours, asked, seconds",
    [
        (
            15_000,
            3360,
            1.0,
            None,
            3600 + 2 * 840 + 900,
        ),  # just past the estimate: saving twice, and a quarter of an hour
        (15_000, 3360, 10.0, None, 15_000 * 3600 // 3360),  # the money ends first
        (15_000, 3360, None, None, 15_000 * 3600 // 3360),  # no estimate
        (15_000, 3360, 1.0, 7200, 7200),
        (15_000, 3360, 1.0, 600, 600),
    ],
)  # --max-duration wins, either way
def test_without_a_key_the_deadline_is_just_past_the_estimate(
    limit: int, rate: int, hours: float | None, asked: int | None, seconds: int
) -> None:
    assert keyless_life_s(limit, rate, hours, asked) == seconds


@given(limit=st.integers(1, 10**6), rate=st.integers(1, 10**5), hours=st.floats(0.01, 100))
def test_that_deadline_is_not_later_than_others_and_not_before_the_high_estimate(
    limit: int, rate: int, hours: float
) -> None:
    seconds, others = keyless_life_s(limit, rate, hours, None), life_s(limit, rate, hours, None)
    assert seconds <= others and (seconds == others or soft_life_s(seconds) >= hours * 3600)


# ---- times


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-28T20:53:39.459529Z",
        "2026-01-28T20:53:39.459529+00:00",
        "2026-01-28T13:53:39.459529-07:00",
        "2026-01-28T20:53:39.459529",
    ],
)
def test_times_are_read_in_every_form_in_use(text: str) -> None:
    assert parse_time(text) == datetime(2026, 1, 28, 20, 53, 39, 459529, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "fraction, microseconds",
    [("", 0), (".5", 500_000), (".1234", 123_400), (".123456789", 123_456), (".", 0)],
)
def test_any_fraction_of_a_second_is_read(fraction: str, microseconds: int) -> None:
    assert parse_time(f"2026-01-28T20:53:39{fraction}Z").microsecond == microseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2026-13-01T00:00:00Z",
        "1764000000",
        None,
        5,
        "2026-01-28T25:00:00Z",
        "0001-01-01T00:00:00+99:00",
    ],
)
def test_an_invalid_time_is_a_bad_answer(text: str) -> None:
    with pytest.raises(BadAnswer, match="is not a time"):
        parse_time(text)


@given(
    st.datetimes(
        datetime(2000, 1, 1),
        datetime(2100, 1, 1),
        timezones=st.sampled_from([timezone.utc, timezone(timedelta(hours=-7))]),
    )
)
def test_a_time_is_written_in_utc_and_reads_back(moment: datetime) -> None:
    assert iso(moment).endswith("Z") and parse_time(iso(moment)) == moment.replace(microsecond=0)


@pytest.mark.parametrize("limits", [None, Limits(), Limits(max_price=3000, cloud="lambda")])
def test_a_plan_without_limits_is_written_as_older_code_reads_it(limits: Limits | None) -> None:
    plan = a_plan(limits=limits)
    assert (b'"limits"' in plan.to_json()) is (limits is not None)
    assert read_plan(plan.to_json()) == plan
