"""Create and update requests: which are accepted, and which are a 400."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import jsonschema
import pytest

from nanolan.sim.shadeform.checks import validate_create, validate_update
from nanolan.sim.shadeform.refusal import Refusal
from tests.sim.openapi import check_schema, needs_openapi

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
        GOOD | script("Og==") | {"envs": [{"name": "A"}]},
        GOOD
        | {
            "launch_configuration": {
                "type": "script",
                "script_configuration": {"base64_script": "Og=="},
                "docker_configuration": {"image": "x"},
            }
        },
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


FULL: dict[str, Any] = GOOD | {
    "shade_cloud": True,
    "rental_type": "spot",
    "os": "ubuntu22.04",
    "template_id": "",
    "launch_configuration": {
        "type": "docker",
        "docker_configuration": {
            "image": "x",
            "args": "--a",
            "shared_memory_in_gb": 8,
            "envs": [{"name": "A", "value": "b"}],
            "port_mappings": [{"host_port": 80, "container_port": 8080}],
            "volume_mounts": [{"host_path": "/a", "container_path": "/b"}],
            "registry_credentials": {"username": "u", "password": "p"},
        },
    },
    "volume_ids": [],
    "ssh_key_id": "k",
    "auto_delete": {"date_threshold": "2026-07-18T12:00:00Z", "spend_threshold": "3.14"},
    "alert": {"spend_threshold": "3.14"},
    "volume_mount": {"auto": True},
    "tags": ["t"],
    "envs": [{"name": "A", "value": "b"}],
}
WRONG: list[Any] = [None, True, 7, 1.5, "x", [], {}, [7], [None], {"a": 1}]


def paths(value: Any) -> list[tuple[Any, ...]]:
    """The path of each value inside, at any depth."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    rows = [(key, child) for key, child in inside]
    deeper = [(key, *p) for key, c in rows if isinstance(c, dict | list) for p in paths(c)]
    return [(key,) for key, _ in rows] + deeper


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at this path."""
    copy = deepcopy(value)
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return copy


@needs_openapi
@pytest.mark.parametrize("path", paths(FULL), ids=lambda p: ".".join(map(str, p)))
def test_a_create_that_the_schema_refuses_is_a_400(path: tuple[Any, ...]) -> None:
    check_schema("CreateRequest", FULL)
    assert validate_create(FULL) == FULL
    refused = 0
    for wrong in WRONG:
        body = replaced(FULL, path, wrong)
        try:
            check_schema("CreateRequest", body)
        except jsonschema.ValidationError:
            refused += 1
            with pytest.raises(Refusal):
                validate_create(body)
    assert refused
