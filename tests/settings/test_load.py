"""Which source of settings wins, and .env as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.errors import UsageProblem
from nanolan.redact import Secret, hide
from nanolan.settings.load import load_settings
from nanolan.settings.settings import TABLE
from nanolan.sim.marker import MARKER
from tests.support.settings_fixtures import dotenv, settings


def test_flags_beat_the_environment_beats_env_file_beats_login_beats_defaults(
    tmp_path: Path,
) -> None:
    env_file = dotenv(tmp_path, "RUN_NAME=from-file\nHF_TOKEN=hf_fromfile\n")
    environ = {"RUN_NAME": "from-environment", "HF_TOKEN": "hf_fromenvironment"}
    flags = {"run_name": "from-flag", "hf_token": "hf_fromflag"}
    seen = [
        settings(env_file, environ, "hf_login", **flags),
        settings(env_file, environ, "hf_login"),
        settings(env_file, {}, "hf_login"),
        settings(None, {}, "hf_login"),
        settings(),
    ]
    assert [s.run_name for s in seen] == [
        "from-flag",
        "from-environment",
        "from-file",
        "lanbot-v3",
        "lanbot-v3",
    ]
    assert [s.hf_token and s.hf_token.reveal() for s in seen] == [
        "hf_fromflag",
        "hf_fromenvironment",
        "hf_fromfile",
        "hf_login",
        None,
    ]
    assert [s.sources["hf_token"] for s in seen] == [
        "flag",
        "environment",
        ".env",
        "hf auth login",
        "default",
    ]


def test_the_cached_login_gives_the_token_and_nothing_else() -> None:
    s = settings(cached="hf_login")
    assert (
        s.hf_token == Secret("hf_login") and s.shadeform_api_key is None and s.wandb_api_key is None
    )


def test_the_cached_login_is_not_read_when_a_token_is_given() -> None:
    def never() -> str:
        raise AssertionError("read")

    assert load_settings({}, {"HF_TOKEN": "hf_given"}, cached_token=never).hf_token == Secret(
        "hf_given"
    )


@pytest.mark.parametrize("empty", ["", " ", "\t"])
def test_an_empty_variable_is_unset_but_an_empty_flag_is_an_error(
    tmp_path: Path, empty: str
) -> None:
    assert (
        settings(dotenv(tmp_path, f"RUN_NAME='{empty}'"), {"RUN_NAME": empty}).run_name
        == "lanbot-v3"
    )
    with pytest.raises(UsageProblem, match="^run-name is empty"):
        settings(run_name=empty)


@pytest.mark.parametrize(
    "place, called",
    [
        ("flag", "^spend-limit is empty"),
        ("environment", r"^SPEND_LIMIT \(environment\): it is empty"),
        (".env", r"^SPEND_LIMIT \(.*/\.env line 2\): it is empty"),
    ],
)
def test_an_empty_spend_limit_never_means_the_default(
    tmp_path: Path, place: str, called: str
) -> None:
    with pytest.raises(UsageProblem, match=called):  # SPEND_LIMIT=$FORGOTTEN must not rent for 150
        settings(
            dotenv(tmp_path, "GPU=H100\nSPEND_LIMIT=\n" if place == ".env" else ""),
            {"SPEND_LIMIT": ""} if place == "environment" else {},
            **({"spend_limit": ""} if place == "flag" else {}),
        )
    assert settings(dotenv(tmp_path, "SPEND_LIMIT=\n"), {"SPEND_LIMIT": "40"}).spend_limit == 4_000


def test_the_gpu_setting_may_give_the_count() -> None:
    s = settings(gpu="H100:4")
    assert (s.gpu, s.num_gpus) == ("H100", 4)
    assert settings(gpu="H100:4", num_gpus="4").num_gpus == 4
    with pytest.raises(UsageProblem, match="disagree"):
        settings(gpu="H100:4", num_gpus="8")


@pytest.mark.parametrize(
    "flags, environ, file, want",
    [
        ({"num_gpus": "1"}, {"GPU": "H100:8"}, "", 1),
        ({"num_gpus": "1"}, {}, "GPU=H100:8", 1),
        ({}, {"NUM_GPUS": "1"}, "GPU=H100:8", 1),
        ({"gpu": "H100:8"}, {"NUM_GPUS": "1"}, "", 8),
        ({"gpu": "H100:8"}, {}, "NUM_GPUS=1", 8),
        ({}, {"GPU": "H100:8"}, "NUM_GPUS=1", 8),
        ({}, {}, "GPU=H100:4\nNUM_GPUS=4", 4),
        ({"gpu": "H100"}, {"NUM_GPUS": "2"}, "", 2),
        ({}, {}, "GPU=H100:4", 4),
    ],
    ids=str,
)
def test_the_count_of_the_higher_layer_wins(
    tmp_path: Path, flags: dict[str, str], environ: dict[str, str], file: str, want: int
) -> None:
    s = settings(dotenv(tmp_path, file + "\n"), environ, **flags)
    assert (s.gpu, s.num_gpus) == ("H100", want)


@pytest.mark.parametrize("place", ["flag", "environment", ".env"])
def test_two_counts_in_one_place_that_disagree_are_refused(tmp_path: Path, place: str) -> None:
    both = {"GPU": "H100:8", "NUM_GPUS": "1"}
    file = dotenv(tmp_path, "GPU=H100:8\nNUM_GPUS=1\n" if place == ".env" else "")
    flags = {"gpu": "H100:8", "num_gpus": "1"} if place == "flag" else {}
    with pytest.raises(UsageProblem, match="'H100:8' and .* is 1: they disagree"):
        settings(file, both if place == "environment" else {}, **flags)


# ---- .env as data


@pytest.mark.parametrize(
    "text, value",
    [
        ("RUN_NAME=plain", "plain"),
        ("RUN_NAME=plain\r\nGPU=H100\r\n", "plain"),
        ("\ufeffRUN_NAME=plain", "plain"),
        ('RUN_NAME="quoted"', "quoted"),
        ("RUN_NAME='quoted'", "quoted"),
        ("export RUN_NAME=exported", "exported"),
        ("  RUN_NAME = spaced  ", "spaced"),
        ("RUN_NAME=same\nRUN_NAME=same", "same"),
        ("RUN_NAME=\nRUN_NAME=last", "last"),
        ("RUN_NAME=first\nRUN_NAME=", "first"),
        ("# RUN_NAME=no\n\nRUN_NAME=plain # why", "plain"),
        ("RUN_NAME=", "lanbot-v3"),
        ("", "lanbot-v3"),
    ],
)
def test_the_usual_ways_to_write_an_env_file_work(tmp_path: Path, text: str, value: str) -> None:
    assert settings(dotenv(tmp_path, text)).run_name == value


@pytest.mark.parametrize(
    "command",
    [
        "$(touch {mark})",
        "`touch {mark}`",
        '"$(touch {mark})"',
        "x; touch {mark}",
        "${{HOME}}",
        "$HOME",
    ],
)
def test_nothing_in_an_env_file_is_run_or_expanded(tmp_path: Path, command: str) -> None:
    mark = tmp_path / "ran"
    value = command.format(mark=mark)
    env_file = dotenv(tmp_path, f"CLOUD={value}\n")
    assert settings(env_file).cloud == value.strip('"')
    assert not mark.exists()


def test_an_overridden_key_is_hidden_too() -> None:
    layers = {name: f"hf_{name}_{MARKER}" for name in ("flag", "environment", "file")}
    load_settings({"hf_token": layers["flag"]}, {"HF_TOKEN": layers["environment"]})
    assert hide(f"{layers['flag']} {layers['environment']}") == "*** ***"


@pytest.mark.shows("file", "*/.env*", "the user's own file")
def test_keys_in_the_file_and_refused_keys_are_hidden_too(tmp_path: Path) -> None:
    file = dotenv(tmp_path, f"HF_TOKEN=hf_file_{MARKER}\n")
    with pytest.raises(UsageProblem):
        load_settings(
            {"hf_token": "hf_given"}, {"SHADEFORM_API_KEY": f"two words of {MARKER}"}, env_file=file
        )
    assert hide(f"hf_file_{MARKER}, two words of {MARKER}") == "***, ***"


@pytest.mark.parametrize("name", TABLE)
def test_a_value_of_a_megabyte_is_refused_before_it_is_parsed(name: str) -> None:
    with pytest.raises(UsageProblem, match="characters; 20,000 are the most"):
        load_settings({name: "a" * (1 << 20)}, {})
