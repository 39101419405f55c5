"""Reads the files of a foreign checkout, whatever is in them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from nanolan.errors import UsageProblem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = "pyproject.toml"
MOST_SOURCE_BYTES = 2 << 20


def source_of(root: Path, path: str) -> str:
    """The text of a script; UsageProblem if it cannot be read."""
    try:
        data = (root / path).read_bytes()
    except OSError as e:
        raise UsageProblem(f"{path} of the checkout cannot be read: {e.strerror}") from None
    if len(data) > MOST_SOURCE_BYTES:
        raise UsageProblem(f"{path} of the checkout has {len(data):,} bytes: it is not a script")
    return data.decode("utf-8-sig", errors="replace")


def pyproject_of(root: Path) -> dict[str, Any]:
    """The checkout's pyproject.toml, {} if it has none; UsageProblem if it is no valid TOML."""
    if not (root / PYPROJECT).is_file():
        return {}
    try:
        return tomllib.loads(source_of(root, PYPROJECT))
    except (
        ValueError,
        RecursionError,
    ) as e:  # a number of thousands of digits is no TOMLDecodeError
        raise UsageProblem(f"{PYPROJECT} of the checkout is no valid TOML: {e}") from None


def python_version(root: Path) -> tuple[int, int] | None:
    """The Python that a checkout's .python-version asks for, if it has one."""
    if not (root / ".python-version").is_file():
        return None
    found = re.search(r"^\D*(\d)\.(\d{1,2})\b", source_of(root, ".python-version"), re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else None


def check_path_dependencies(root: Path) -> None:
    """UsageProblem if uv installs a package from a folder that is not in the checkout: the instance does not have it."""
    found: Any = pyproject_of(root)
    for key in ("tool", "uv", "sources"):
        found = found.get(key) if isinstance(found, dict) else None
    for name, given in (found if isinstance(found, dict) else {}).items():
        for source in given if isinstance(given, list) else [given]:
            path = source.get("path") if isinstance(source, dict) else None
            if isinstance(path, str) and not _is_inside(root, path):
                raise UsageProblem(
                    f"{PYPROJECT} of the checkout takes {name[:60]} from {path[:100]!r}, which is not sent with it. Put it "
                    "into the checkout (git add), or give a git address in [tool.uv.sources]. Nothing was rented"
                )


def _is_inside(root: Path, path: str) -> bool:
    """Whether a path relative to `root` names something in it."""
    try:
        found = (root / path).resolve()
        return found.is_relative_to(root.resolve()) and found.exists()
    except (OSError, RuntimeError, ValueError):
        return False
