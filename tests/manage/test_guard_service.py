"""The guard as a unit that systemd parses back unchanged, and as a job that the real client sends; no secret in either."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from nanolan.errors import ApiProblem, AuthProblem, PreflightFailed, Unreachable, UsageProblem
from nanolan.hub.client import Hub
from nanolan.manage.guard_service import JOB, guard_job, quoted, unit
from nanolan.redact import Secret
from nanolan.run.ledger import Entry, Ledger
from nanolan.settings.load import load_settings
from nanolan.settings.settings import ROOT, Settings
from nanolan.sim.hub.server import HubServer
from nanolan.times import iso, now_utc, parse_time
from tests.support.box_fixtures import REPO, TOKEN, WRITERS
from tests.support.core_fixtures import a_plan, script

OWNER, KEY = "0badcafe", "CANARY-shadeform-0123456789"
SECRETS = {"HF_TOKEN": TOKEN, "SHADEFORM_API_KEY": KEY}


# ---- a systemd unit


def parsed(text: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=False, comment_prefixes=("#",))
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(text)
    return found


def as_systemd_reads(word: str) -> str:
    """A quoted word of a unit, after systemd's own unquoting, specifiers and variables."""
    assert word[0] == word[-1] == '"'
    return re.sub(
        r"\\(.)", r"\1", re.sub("%(.?)", lambda m: {"%": "%"}.get(m[1], "SPECIFIER"), word[1:-1])
    )


def test_the_unit_starts_the_guard_of_this_checkout_for_that_owner_and_restarts_it() -> None:
    text = unit(
        ROOT, OWNER, {"NANOLAN_HOME": "/srv/a $b", "SHADEFORM_API_KEY": KEY, "PATH": "/bin"}
    )
    found = parsed(text)
    assert found.sections() == ["Unit", "Service", "Install"]
    service = found["Service"]
    assert [as_systemd_reads(w) for w in re.findall(r'"[^"]*"', service["ExecStart"])] == [
        f"{ROOT}/.venv/bin/python",
        f"{ROOT}/scripts/guard.py",
        "--owner",
        OWNER,
    ]
    assert (
        service["WorkingDirectory"] == str(ROOT)
        and service["Environment"] == '"NANOLAN_HOME=/srv/a $b"'
    )
    assert service["Restart"] == "always" and found["Install"]["WantedBy"] == "default.target"
    assert '"/a$$b/scripts/guard.py"' in unit(
        Path("/a$b"), OWNER, {}
    )  # variables are expanded in that line
    assert "hunter2" not in unit(
        ROOT, OWNER, {"HTTPS_PROXY": "http://me:hunter2@proxy.example.org:3128"}
    )
    assert '"HTTPS_PROXY=http://proxy.example.org:3128"' in unit(
        ROOT, OWNER, {"HTTPS_PROXY": "http://proxy.example.org:3128"}
    )
    assert (
        KEY not in text
        and "enable --now nanolan-guard" in text
        and "loginctl enable-linger" in text
    )


@pytest.mark.parametrize(
    "word", ["/a b/c", 'quo"te', "back\\slash", "per%cent %h", "$HOME ${x}", "pl'ain", "ünï"]
)
def test_any_path_is_the_same_word_for_systemd(word: str) -> None:
    assert as_systemd_reads(quoted(word)) == word


@pytest.mark.parametrize("word", ["a\nExecStart=/bin/evil", "a\rb", "\x1b[2J"])
def test_a_path_that_would_be_another_line_is_refused(word: str) -> None:
    with pytest.raises(UsageProblem, match="control character"):
        quoted(word)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_itself_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "nanolan-guard.service"
    path.write_text(unit(ROOT, OWNER, {}))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(path)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert done.returncode == 0 and "nanolan-guard" not in done.stderr, done.stderr


def test_the_command_prints_the_unit_and_names_missing_settings(tmp_path: Path) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "NANOLAN_HOME": str(tmp_path),
        "SHADEFORM_API_KEY": KEY,
        "NANOLAN_ENV_FILE": str(tmp_path / ".env"),
    }
    done = script("guard", "--unit", env=env)
    assert done.returncode == 0 and parsed(done.stdout)["Service"]["ExecStart"].endswith(
        f'"{Ledger(tmp_path).owner}"'
    )
    assert KEY not in done.stdout + done.stderr
    assert all(
        f"{name} is not set" in done.stderr for name in ("SHADEFORM_API_KEY", "HF_TOKEN", "HF_REPO")
    )
    (tmp_path / ".env").write_text(f"SHADEFORM_API_KEY={KEY}\nHF_TOKEN=hf_x0123456\nHF_REPO=me/x\n")
    (tmp_path / ".env").chmod(0o600)
    assert script("guard", "--unit", env=env | {"SHADEFORM_API_KEY": ""}).stderr == ""
    done = script(
        "guard", "--unit", env=env | {"HTTPS_PROXY": "http://me:hunter2@proxy.example.org:3128"}
    )
    assert (
        "HTTPS_PROXY may contain a password" in done.stderr
        and "hunter2" not in done.stdout + done.stderr
    )


# ---- a job at Hugging Face

SENT = pytest.mark.shows(
    "request", "POST /api/jobs/me body", "a job's secrets; the test looks at what is beside them"
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:
        server.put(REPO, {"runs/ab12cd34/code.bundle": b"code"})
        yield server


def settings(hub: HubServer) -> Settings:
    return load_settings({}, SECRETS | {"HF_REPO": REPO, "HF_ENDPOINT": hub.url})


def environ(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    return SECRETS | {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "NANOLAN_HOME": str(tmp_path),
        "HF_REPO": REPO,
        "HF_ENDPOINT": hub.url,
        "NANOLAN_ENV_FILE": "/dev/null",
        "SHADEFORM_API": "http://127.0.0.1:1/v1",
    }


def launched(hub: HubServer, tmp_path: Path, hours: float = 2.0) -> Ledger:
    now, ledger = now_utc().replace(microsecond=0), Ledger(tmp_path)
    ledger.put(
        Entry(
            a_plan(
                hf_endpoint=hub.url,
                hf_repo=REPO,
                runs_repo=REPO,
                owner=ledger.owner,
                created_at=iso(now),
                deadline=iso(now + timedelta(hours=hours)),
            )
        )
    )
    return ledger


def test_a_dry_run_shows_the_job_and_the_names_of_its_secrets_and_starts_nothing(
    hub: HubServer, tmp_path: Path
) -> None:
    ledger = launched(hub, tmp_path)
    done = script("guard", "--hf-job", "--dry-run", env=environ(hub, tmp_path))
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert (job["image"], job["flavor"], job["usd_per_hour"], job["most_usd"]) == (
        "python:3.12",
        "cpu-basic",
        "0.01",
        "0.03",
    )
    assert 2.4 * 3600 < job["timeout_s"] <= 2.5 * 3600 and job["secrets"] == [
        "HF_TOKEN",
        "SHADEFORM_API_KEY",
    ]
    assert (
        job["env"]["OWNER"] == ledger.owner
        and job["env"]["HF_REPO"] == REPO
        and "DRY RUN" in done.stderr
    )
    assert not any(v in done.stdout + done.stderr for v in SECRETS.values()) and not hub.jobs
    assert not any("/api/jobs/" in line["path"] for line in hub.log)


@SENT
def test_the_real_client_starts_it_once_with_secrets_as_secrets_and_the_code_pinned(
    hub: HubServer, tmp_path: Path
) -> None:
    ledger = launched(hub, tmp_path)
    done = script("guard", "--hf-job", env=environ(hub, tmp_path))
    assert done.returncode == 0, done.stderr
    assert (
        len(hub.jobs) == 1 and hub.jobs[0]["id"] in done.stdout and "$0.03 at most" in done.stdout
    )
    spec, revision = hub.jobs[0]["spec"], hub.store.load("model", REPO).at("main").oid  # type: ignore[union-attr]
    assert (
        spec["secrets"] == SECRETS
        and spec["command"] == ["bash", "-c", JOB]
        and spec["attempts"] == 3
    )
    assert (
        spec["environment"]["CODE_URL"]
        == f"{hub.url}/{REPO}/resolve/{revision}/runs/ab12cd34/code.bundle"
    )
    assert spec["environment"]["CODE_SHA256"] == ledger.entries()[0].plan.code.sha256
    outside = (
        json.dumps({k: v for k, v in spec.items() if k != "secrets"}) + done.stdout + done.stderr
    )
    assert not any(v in outside for v in SECRETS.values())
    told = Hub(hub.url, Secret(TOKEN)).api.inspect_job(job_id=hub.jobs[0]["id"])
    assert (
        told.secrets == sorted(SECRETS)
        and told.flavor == "cpu-basic"
        and told.docker_image == "python:3.12"
    )


@SENT
def test_a_refusal_names_the_permission_that_the_token_needs_and_is_not_retried(
    hub: HubServer,
) -> None:
    job = guard_job(settings(hub), a_plan(), OWNER, "main", parse_time(a_plan().created_at))
    for status, kind, words in (
        (403, AuthProblem, "allowed to start jobs"),
        (402, ApiProblem, "must have credit"),
        (503, Unreachable, "must have credit"),
    ):
        hub.fault("POST /api/jobs/", status=status)
        before = len(hub.log)
        with pytest.raises(kind, match=words):
            Hub(hub.url, Secret(TOKEN), patience_s=0).start_job(job, SECRETS)
        assert sum("/api/jobs/" in line["path"] for line in hub.log[before:]) == 1 and not hub.jobs


def test_a_run_that_is_past_its_date_gets_no_job(hub: HubServer) -> None:
    with pytest.raises(PreflightFailed, match="past its date"):
        guard_job(settings(hub), a_plan(), OWNER, "main", parse_time(a_plan().deadline))


@pytest.mark.parametrize(
    "words",
    [
        ("--dry-run",),
        ("--any-owner", "--hf-job"),
        ("--any-owner", "--owner", OWNER),
        ("--unit", "--hf-job"),
        ("--any-owner", "--unit"),
        ("--owner", "me"),
        ("0",),
        ("words",),
    ],
    ids=" ".join,
)
def test_words_that_do_not_go_together_are_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    from click.testing import CliRunner
    from guard import guard

    done = CliRunner(env={"NANOLAN_HOME": str(tmp_path)}).invoke(guard, list(words))
    assert done.exit_code == 2, done.output


def test_the_jobs_script_is_good_bash_and_holds_no_value() -> None:
    assert subprocess.run(["bash", "-n"], input=JOB, text=True, capture_output=True).stderr == ""
    used = set(re.findall(r'"?\$\{?([A-Z_0-9]+)|environ\["([A-Z_]+)"\]', JOB))
    assert {a or b for a, b in used} == {"CODE_URL", "HF_TOKEN", "CODE_SHA256", "RUN_ID", "OWNER"}
    assert shlex.split(JOB.splitlines()[0]) == ["set", "-eu"]
