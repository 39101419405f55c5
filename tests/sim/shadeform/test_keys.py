"""The account's SSH keys."""

from __future__ import annotations

import shutil

import pytest

from nanolan.sim.shadeform.keys import MANAGED, Keys, generate_key_pair
from nanolan.sim.shadeform.refusal import Refusal
from tests.sim.openapi import check_response

MINE = {"name": "mine", "public_key": "ssh-ed25519 AAAA me"}


def refused(call, *args):
    with pytest.raises(Refusal) as caught:
        call(*args)
    return caught.value.status


def test_the_managed_key_is_the_default_and_shows_its_private_half():
    keys = Keys()
    (key,) = keys.listed()["ssh_keys"]
    assert (key["name"], key["is_default"]) == (MANAGED, True)
    assert "PRIVATE KEY-----" in key["private_key"] and key["public_key"].startswith("ssh-ed25519 ")
    assert keys.info(key["id"]) == key
    check_response("GET", f"/sshkeys/{key['id']}/info", 200, key)
    check_response("GET", "/sshkeys", 200, keys.listed())


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen here")
def test_the_key_pair_is_real_and_new_each_time():
    one, other = generate_key_pair(), generate_key_pair()
    begin = "-----BEGIN OPENSSH PRIVATE KEY-----"  # pragma: allowlist secret
    assert one[0].startswith(begin) and one != other


def test_an_added_key_has_no_private_half():
    keys = Keys()
    added = keys.info(keys.add(MINE)["id"])
    assert added == {**MINE, "id": added["id"], "private_key": "", "is_default": False}


def test_names_are_unique():
    keys = Keys()
    keys.add(MINE)
    with pytest.raises(Refusal, match="name must be unique"):
        keys.add(MINE)
    assert len(keys.all) == 2


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"name": "x", "public_key": "nokey"},
        {"name": 1, "public_key": "a b"},
        None,
        [],
        "text",
    ],
)
def test_a_key_needs_a_name_and_a_public_half(body):
    assert refused(Keys().add, body) == 400


def test_the_managed_key_and_the_default_cannot_be_deleted():
    keys = Keys()
    managed, mine = keys.default.id, keys.add(MINE)["id"]
    keys.set_default(mine)
    assert keys.default.id == mine and [k.is_default for k in keys.all.values()] == [False, True]
    assert [refused(keys.delete, k, set()) for k in (managed, mine, "unknown")] == [409, 409, 404]
    keys.set_default(managed)
    keys.delete(mine, set())
    assert refused(keys.info, mine) == refused(keys.set_default, mine) == 404
