"""`just hf` uses the token and the address of .env, as every other command does."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import REPO, TOKEN, WRITERS
from tests.support.core_fixtures import script


@pytest.mark.parametrize("given", [True, False])
def test_the_token_and_the_address_of_env_reach_hf(tmp_path: Path, given: bool) -> None:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as hub:
        hub.put(REPO, {"logs/error-x.log": b"words"})  # private
        env_file = tmp_path / ".env"
        env_file.write_text(f"HF_ENDPOINT={hub.url}\n" + f"HF_TOKEN={TOKEN}\n" * given)
        env_file.chmod(0o600)
        env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "HF_HOME": str(tmp_path / "cache"),
            "NANOLAN_ENV_FILE": str(env_file),
            "NANOLAN_CALLED_FROM": str(tmp_path),
            "NO_PROXY": "127.0.0.1",
        }
        words = ("download", REPO, "--include", "logs/*.log", "--local-dir", "logs")
        done = script("hf", *words, env=env)
    assert (done.returncode == 0) == given, done.stderr
    assert (tmp_path / "logs/logs/error-x.log").is_file() == given
    assert TOKEN not in done.stdout + done.stderr
