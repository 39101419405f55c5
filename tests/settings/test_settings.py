"""Settings: the table, the defaults, and what is refused."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest

from nanolan.errors import AuthProblem, NanolanError, UsageProblem
from nanolan.redact import Secret
from nanolan.settings.settings import TABLE, Settings, is_loopback
from nanolan.sim.marker import MARKER, TWIST
from tests.support.settings_fixtures import settings

NAMES = [
    "",
    "a b",
    "a;rm -rf /",
    "$(touch /tmp/x)",
    "`id`",
    "a'b",
    'a"b',
    "a\nb",
    "a\x00b",
    "a\x1b[31mb",
    "a\rb",
    "../x",
    "..",
    "/etc",
    "-rf",
    "--yes",
    ".hidden",
    "_x",
    "a" * 61,
    "a" * 300,
    "lаnbot",
    "ａ",
    "é",
    "a/b",
    "a\\b",
    "a:b",
    "a\u00a0b",
    "a\u200bb",
    "\ud800",
]


@pytest.mark.parametrize(
    "word, kept",
    [("off", False), ("no", False), ("OFF", False), ("0", False), ("yes", True), ("on", True)],
)
def test_the_instance_gets_a_key_unless_self_delete_is_off(word: str, kept: bool) -> None:
    assert settings().self_delete and settings(self_delete=word).self_delete is kept
    assert settings(environ={"SELF_DELETE": word}).self_delete is kept


def test_the_defaults_are_those_of_the_guide() -> None:
    s = settings()
    assert (s.phase, s.run_name, s.gpu, s.num_gpus, s.spend_limit) == (
        "sft",
        "lanbot-v3",
        "B200",
        8,
        15_000,
    )
    assert (s.model_tag, s.wandb_project, s.hf_repo, s.shadeform_api) == (
        "d20",
        "lanbot",
        None,
        "https://api.shadeform.ai/v1",
    )


def test_every_setting_has_a_flag_a_variable_and_a_help() -> None:
    assert set(TABLE) == {f.name for f in fields(Settings)} - {"sources", "fork"}
    assert len({m["env"] for m in TABLE.values()}) == len(TABLE)
    assert all(m["help"] and m["env"].isupper() for m in TABLE.values())
    assert {"TRAINING_PHASE", "RUN_NAME", "SPEND_LIMIT", "WANDB_PROJECT"} <= {
        m["env"] for m in TABLE.values()
    }


# ---- what is refused


@pytest.mark.parametrize("setting", ["run_name", "model_tag", "output_tag", "wandb_project"])
@pytest.mark.parametrize("name", NAMES, ids=lambda n: ascii(n)[:20])
def test_unsafe_names_are_refused(setting: str, name: str) -> None:
    with pytest.raises(UsageProblem) as e:
        settings(**{setting: name})
    assert len(str(e.value)) < 300


@pytest.mark.parametrize(
    "name", ["lanbot-v3", "lanbot-v3-experiment-1", "A", "0", "a.b_c-d", "a" * 60]
)
def test_ordinary_names_are_accepted(name: str) -> None:
    assert settings(run_name=name).run_name == name


@pytest.mark.parametrize(
    "repo",
    [
        "",
        "x",
        "/x",
        "x/",
        "a/b/c",
        "../x",
        "a/..",
        "a/b--c",
        "a/b..c",
        "-a/b",
        "a b/c",
        "a/$(id)",
        "a/b\nc",
        "https://huggingface.co/a/b",
        "a" * 97 + "/b",
        "é/b",
    ],
)
def test_invalid_hub_repos_are_refused(repo: str) -> None:
    with pytest.raises(UsageProblem):
        settings(hf_repo=repo)


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "1e9", "10,5", "abc", "999999999"])
def test_an_invalid_spend_limit_is_refused_with_the_variables_name(
    limit: str,
) -> None:
    with pytest.raises(UsageProblem, match="SPEND_LIMIT"):
        settings(environ={"SPEND_LIMIT": limit})


@pytest.mark.parametrize(
    "flags",
    [
        {"num_gpus": "0"},
        {"num_gpus": "-1"},
        {"num_gpus": "8.0"},
        {"num_gpus": "1025"},
        {"num_gpus": "٨"},
        {"batch": "0"},
        {"max_duration": "0"},
        {"max_duration": "-1h"},
        {"max_duration": "31d"},
        {"max_duration": "nan"},
        {"max_duration": "1w"},
        {"max_duration": "٣h"},
        {"gpu": "-"},
        {"gpu": "_"},
        {"gpu": "$(id)"},
        {"gpu": "H100:"},
        {"gpu": "H100:0"},
        {"gpu": "H100:8:8"},
        {"gpu": ":8"},
        {"gpu": "H" * 41},
        {"gpu": 'H"100'},
    ],
    ids=str,
)
def test_invalid_numbers_and_gpus_are_refused(flags: dict[str, str]) -> None:
    with pytest.raises(UsageProblem):
        settings(**flags)


@pytest.mark.parametrize(
    "text, seconds", [("90m", 5400), ("2h", 7200), ("1d", 86400), ("45", 45), ("45s", 45)]
)
def test_a_duration_is_seconds(text: str, seconds: int) -> None:
    assert settings(max_duration=text).max_duration == seconds


def test_agent_rl_has_its_own_error_and_other_unknown_phases_list_the_known_ones() -> None:
    with pytest.raises(UsageProblem, match="agent_rl.*needs a nanochat fork"):
        settings(phase="agent_rl")
    with pytest.raises(
        UsageProblem,
        match=r"TRAINING_PHASE \(environment\): unknown phase 'stf'; the phases are mid, sft, rl, mid\+sft, sft\+rl, all",
    ):
        settings(environ={"TRAINING_PHASE": "stf"})


# ---- addresses


@pytest.mark.parametrize(
    "address",
    [
        "https://api.shadeform.ai/v1",
        "https://example.org:8443/v1/",
        "http://127.0.0.1:8000/v1",
        "http://localhost:1/v1",
        "http://[::1]:9",
        "https://example.org",
    ],
)
def test_an_address_is_https_or_this_machine(address: str) -> None:
    assert settings(shadeform_api=address).shadeform_api == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    [
        "http://api.shadeform.ai/v1",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "api.shadeform.ai",
        "https://",
        "https:///v1",
        "http://",
        "http://127.0.0.1.evil.org/v1",
        "http://localhost.evil.org",
        "http://evil.org/127.0.0.1",
        "http://127.0.0.1@evil.org/",
        "http://evil.org\\@127.0.0.1/",
        "http://127.0.0.1\\@evil.org/",
        "http://evil.org#@127.0.0.1/",
        "http://evil.org?@127.0.0.1",
        "https://user:password@example.org/",
        "https://exa mple.org",
        "https://example.org:port",
        "https://[::1",
        "http://[::2]/",
        "http://10.0.0.1/v1",
        "http://0.0.0.0/v1",
        "javascript:alert(1)",
        "https://ехample.org",
    ],
)
@pytest.mark.parametrize("setting", ["shadeform_api", "hf_endpoint"])
def test_addresses_that_would_expose_the_key_are_refused(setting: str, address: str) -> None:
    with pytest.raises(UsageProblem, match="must be https"):
        settings(**{setting: address})


@pytest.mark.parametrize(
    "address, loopback",
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://LOCALHOST/", True),
        ("https://example.org", False),
        ("http://127.0.0.1.evil.org", False),
        ("http://evil.org/127.0.0.1", False),
    ],
)
def test_loopback_is_decided_by_the_host_alone(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


# ---- keys


@pytest.mark.parametrize(
    "bad", ["kеy-with-cyrillic-e", "two-keys in-one", "zkey\nz2", "zkey\x00z2", "zkey\x1b[0m"]
)
def test_an_invalid_key_is_refused_without_being_shown(bad: str) -> None:
    with pytest.raises(UsageProblem, match="SHADEFORM_API_KEY") as e:
        settings(environ={"SHADEFORM_API_KEY": bad})
    assert bad not in str(e.value) and bad.split()[0] not in str(e.value)


def test_a_key_with_white_space_around_it_is_trimmed() -> None:  # else: 401 without explanation
    assert settings(shadeform_api_key=" key-0123 \r\n").shadeform_api_key == Secret("key-0123")


def test_no_key_or_token_is_visible_in_the_settings() -> None:
    canary = f"{MARKER}{TWIST}"
    s = settings(shadeform_api_key=canary, hf_token=canary, wandb_api_key=canary)
    assert (
        canary not in repr(s) and canary not in str(s) and s.mask().hide(f"x {canary}") == "x ***"
    )


@pytest.mark.parametrize(
    "name, kind, url",
    [
        ("shadeform_api_key", AuthProblem, "https://platform.shadeform.ai/settings/api"),
        ("hf_token", AuthProblem, "https://huggingface.co/settings/tokens"),
        ("hf_repo", UsageProblem, "just upload base creates it"),
    ],
)
def test_a_missing_setting_error_says_how_to_set_it_and_where_to_get_it(
    name: str, kind: type[NanolanError], url: str
) -> None:
    with pytest.raises(kind) as e:
        settings().need(name)
    said = str(e.value)
    assert all(part in said for part in (".env", "just doctor", "Get it: ", url))
    assert said.count(TABLE[name]["env"]) == 1 and "(" not in said and "\n" not in said
    settings(shadeform_api_key="k12345", hf_token="t12345", hf_repo="me/x").need(
        "shadeform_api_key", "hf_token", "hf_repo"
    )


def test_all_missing_settings_are_named_at_once() -> None:
    with pytest.raises(AuthProblem) as e:
        settings().need("shadeform_api_key", "hf_token", "hf_repo")
    first, *rest = str(e.value).split("\n")
    assert first.startswith("3 settings are missing") and ".env.example" in first
    assert [line.split()[0] for line in rest] == ["SHADEFORM_API_KEY", "HF_TOKEN", "HF_REPO"]
    assert all("is not set. Get it: " in line for line in rest)


def test_every_setting_that_a_command_needs_says_where_to_get_it() -> None:
    for name in ("shadeform_api_key", "hf_token", "hf_repo", "notify_url"):
        assert TABLE[name]["where"]


@pytest.mark.parametrize("name", TABLE)
def test_a_missing_setting_is_named_without_an_empty_tail(name: str) -> None:
    with pytest.raises((AuthProblem, UsageProblem)) as told:
        replace(settings(), **{name: None}).need(name)
    assert not re.search(r"Get it: *(\.|$)", str(told.value), re.M)
