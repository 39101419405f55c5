"""Reads a .env file line by line as data: runs and expands nothing, and ignores no line without a message.

Variables of other tools are allowed. A line without an assignment, or a name that looks like a misspelt setting, is reported
with its line number; values are never quoted.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from nanolan.errors import UsageProblem

if TYPE_CHECKING:
    from dotenv.parser import Binding

MOST_BYTES = 256 << 10
# Ignoring a limit costs money, so more misspellings of one are recognised: its words in any order, with words around them
LIMITS = {
    "SPEND_LIMIT": (
        "SPEND LIMIT",
        "SPENDLIMIT",
        "SPENDING LIMIT",
        "MAX SPEND LIMIT",
        "TOTAL SPEND LIMIT",
        "SPEND MAX",
        "MAX SPENDING",
        "SPEND CAP",
        "SPENDING CAP",
        "MAX COST",
        "MAX TOTAL COST",
        "COST LIMIT",
        "COST CAP",
        "MAX BUDGET",
        "BUDGET LIMIT",
    ),
    "MAX_PRICE": ("MAX PRICE", "MAXPRICE"),
    "MAX_TOTAL": ("MAX TOTAL", "MAXTOTAL"),
    "MAX_DURATION": ("MAX DURATION", "MAXDURATION"),
    "PROBATION_USD": ("PROBATION", "PROBATION LIMIT"),
}
CURRENCY = {"USD", "EUR", "EURO", "EUROS", "DOLLAR", "DOLLARS", "CENT", "CENTS"}
TIME = {"HOUR", "HOURS", "HOURLY", "MINUTES", "SECONDS", "H", "S"}
AROUND_LIMIT = {"NANOLAN", "ENV", "MY", "RUN", "PER", "DEFAULT", *CURRENCY, *TIME}
ALIKE = 0.85  # difflib ratio: one letter wrong, missing, too many or out of place
MUCH_ALIKE = 0.94  # the same for a name that contains a setting's name
OTHERS = {"NUM_CPUS", "GH_TOKEN"}  # similar to a setting, but another tool's variable
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class EnvFile:
    """The values of a .env file with their line numbers, and a message for each invalid line."""

    values: dict[str, str | None] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line with an assignment, or with a failed attempt at one."""

    number: int
    name: str
    value: str | None
    text: str
    broken: bool

    @property
    def meant(self) -> str:
        """The first word; in a broken line it may be the name."""
        word = re.match(r"(?:export\s+)?([\w-]+)", self.text)
        return word[1] if word else ""

    @property
    def unquoted(self) -> str:
        """The text after the `=`, or "" if it is quoted."""
        value = self.text.partition("=")[2].strip()
        return "" if value[:1] in ("'", '"') else value


def read_env(path: Path | None, names: Collection[str]) -> EnvFile:
    """The file's values. None, a missing file and /dev/null give no values; UsageProblem if the file cannot be read."""
    if path is None or not os.path.lexists(path) or str(path) == os.devnull:
        return EnvFile()
    found = EnvFile()
    problems = []
    for line in parsed(_text(path)):
        if problem := _problem(line, names) or _twice(line, found, names):
            problems.append(f"{path} line {line.number}: {problem}")
        elif line.name and (
            line.value or not found.values.get(line.name)
        ):  # an empty value never replaces a filled one
            found.values[line.name] = line.value
            found.lines[line.name] = line.number
    return EnvFile(found.values, found.lines, tuple(problems))


def parsed(text: str) -> Iterable[Line]:
    """Every line that is not blank and not a comment."""
    from dotenv.parser import parse_stream

    lines = map(_line, parse_stream(StringIO(text, newline="")))
    return [line for line in lines if line.name or line.broken]


def nearest(name: str, names: Collection[str]) -> str:
    """The setting that a misspelt name probably means, or ""."""
    plain = re.sub(r"[^A-Z0-9]+", "_", unicodedata.normalize("NFKC", name).upper()).strip("_")
    if name in names or plain in OTHERS:
        return ""
    joined = {n.replace("_", ""): n for n in names}
    if same := joined.get(plain.replace("_", "")):
        return same
    if (limit := _limit_meant(plain)) in names:
        return limit
    longer = [
        n for n in names if plain.startswith(f"{n}_") or plain.endswith(f"_{n}")
    ]  # AWS_REGION, HF_TOKEN_OLD
    close = difflib.get_close_matches(plain, names, 1, MUCH_ALIKE if longer else ALIKE)
    return close[0] if close and close[0] not in longer else ""


def _limit_meant(plain: str) -> str:
    """The limit that a name means which has other words for it, or its unit: COST_LIMIT, MAX_PRICE_PER_HOUR; or ""."""
    words = plain.split("_")
    core = [word for word in words if word not in AROUND_LIMIT]
    if core == ["BUDGET"] and {"NANOLAN", *CURRENCY} & set(words):  # BUDGET alone is anybody's
        return "SPEND_LIMIT"
    for limit, forms in LIMITS.items():
        if any(set(core) == set(form.split()) for form in forms):
            return limit
    if core == words or len(core) < 2:
        return ""
    return next(iter(difflib.get_close_matches("_".join(core), LIMITS, 1, ALIKE)), "")


# -------------------------------------------------------------- the file
def _text(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = next((text for test, text in KINDS if test(mode)), "not an ordinary file")
            raise UsageProblem(f"{path} is {kind}; settings are read from an ordinary file only")
        with path.open("rb") as f:
            data = f.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UsageProblem(f"{path} has more than {MOST_BYTES >> 10} kB: it is not a .env file")
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageProblem(f"{path} is a link to a file that does not exist") from None
    except OSError as e:
        raise UsageProblem(f"{path} cannot be read: {e.strerror or type(e).__name__}") from None
    except UnicodeError:
        raise UsageProblem(
            f"{path} cannot be read: it is not UTF-8 text; save it as UTF-8"
        ) from None
    if "\0" in text:
        number = re.split("\r\n|\r|\n", text[: text.index("\0")])
        raise UsageProblem(
            f"{path} line {len(number)}: a control character (NUL); save the file as UTF-8 text"
        )
    return text


def _line(found: Binding) -> Line:
    """Convert dotenv's binding; its `original` text begins with the blank lines before the assignment."""
    text = found.original.string
    blank = text[: len(text) - len(text.lstrip())]
    number = found.original.line + len(re.findall("\r\n|\r|\n", blank))
    return Line(number, found.key or "", found.value, text.strip(), found.error)


# -------------------------------------------------------------- one line
def _problem(line: Line, names: Collection[str]) -> str:
    """What is wrong with the line, or ""."""
    if line.broken or line.value is None or not line.name:
        setting = line.meant if line.meant in names else nearest(line.meant, names)
        return f"no assignment: write {setting or 'NAME'}=value and close every quote, or put # in front of a comment"
    if near := nearest(line.name, names):
        return f"{_shown(line.name, near)} is not a setting; the setting is called {near}"
    if swallowed := _swallowed(line, names):
        return f"{swallowed} is set inside the value of another name: put it on its own line, and close the quotes"
    return ""


def _swallowed(line: Line, names: Collection[str]) -> str:
    """A setting that is assigned later on the same line, or on a line that an open quote made part of this value."""
    value = (line.value or "") if line.unquoted else ""  # without a comment behind it
    words = re.findall(r"\s([A-Z][A-Z0-9_-]*)\s*=", value)
    others = re.findall(r"(?:;|,|&&|\|\|)(?:export\s+)?([A-Z][A-Z0-9_-]*)\s*=", value)
    words += [word for word in others if word in LIMITS or nearest(word, LIMITS)]
    words += re.findall(r"\n\s*(?:export\s+)?([A-Z][A-Z0-9_-]*)\s*=", line.value or "")
    return next((word for word in words if word in names or nearest(word, names)), "")


def _twice(line: Line, found: EnvFile, names: Collection[str]) -> str:
    before = found.values.get(line.name)
    if line.name not in names or not before or not line.value or before == line.value:
        return ""
    return f"{line.name} has another value in line {found.lines[line.name]}: remove one of the two"


def _shown(name: str, near: str) -> str:
    """The name as it was written, or a description if it may contain invisible characters."""
    return name if re.fullmatch(r"[\w./:;+-]{1,60}", name, re.ASCII) else f"this spelling of {near}"
