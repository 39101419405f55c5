"""Settings from flags, an environment and a .env file, as the tests give them."""

from __future__ import annotations

from pathlib import Path

from nanolan.settings.load import load_settings
from nanolan.settings.settings import Settings


def settings(
    env_file: Path | None = None,
    environ: dict[str, str] | None = None,
    cached: str | None = None,
    **flags: str,
) -> Settings:
    return load_settings(flags, environ or {}, env_file=env_file, cached_token=lambda: cached)


def dotenv(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / ".env"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
