"""A dry run, the prompt and the settings of `just launch`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nanolan.settings.settings import ROOT
from nanolan.sim.marker import MARKER, TWIST
from nanolan.sim.world import REPO, World
from tests.support.core_fixtures import (
    LIST,
    TYPES,
    creates,
    forms_of,
    script,
    without,
)
from tests.support.launch_script_fixtures import (
    CANARIES,
    KEYS,
    Terminal,
    commits,
    entries,
    launch,
)
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


def bare(world: World, tmp_path: Path) -> dict[str, str]:
    """The environment of a newcomer: no key, no token, no login."""
    return without(world.env(), *KEYS, "SHADEFORM_API", "NANOLAN_REHEARSAL") | {
        "HOME": str(tmp_path)
    }


# ---- dry run
def test_a_dry_run_without_any_key_shows_labelled_samples_and_succeeds(
    world: World, tmp_path: Path
) -> None:
    done = script("launch", "--dry-run", env=bare(world, tmp_path))
    assert done.returncode == 0 and "SAMPLE offers, not today's market" in done.stderr
    assert "https://platform.shadeform.ai/settings/api" in done.stderr
    assert "[  --  ] Hub: not checked without HF_TOKEN and HF_REPO" in done.stderr
    assert json.loads(done.stdout)["os"] == "ubuntu24.04_cuda13.0_shade_os"
    assert world.cloud.requests == [] and list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_the_request_changes_nothing_and_says_how_to_rent_the_same(
    world: World,
) -> None:
    before = world.hub.files(REPO)
    done = launch(
        world,
        "--dry-run",
        "phase=mid",
        "run-name=x-1",
        "gpu=H100",
        "--all-configs",
        "spend-limit=99",
    )
    assert done.returncode == 0 and "DRY RUN: nothing was sent" in done.stderr
    assert world.hub.files(REPO) == before and entries(world) == []
    assert [r.method for r in world.cloud.requests] == ["GET", "GET"]
    assert (
        "To rent it: just launch phase=mid run-name=x-1 gpu=H100 spend-limit=99 --all-configs\n"
        in done.stderr
    )
    assert json.loads(done.stdout)["auto_delete"]["spend_threshold"] == "99.00"


def test_a_dry_run_lists_every_failed_check_and_shows_no_secret_in_any_form(world: World) -> None:
    before, seen = world.hub.files(REPO), len(world.hub.log)
    token = f"hf_{MARKER}+tok/{TWIST}"
    done = launch(world, "--dry-run", "spend-limit=1", "model-tag=d99", **CANARIES, HF_TOKEN=token)
    assert done.returncode == 4
    for name in ("Hub token", "Hub repo", "spend limit", "Shadeform key"):
        assert f"[FAILED] {name}" in done.stderr
    said = done.stdout + done.stderr
    assert (
        not any(form in said for key in (*CANARIES.values(), token) for form in forms_of(key))
        and '"*** (' in said
    )
    assert creates(world.cloud) == 0 and world.hub.files(REPO) == before
    assert not commits(world, seen)


@pytest.mark.parametrize("action", ["status", "unauthorized", "html"])
def test_a_dry_run_goes_on_with_samples_when_shadeform_cannot_be_asked(
    world: World, action: str
) -> None:
    world.cloud.fault(TYPES, action, times=None)
    world.cloud.fault(LIST, "unauthorized", times=None)
    done = launch(world, "--dry-run", "model-tag=d99")
    assert done.returncode == 4 and "SAMPLE offers" in done.stderr
    assert all(
        f"[FAILED] {name}" in done.stderr
        for name in ("offers", "input checkpoint", "Shadeform key")
    )


def test_a_dry_run_never_asks_even_at_a_terminal(world: World) -> None:
    t = Terminal(world.env(), "--dry-run")
    assert t.close() == 0 and "Select" not in t.text


# ---- settings and imports
@pytest.mark.slow  # tests/settings/test_load.py has the order
def test_flags_beat_the_environment_beats_the_env_file(world: World, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "\ufeffexport RUN_NAME='from-file'\r\nSPEND_LIMIT=77\r\nGPU=H100\r\nCLOUD=$(touch evil)\r\n"
    )
    (tmp_path / ".env").chmod(0o600)
    env = world.env() | {
        "NANOLAN_ENV_FILE": str(tmp_path / ".env"),
        "SPEND_LIMIT": "88",
        "GPU": "A100",
        "CLOUD": "hyperstack",
    }
    done = script("launch", "--yes", "--json", "--no-wait", "gpu=B200", env=env)
    told, (entry,) = json.loads(done.stdout), entries(world)
    assert (entry.plan.run_name, told["limit_usd"], told["offer"]["gpu"]) == (
        "from-file",
        "88.00",
        "B200",
    ) and not (ROOT / "evil").exists()


@pytest.mark.parametrize("name", ["launch", "offers", "stop", "resume", "wait", "orphans"])
def test_help_imports_click_the_standard_library_and_the_settings_only(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / f"scripts/{name}.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {
        line.rsplit("|", 1)[-1].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    loaded -= {p.stem for p in (ROOT / "scripts").glob("*.py")} | {
        "imported package",
        "site",
        "sitecustomize",
        "usercustomize",
        "org",
        "org.python",
        "org.python.core",
    }  # tried by copy
    foreign = {
        m
        for m in loaded
        if m.split(".")[0] not in {*sys.stdlib_module_names, "click", "nanolan"}
        and not m.startswith(("_", "__editable__"))
    }
    assert foreign == set()
    assert {m for m in loaded if m.startswith("nanolan.")} <= {
        f"nanolan.{m}"
        for m in (
            "cli",
            "cli.command",
            "cli.marks",
            "cli.consent",
            "cli.words",
            "cli.trainer",
            "cli.help",
            "cli.run",
            "cli.run_defaults",
            "errors",
            "money",
            "phases",
            "redact",
            "settings",
            "settings.env_lines",
            "settings.invoked",
            "settings.library_variables",
            "settings.paths",
            "settings.settings",
            "settings.values",
            "times",
            "version",
        )
    }
