"""Named settings for repeated launches: `profile=cheap-sft` stands for the words of that table in profiles.toml.

    [cheap-sft]
    phase = "sft"
    gpu = "H100:8"
    spend-limit = 40

What is typed beside it wins; the environment and .env lose. Keys and tokens are refused: they belong in .env.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanolan.errors import UsageProblem, quoted
from nanolan.files import read_regular
from nanolan.settings.settings import TABLE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "profiles.toml"
MOST_BYTES = 64 << 10


def profile_words(path: Path, name: str) -> dict[str, str]:
    """Setting (as it is typed) -> value of the profile `name`; UsageProblem if there is none, or one that cannot be used."""
    tables = _tables(path)
    if name not in tables:
        near = difflib.get_close_matches(name, tables, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(tables) or 'none'}"
        raise UsageProblem(f"no profile {quoted(name, 40)} in {path}: {hint}")
    table = tables[name]
    if not isinstance(table, dict):
        raise UsageProblem(
            f"{path}: {name[:40]} is not a table: write [{name[:40]}] above its settings"
        )
    where, found = f"{path} [{name}]", dict[str, str]()
    for key, value in table.items():
        word = _checked(key, where)
        if word in found:  # which of two limits was meant?
            raise UsageProblem(
                f"{where}: {word} is given twice, once as {word.replace('-', '_')}; remove one of the two"
            )
        found[word] = _text(key, value, where)
    return found


def _tables(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(read_regular(path, MOST_BYTES).decode())
    except FileNotFoundError:
        raise UsageProblem(
            f"there is no {path}: it would hold the profiles (docs/guide.md)"
        ) from None
    except OSError as e:
        raise UsageProblem(f"{path} cannot be read: {e.strerror or e}") from None
    except (ValueError, RecursionError) as e:
        raise UsageProblem(f"{path} is not valid TOML: {e}") from None


def _checked(key: str, where: str) -> str:
    """The setting's name as it is typed."""
    field = key.replace("-", "_")
    if field not in TABLE:
        near = difflib.get_close_matches(key, [n.replace("_", "-") for n in TABLE], 1)
        raise UsageProblem(
            f"{where}: no setting called {quoted(key, 40)}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    if TABLE[field]["secret"]:
        raise UsageProblem(f"{where}: {key} is a secret; put {TABLE[field]['env']} into .env")
    return field.replace("_", "-")


def _text(key: str, value: object, where: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float) and str(value).strip():
        return str(value)
    raise UsageProblem(f"{where}: {key} must be a text, a number, true or false")
