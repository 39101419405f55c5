"""Near misses on a command line: the option that a word or a wrong name probably means. Imports nothing heavy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence

from nanolan.errors import without_keys

# What other tools call it -> the option here
ALSO_CALLED = {
    "budget": "spend-limit",
    "limit": "spend-limit",
    "max-cost": "spend-limit",
    "max-spend": "spend-limit",
    "timeout": "max-duration",
    "time-limit": "max-duration",
    "name": "run-name",
    "run": "run-name",
    "gpus": "num-gpus",
    "gpu-count": "num-gpus",
    "ngpus": "num-gpus",
    "gpu-type": "gpu",
    "accelerator": "gpu",
    "provider": "cloud",
    "zone": "region",
    "model": "model-tag",
    "tag": "model-tag",
    "depth": "model-tag",
    "batch-size": "batch",
    "price": "max-price",
    "retries": "failover",
    "retry": "failover",
    "repo": "hf-repo",
    "token": "hf-token",
    "api-key": "shadeform-api-key",
    "detach": "no-wait",
    "preview": "dry-run",
    "force": "yes",
    "stage": "phase",
    "phases": "phase",
}
TYPES = {
    "d": "no-wait",
    "w": "watch",
    "g": "gpu",
    "p": "phase",
    "f": "follow",
}  # short options elsewhere
ALIKE = 0.6  # difflib ratio
SHOWN = 40


def option_for(key: str, names: Collection[str]) -> str:
    """The option of `names` that a wrong name means, or ""."""
    plain = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")
    joined = {name.replace("-", ""): name for name in names}
    meant = joined.get(plain.replace("-", "")) or _variable(plain) or ALSO_CALLED.get(plain, "")
    if len(plain) == 1:
        meant = TYPES.get(plain, "")
    if meant in names:
        return meant
    near = difflib.get_close_matches(plain, names, 3, ALIKE)
    return _nearest(plain, near) if near and len(plain) > 1 else ""


def _nearest(plain: str, near: Sequence[str]) -> str:
    """Of equally near names the one with the same letters ("srot": sort, not spot), else the first by the alphabet."""
    ratios = {n: difflib.SequenceMatcher(None, n, plain).ratio() for n in near}
    ties = [n for n in near if ratios[n] == max(ratios.values())]
    return min(ties, key=lambda n: (sorted(n) != sorted(plain), n))


def _variable(plain: str) -> str:
    """The option of a setting's environment variable, typed in any case."""
    from nanolan.settings.settings import FIELDS

    return FIELDS.get(plain.replace("-", "_").upper(), "").replace("_", "-")


def option_of(word: str, names: Mapping[str, bool]) -> str:
    """What a word that belongs to no option was meant to be, as it is to be typed; "" if nothing suggests itself. `names` are
    the options, and whether each is a flag."""
    plain = word.strip()
    for option, meant in _guesses(plain):
        if option in names and meant:
            return meant
    near = option_for(plain, names) if re.fullmatch(r"[A-Za-z][\w-]+", plain) else ""
    return with_value(near, "", flag=names[near], secret=False) if near else ""


def _guesses(word: str) -> list[tuple[str, str]]:
    """(option, what to type) for each kind of value that the word may be."""
    return [
        ("phase", _phase(word)),
        ("gpu", _gpu(word)),
        ("model-tag", f"model-tag={word}" if re.fullmatch(r"d\d{1,3}", word) else ""),
        ("eval", f"eval={word}" if word in ("quick", "full") else ""),
        ("sort", f"sort={word}" if word in ("price", "total") else ""),
        ("max-duration", f"max-duration={word}" if re.fullmatch(r"\d+[smhd]", word) else ""),
        ("spend-limit", f"spend-limit={word[1:]}" if re.fullmatch(r"\$\d+(\.\d+)?", word) else ""),
        ("init", f"init={word}" if re.fullmatch(r"[\w.-]+/[\w.-]+:\S*", word) else ""),
        ("hf-repo", f"hf-repo={word}" if re.fullmatch(r"[\w.-]+/[\w.-]+", word) else ""),
    ]


def _phase(word: str) -> str:
    from nanolan.phases import nearest_phase

    meant = nearest_phase(word)
    return f"phase={meant}" if meant else ""


def _gpu(word: str) -> str:
    from nanolan.shadeform.gpu_types import GPUS, normalized

    kind, colon, count = word.partition(":")
    known = {normalized(gpu): gpu for gpu in GPUS}.get(normalized(kind))
    return f"gpu={known}{colon}{count}" if known and (count.isdigit() or not colon) else ""


def with_value(option: str, value: str, *, flag: bool, secret: bool) -> str:
    """The option as it is to be typed, with the value that was typed beside the wrong name; never a secret."""
    if flag:
        return f"--{option}"
    if secret or without_keys(value) != value:
        return f"{option}=..."
    if not value or len(value) > SHOWN or not value.isprintable():
        return f"{option}=..."
    return f"{option}={value}"
