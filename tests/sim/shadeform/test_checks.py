"""Create and update requests: which are accepted, and which are a 400."""

from __future__ import annotations

import pytest

from nanolan.sim.shadeform.checks import validate_create, validate_update
from nanolan.sim.shadeform.refusal import Refusal

GOOD = {"cloud": "c", "region": "r", "shade_instance_type": "t", "name": "n"}


def script(text):
    return {
        "launch_configuration": {"type": "script", "script_configuration": {"base64_script": text}}
    }


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"shade_cloud": True, "os": "ubuntu22.04", "tags": [], "envs": []},
        script("Og=="),
        script(""),
        {"auto_delete": {"date_threshold": "2026-07-18T12:00:00Z", "spend_threshold": "3.14"}},
        {"launch_configuration": {"type": "docker", "docker_configuration": {"image": "x"}}},
        {"rental_type": "spot"},
    ],
)
def test_valid_creates_are_accepted_unchanged(more):
    assert validate_create(GOOD | more) == GOOD | more


def test_unknown_fields_are_dropped():
    assert validate_create(GOOD | {"networking": {}}) == GOOD


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "x",
        {},
        GOOD | {"name": ""},
        GOOD | {"name": 7},
        {k: v for k, v in GOOD.items() if k != "cloud"},
        GOOD | {"tags": "a,b"},
        GOOD | {"tags": [1]},
        GOOD | {"tags": 7},
        GOOD | {"shade_cloud": "true"},
        GOOD | {"auto_delete": None},
        GOOD | {"auto_delete": {"spend_threshold": 3.14}},
        GOOD | {"auto_delete": {"spend_threshold": "lots"}},
        GOOD | {"auto_delete": {"spend_threshold": "nan"}},
        GOOD | {"auto_delete": {"date_threshold": "tomorrow"}},
        GOOD | {"auto_delete": {"date_threshold": 7}},
        GOOD | {"alert": {"date_threshold": "2026-07-18T12:00:00"}},
        GOOD | script("not base64!"),
        GOOD | {"launch_configuration": {"type": "vm"}},
        GOOD | {"launch_configuration": {}},
        GOOD | script(7),
        GOOD | {"launch_configuration": {"type": "script"}},
        GOOD | {"launch_configuration": {"type": "script", "script_configuration": None}},
        GOOD | {"rental_type": "spot", "shade_cloud": False},
        GOOD | {"template_id": "t"},
        GOOD | {"volume_ids": ["v"]},
    ],
)
def test_bad_creates_are_400(body):
    with pytest.raises(Refusal) as caught:
        validate_create(body)
    assert caught.value.status == 400


def test_an_update_accepts_null_for_removable_fields():
    changes = {"name": "m", "auto_delete": None, "alert": {"spend_threshold": "1"}, "tags": None}
    assert validate_update(changes | {"cloud": "other"}) == changes


@pytest.mark.parametrize(
    "body", [None, {"name": None}, {"tags": "a"}, {"auto_delete": {"spend_threshold": None}}]
)
def test_bad_updates_are_400(body):
    with pytest.raises(Refusal) as caught:
        validate_update(body)
    assert caught.value.status == 400
