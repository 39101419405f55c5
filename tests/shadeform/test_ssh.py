"""The argument list of ssh: no shell, no value of the API becomes an option, a reused address raises no alarm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import BadAnswer
from nanolan.shadeform.models import Instance, instance_of
from nanolan.shadeform.ssh import ssh_argv

FOLDER = Path("/home/me/my keys/100%/.ssh_keys")


def machine(**fields: Any) -> Instance:
    return instance_of(
        dict(
            **(
                {
                    "id": "i-1",
                    "name": "x",
                    "status": "active",
                    "ip": "203.0.113.10",
                    "ssh_user": "shadeform",
                    "ssh_port": 22,
                }
                | fields
            )
        )
    )


def options(argv: list[str]) -> dict[str, str]:
    return dict(argv[i + 1].split("=", 1) for i, word in enumerate(argv) if word == "-o")


def test_it_uses_nanolans_known_hosts_the_instances_alias_and_only_the_given_key() -> None:
    argv = ssh_argv(machine(ssh_port=2222), FOLDER / "a.pem", FOLDER, ("nvidia-smi", "-L"))
    assert argv[0] == "ssh" and argv[1:3] == ["-i", str(FOLDER / "a.pem")]
    assert argv[-8:] == ["-p", "2222", "-l", "shadeform", "--", "203.0.113.10", "nvidia-smi", "-L"]
    set_to = options(argv)
    assert (
        set_to["StrictHostKeyChecking"] == "accept-new" and set_to["HostKeyAlias"] == "nanolan-i-1"
    )
    assert set_to["UserKnownHostsFile"] == '"/home/me/my keys/100%%/.ssh_keys/known_hosts"'
    assert set_to["IdentitiesOnly"] == "yes" and "BatchMode" not in set_to


def test_without_a_key_file_ssh_uses_the_agent_and_batch_mode_never_prompts() -> None:
    argv = ssh_argv(machine(), None, FOLDER, batch=True, connect_s=5)
    assert "-i" not in argv and "IdentitiesOnly" not in options(argv)
    assert options(argv)["BatchMode"] == "yes" and options(argv)["ConnectTimeout"] == "5"


@pytest.mark.parametrize(
    "fields",
    [
        {"ip": "-oProxyCommand=evil"},
        {"ip": "a b"},
        {"ip": "host;evil"},
        {"ip": "$(evil)"},
        {"ip": None},
        {"ip": ""},
        {"ip": "a\nb"},
        {"ip": "h" * 300},
        {"ssh_user": "-oProxyCommand=x"},
        {"ssh_user": "a b"},
        {"ssh_user": "a@b"},
        {"ssh_user": "$(x)"},
    ],
    ids=str,
)
def test_an_address_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadAnswer, match="no usable address"):
        ssh_argv(machine(**fields), None, FOLDER)


@pytest.mark.parametrize("ip", ["203.0.113.10", "gpu-1.example.com", "2001:db8::1"])
def test_addresses_and_names_pass(ip: str) -> None:
    assert ssh_argv(machine(ip=ip), None, FOLDER)[-1] == ip
