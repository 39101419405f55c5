"""The arguments of a phase: the checkout's own, those that nanolan sets where its script has them, and the user's. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from nanolan.code.secret_scan import Scanner
from nanolan.code.snapshot import check_secrets
from nanolan.errors import UsageProblem
from nanolan.trainers.scripts.options import Script, apply, normal

Given = tuple[tuple[str, str], ...]  # train.NAME=VALUE and train.PHASE.NAME=VALUE
NUMBER = re.compile(r"-?[0-9]{1,15}")


def options_for(phase: str, given: Given) -> dict[str, str]:
    """The user's own options of one phase: train.NAME is for every phase, train.PHASE.NAME for one."""
    general = {n: v for n, v in given if "." not in n}
    special = {
        n.partition(".")[2]: v for n, v in given if n.partition(".")[0] == phase and "." in n
    }
    return general | special


def check_used(given: Given, names: tuple[str, ...], scripts: Mapping[str, Script | None]) -> None:
    """UsageProblem for an option of a phase that does not run or has no options, or that only some phases have."""
    for name, _ in given:
        phase, dot, option = name.rpartition(".")
        if dot and phase not in names:
            raise UsageProblem(f"train.{name}: {phase} is not among the phases of this run")
        asked = {p: scripts[p] for p in ([phase] if dot else names)}
        known = [p for p, script in asked.items() if script and option in script.options]
        if not any(asked.values()):
            raise UsageProblem(
                f"train.{name}: a command has no options; write them into the command"
            )
        if without := [p for p in asked if known and p not in known]:
            raise UsageProblem(
                f"train.{name}: {', '.join(without)} has no such option. For {known[0]} alone: train.{known[0]}.{name}="
            )


def phase_arguments(
    script: Script,
    declared: tuple[str, ...],
    defaults: Mapping[str, Any],
    wanted: Mapping[str, Any],
    user: Mapping[str, str],
) -> tuple[str, ...]:
    """All arguments of a script, each group winning over the one before it but `defaults` over none; UsageProblem if one
    that the script requires is missing."""
    own = given_in(script, declared)
    missing = {n: v for n, v in defaults.items() if n not in own}
    arguments = (*declared, *apply(script, missing | dict(wanted), user))
    given = given_in(script, arguments)
    for name, option in script.options.items():
        if option.required and option.name not in given:
            raise UsageProblem(
                f"{script.where} requires {option.flag}: give train.{name.replace('_', '-')}="
            )
    return arguments


def given_in(script: Script, arguments: Iterable[str]) -> dict[str, str]:
    """The options among the arguments, by name; the value of one that is given in two words is the next."""
    found = dict[str, str]()
    waiting = ""
    for argument in arguments:
        flag, sign, value = argument.partition("=")
        option = script.options.get(normal(flag)) if flag.startswith("-") else None
        if option:
            found[option.name] = value
            waiting = "" if sign else option.name
        elif waiting:
            found[waiting] = argument
            waiting = ""
    return found


def values_of(script: Script, arguments: Iterable[str]) -> dict[str, Any]:
    """The options of a script by name, as far as they are known: defaults, and whole numbers among the arguments."""
    given = given_in(script, arguments)
    numbers = {n: int(v) if NUMBER.fullmatch(v) else None for n, v in given.items()}
    return {n: o.default for n, o in script.options.items()} | numbers


def check_no_secret(arguments: Iterable[str]) -> None:
    """PreflightFailed if an option holds a key: options stand in the plan, on the Hub."""
    check_secrets(Scanner(), {"train.NAME=VALUE": "\n".join(arguments).encode(errors="replace")})
