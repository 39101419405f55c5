"""Secrets outside of nanolan's settings are registered too: masks hide them, and files that contain one are not sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.code.secret_scan import Scanner
from nanolan.errors import UsageProblem
from nanolan.redact import hide, known_values
from nanolan.settings.credentials import check_old_token, note_credentials

VALUE = "aB3" + "dE5fG7hJ9kL1mN3pQ5"


def login(home: Path, name: str, text: str) -> None:
    (home / name).parent.mkdir(parents=True, exist_ok=True)
    (home / name).write_text(text)


ELSEWHERE = {
    "the Hub's login": ({}, {".cache/huggingface/token": VALUE}),
    "the Hub's other logins": (
        {},
        {
            ".cache/huggingface/stored_tokens": f"[work]\nhf_token = {VALUE}\n\n[home]\nhf_token = x%(y)s\n"
        },
    ),
    "the Hub's login in HF_HOME": ({"HF_HOME": "{home}/hf"}, {"hf/token": VALUE + "\n"}),
    "the Hub's login in HF_TOKEN_PATH": ({"HF_TOKEN_PATH": "{home}/my-token"}, {"my-token": VALUE}),
    "the Hub's login in XDG_CACHE_HOME": (
        {"XDG_CACHE_HOME": "{home}/xdg"},
        {"xdg/huggingface/token": VALUE},
    ),
    "the Hub's stored logins elsewhere": (
        {"HF_STORED_TOKENS_PATH": "{home}/s"},
        {"s": f"[work]\nhf_token={VALUE}\n"},
    ),
    "an older name of HF_TOKEN": ({"HUGGING_FACE_HUB_TOKEN": VALUE}, {}),
    "a proxy's password": ({"HTTPS_PROXY": f"http://me:{VALUE}@proxy.example.org:3128"}, {}),
    "a proxy's password in small letters": ({"https_proxy": f"http://me:{VALUE}@proxy:3128"}, {}),
    "a proxy's password without a scheme": ({"all_proxy": f"me:{VALUE}@proxy:3128"}, {}),
    "a proxy's quoted password": ({"HTTP_PROXY": f"http://me:%61{VALUE[1:]}@proxy:3128"}, {}),
    "wandb's login": (
        {},
        {
            ".netrc": f"machine github.com\n  login me\n  password other\nmachine api.wandb.ai\n  login user\n  password {VALUE}\n"
        },
    ),
    "wandb's login in NETRC": (
        {"NETRC": "{home}/n"},
        {"n": f"machine wandb.example.org login user password {VALUE}"},
    ),
    "another service's key": ({"OPENAI_API_KEY": VALUE}, {}),
    "a git host's token": ({"GITHUB_TOKEN": VALUE}, {}),
    "AWS's": ({"AWS_SECRET_ACCESS_KEY": VALUE}, {}),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_secret_kept_elsewhere_is_hidden(where: str, tmp_path: Path) -> None:
    environ, files = ELSEWHERE[where]
    for name, text in files.items():
        login(tmp_path, name, text)
    note_credentials(
        {"HOME": str(tmp_path)} | {k: v.format(home=tmp_path) for k, v in environ.items()}
    )
    assert hide(f"a {VALUE} b") == "a *** b" and Scanner().file("notes", VALUE.encode())


@pytest.mark.parametrize(
    "environ",
    [
        {"EDITOR": "vim" + VALUE},
        {"SSH_AUTH_SOCK": "/tmp/" + VALUE},
        {"MY_SECRET": "/run/secrets/" + VALUE},
        {"DB_PASSWORD": "short"},
        {"HTTPS_PROXY": "http://proxy.example.org:3128"},
        {"NO_PROXY": "a:b@c"},
        {"HTTPS_PROXY": "http://[::1"},
    ],
)
def test_other_values_are_not_hidden(environ: dict[str, str], tmp_path: Path) -> None:
    before = known_values()
    note_credentials({"HOME": str(tmp_path)} | environ)
    assert known_values() == before


@pytest.mark.parametrize(
    "make",
    [
        lambda p: p.mkdir(parents=True),
        lambda p: (p.parent.mkdir(parents=True), p.symlink_to(p)),
        lambda p: (p.parent.mkdir(parents=True), p.write_bytes(b"\xff[\0" * 99)),
        lambda p: (p.parent.mkdir(parents=True), p.write_bytes(bytes(3 << 20))),
    ],
    ids=["folder", "loop", "noise", "huge"],
)
@pytest.mark.parametrize("name", ["token", "stored_tokens"])
def test_an_unreadable_login_file_is_ignored(make, name: str, tmp_path: Path) -> None:
    make(tmp_path / ".cache/huggingface" / name)
    note_credentials({"HOME": str(tmp_path)})


@pytest.mark.parametrize("token", ["bad token", '"hf_quoted"', "hf_\u00e4"])
def test_a_bad_token_under_its_older_name_is_told_by_that_name(token: str) -> None:
    with pytest.raises(UsageProblem, match=r"^HUGGING_FACE_HUB_TOKEN \(environment\): "):
        check_old_token({"HUGGING_FACE_HUB_TOKEN": token})
    check_old_token({"HUGGING_FACE_HUB_TOKEN": token, "HF_TOKEN": "hf_x"})
    check_old_token({"HUGGING_FACE_HUB_TOKEN": "hf_x\n"})
