"""What is typed, exported or written into .env: refused, or the same value on the machine; none of it ever runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nanolan.box.phase_runner import run_trainer, trainer_command
from nanolan.errors import BadAnswer, PreflightFailed, UsageProblem
from nanolan.launch.request import create_body, startup_script, unpack
from nanolan.plan import read_plan
from nanolan.redact import Secret
from nanolan.settings.env_lines import read_env
from nanolan.settings.load import load_settings
from nanolan.settings.settings import FIELDS, ROOT, TABLE, Settings
from nanolan.shadeform.ssh import has_address, ssh_argv
from nanolan.status.text import ssh_command
from tests.fuzz.reading import INSTANCE
from tests.launch.test_request import ANY, values_in_bash
from tests.support.core_fixtures import PLAN, a_plan

WORDS = (
    ("semicolon", "a; touch pwned"),
    ("and", "a && touch pwned"),
    ("pipe", "a | touch pwned"),
    ("background", "a & touch pwned"),
    ("dollars", "$(touch pwned)"),
    ("ticks", "`touch pwned`"),
    ("braces", "${IFS}touch${IFS}pwned"),
    ("quote", "a'; touch pwned; '"),
    ("double quote", 'a"; touch pwned; "'),
    ("line", "a\ntouch pwned"),
    ("return", "a\rtouch pwned"),
    ("NUL", "a\0b"),
    ("redirect", "a > pwned"),
    ("here", "a <<< pwned"),
    ("star", "*"),
    ("tilde", "~root"),
    ("option", "-rf"),
    ("long option", "--help"),
    ("ssh", "-oProxyCommand=touch pwned"),
    ("up", "../../pwned"),
    ("absolute", "/etc/passwd"),
    ("windows", "C:\\pwned"),
    ("turned", "a\u202eb"),
    ("look-alike", "\u0430dmin"),
    ("blank", "a b"),
    ("escape", "\x1b]52;c;cHduZWQ=\x07"),
    ("JSON", '","spend_limit":"1e9'),
    ("template", "{{constructor}}"),
    ("format", "%n%s{0.__class__}"),
    ("300", "a" * 300),
    ("megabyte", "a" * (1 << 20)),
    ("half a pair", "a\udcff"),
    ("digits", "\u0661\u0662"),
    ("math", "1e9*2"),
)
STRICT = [
    n
    for n in TABLE
    if n
    not in (
        "cloud",
        "region",
        "instance_type",
        "ssh_public_key",
        "notify_url",
        "wandb_api_key",
        "hf_token",
        "shadeform_api_key",
        "shadeform_api_key_box",
        "gpu",
        "trainer",  # a folder, which tests/trainers/test_checkout.py attacks
    )
]


@pytest.mark.parametrize("word", [w for _, w in WORDS], ids=[n for n, _ in WORDS])
def test_a_hostile_word_is_refused_by_every_setting_with_a_pattern(word: str) -> None:
    taken = []
    for name in STRICT:
        for flags, environ in (({name: word}, {}), ({}, {TABLE[name]["env"]: word})):
            try:
                load_settings(flags, environ)  # type: ignore[arg-type]
                taken.append(name)
            except UsageProblem as e:
                assert len(str(e)) < 600
    assert not taken


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(TABLE)),
    st.one_of(st.sampled_from([w for _, w in WORDS[:-2]]), st.text(max_size=20)),
)
def test_any_text_for_any_setting_is_refused_or_comes_back_on_the_machine(
    name: str, text: str
) -> None:
    try:
        s: Settings = load_settings({name: text}, {})
    except UsageProblem:
        return
    value = getattr(s, name)
    shown = value.reveal() if isinstance(value, Secret) else value
    if isinstance(shown, str):
        assert (
            shown == text.strip()
            or name in ("gpu", "eval", "self_delete", "init")
            or name.endswith(("_api", "_endpoint"))
        )
        plan = a_plan(
            run_name=shown,
            model_tag=shown,
            wandb_project=shown,
            offer=replace(PLAN.offer, cloud=shown, region=shown, gpu=shown, instance_type=shown),
        )
        try:
            script = startup_script(plan, {"HF_TOKEN": shown}, "main")
        except PreflightFailed:
            assert len(shown) > 2000, "refused for its size alone"
            return
        seen = values_in_bash(script)
        assert (
            read_plan(plan.to_json()) == plan
            and seen["PLAN_SHA256"] == hashlib.sha256(plan.to_json()).hexdigest()
        )
        assert json.loads(unpack(seen["SECRETS"])) == {"HF_TOKEN": shown}
        assert json.loads(json.dumps(create_body(plan, script)))["region"] == shown


# ------------------------------------------------------------------ .env
ENV = (
    ("dollars", "RUN_NAME=$(touch pwned)"),
    ("ticks", "RUN_NAME=`touch pwned`"),
    ("a variable", "RUN_NAME=${HOME}"),
    ("quoted", 'RUN_NAME="$(touch pwned)"'),
    ("a command", "touch pwned"),
    ("export", "export RUN_NAME=$(touch pwned)"),
    ("two commands", "RUN_NAME=a; touch pwned"),
    ("a line within", 'RUN_NAME="a\ntouch pwned"'),
    ("escaped", 'RUN_NAME="a\\x1b]52;c;x\\x07"'),
    ("NUL", "RUN_NAME=a\0b"),
    ("source", ". ./evil"),
    ("a path", "PATH=/evil\nRUN_NAME=../x"),
)


@pytest.mark.parametrize("text", [t for _, t in ENV], ids=[n for n, _ in ENV])
def test_nothing_in_env_is_run_or_expanded(text: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(text)
    try:
        values = read_env(tmp_path / ".env", FIELDS).values
        assert str(Path.home()) not in str(values) and os.environ["PATH"] != "/evil"
        assert load_settings({}, {}, env_file=tmp_path / ".env").run_name == "lanbot-v3"
    except UsageProblem as e:
        assert re.search(r"RUN_NAME|\.env line \d+: (no assignment|a control character)", str(e))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xef\xbb\xbfRUN_NAME=mine\r\n", "mine"),
        (b"RUN_NAME=\nRUN_NAME=mine\n", "mine"),
        (b"export RUN_NAME=mine", "mine"),
        (b"RUN_NAME = 'mine' # why", "mine"),
        (b"# RUN_NAME=x\n\n\nRUN_NAME=mine", "mine"),
    ],
    ids=ascii,
)
def test_an_odd_file_gives_its_value(data: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(data)
    assert load_settings({}, {}, env_file=tmp_path / ".env").run_name == name


@pytest.mark.parametrize(
    "data",
    [b"\xff\xfeR\0U\0", b"A=" + b"x" * (1 << 20), b"\x80=1", b"\0\0\nRUN_NAME=mine"],
    ids=["UTF-16", "a megabyte", "no text", "NUL"],
)
def test_what_is_no_env_file_is_refused_in_one_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(data)
    with pytest.raises(UsageProblem):
        read_env(tmp_path / ".env", FIELDS)


# ------------------------------------------------------------------ argument lists
JUST = shutil.which("just", path=f"{ROOT / '.venv/bin'}{os.pathsep}{os.environ['PATH']}")
LISTS = [w for _, w in WORDS if "\0" not in w and "\udcff" not in w and len(w) < 1000]


def test_a_job_reaches_the_trainer_as_it_is(tmp_path: Path) -> None:
    job: dict[str, Any] = {"run_name": LISTS, "model_tag": "$(touch pwned)"}
    plan = a_plan(trainer="evil; touch pwned", processes=1)
    file = tmp_path / "job; touch pwned.json"
    try:
        assert (
            trainer_command(plan, file)[-1] == str(file)
            and trainer_command(plan, file)[2] == plan.trainer
        )
        run_trainer(
            plan,
            job,
            file,
            tmp_path,
            host={"PATH": os.environ["PATH"]},
            wandb_key=None,
            stop=lambda: None,
        )
        assert json.loads(file.read_text()) == job
    finally:
        file.unlink()


@pytest.mark.skipif(not JUST, reason="no just here")
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(st.sampled_from(LISTS), ANY), max_size=8))
def test_any_words_reach_a_recipes_script_as_they_are(words: list[str]) -> None:
    """`set positional-arguments` and "$@": what `just` puts into the line itself would run."""
    justfile = "set positional-arguments\nshow *args:\n    @printf '%s\\0' \"$@\"\n"
    done = subprocess.run(
        [JUST, "--justfile", "/dev/stdin", "--working-directory", ".", "show", *words],
        input=justfile.encode(),  # type: ignore[list-item]
        capture_output=True,
        env={"PATH": os.environ["PATH"], "TMPDIR": "/tmp"},
    )
    assert done.stdout.decode().split("\0")[:-1] == (words or [""]), done.stderr


def test_no_recipe_puts_words_into_its_line() -> None:
    text = (ROOT / "justfile").read_text()
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    assert (
        "set positional-arguments" in text
        and len(lines) > 20
        and not [line for line in lines if "{{args}}" in line or "$*" in line]
    )
    assert all('"$@"' in line for line in lines if "scripts/" in line and ".py" in line)


def test_no_other_place_makes_shell_text_of_values() -> None:
    """payload.py quotes; everything else starts programs by lists of arguments. A guard's job is a text without values."""
    for path in [
        *(ROOT / "nanolan").glob("*.py"),
        *(ROOT / "nanolan/train").glob("*.py"),
        *(ROOT / "scripts").glob("*.py"),
        *(ROOT / "cloud").glob("*.py"),
    ]:
        assert not re.search(
            r"shell=True|os\.system\(|os\.popen\(|[\"'](?:ba|da)?sh[\"'], [\"']-c[\"'](?!, JOB)|getoutput\(",
            path.read_text(),
        ), path


# ------------------------------------------------------------------ ssh
@pytest.mark.parametrize("field", ["ip", "ssh_user", "id"])
@pytest.mark.parametrize(
    "word",
    [w for _, w in WORDS if w not in ("a" * 300, "1e9", "a" * (1 << 20))]
    + ["a@b", "a,b", "[::1", "a\tb"],
    ids=ascii,
)
def test_nothing_of_the_apis_becomes_an_option_of_ssh(word: str, field: str) -> None:
    from nanolan.shadeform.models import ID, instance_of

    answer = INSTANCE | {field: word}
    if not ID.fullmatch(answer["id"]):
        with pytest.raises(BadAnswer, match="an invalid instance id"):
            instance_of(answer)
        return
    instance = instance_of(answer)
    if has_address(instance):
        argv = ssh_argv(instance, None, Path("/tmp"))
        assert (
            argv[argv.index("-l") + 1] == instance.ssh_user
            and argv[-2:] == ["--", instance.ip]
            and not argv[-1].startswith("-")
        )
        assert "touch" not in ssh_command(instance, "x")
    else:
        with pytest.raises(BadAnswer, match="no usable address"):
            ssh_argv(instance, None, Path("/tmp"))
