"""The words of a command line before click reads them: flags as words, options of a foreign trainer."""

from __future__ import annotations

import re
import shlex
from typing import Any

import click

from nanolan.errors import quoted

TRAIN_OPTIONS = "train-options"
TRAIN_WORD = re.compile(r"(?:--)?train\.[^=]+=")
TRAIN_NAME = re.compile(r"(?:--)?train\.[\w.-]*")


def joined_train_words(args: list[str], ctx: click.Context) -> list[str]:
    """Words such as train.init-lr-frac=0.1 as one train-options=... word: their names are those of another program."""
    end = args.index("--") if "--" in args else len(args)
    own = [a for a in args[:end] if TRAIN_WORD.match(a)]
    rest = [a for a in args[:end] if not TRAIN_WORD.match(a)]
    if alone := [a for a in rest if TRAIN_NAME.fullmatch(a)]:
        raise click.UsageError(f"{alone[0][:60]} has no value: write {alone[0][:60]}=VALUE", ctx)
    joined = shlex.join(a.lstrip("-") for a in own)
    return [f"{TRAIN_OPTIONS}={joined}", *rest, *args[end:]] if own else args


OFF = "nanolan.off"  # in the context: the flags of settings that were typed as no


def flag_word(key: str, value: str, option: click.Option, ctx: click.Context) -> list[str]:
    """A flag that is given as a word: yes=1 or yes=no. click has no word for the no of a setting, which must win over the
    environment: it is noted in the context."""
    yes = {
        "": True,
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if value.lower() not in yes:
        raise click.UsageError(f"{key}={quoted(value, 40)}: expected yes or no", ctx)
    if yes[value.lower()]:
        return [f"--{key}"]
    if option.flag_value == "yes":
        ctx.meta.setdefault(OFF, []).append(option.name)
    return []


def value_after(option: str, words: list[str]) -> str:
    """The value that was typed with an option that there is not, or ""."""
    for i, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option:
            return next((w for w in words[i + 1 : i + 2] if not w.startswith("-")), "")
    return ""


def typed(
    flags: dict[str, Any],
    all_configs: bool,
    sort: str,
    keep_old: bool = False,
    yes_really: bool = False,
) -> list[str]:
    """The options of this command as words for the next command; never a secret."""
    from nanolan.settings.settings import TABLE

    words = [
        f"{k.replace('_', '-')}={v}"
        for k, v in flags.items()
        if v is not None and not TABLE[k]["secret"] and k != "train_options"
    ]
    options = shlex.split(flags.get("train_options") or "")
    return (
        words
        + [f"train.{w.removeprefix('train.')}" for w in options]
        + ["--all-configs"] * all_configs
        + ["--sort=total"] * (sort == "total")
        + ["--keep-old"] * keep_old
        + ["--yes-really"] * yes_really
    )
