"""The command-line options of a nanochat fork's script, read from its source, and arguments to set them.

Two styles: argparse, and nanochat's configurator of 2025, which overwrites module-level names by
`--name=value` and demands the very type of the default.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nanolan.errors import UsageProblem
from nanolan.trainers.scripts.checkpoints import checkpoints_read, checkpoints_written
from nanolan.trainers.scripts.syntax import (
    SCALARS,
    Binding,
    Expression,
    Version,
    bindings,
    calls,
    last_name,
    mentions,
    parse,
    type_of,
    value_of,
)

Value = str | int | float | bool
FLAGS = ("store_true", "store_false", "store_const", "append_const", "count")
SWITCH = "BooleanOptionalAction"
TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
TAKES: dict[type | None, str] = {int: "a whole number", float: "a number", bool: "true or false"}
# Read back as a string by the configurator without quotes. Anything else might be a literal.
PLAIN = re.compile(r"(?!(True|False|None)$)[A-Za-z][A-Za-z0-9_./:-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class Option:
    """An option of a script. A flag without a value is given or left out."""

    name: str  # with underscores
    flag: str  # as typed on the command line
    default: object = None  # an Expression if only a run would tell
    type: type | None = None  # bool, int, float or str; None: not known, any
    choices: tuple[str, ...] = ()
    help: str = ""
    required: bool = False
    takes_value: bool = True
    nargs: object = None  # argparse's
    action: str = "store"  # argparse's


@dataclass(frozen=True)
class Script:
    """What a script takes, which checkpoints it reads (base, mid, ...) and the folders it writes."""

    style: Literal["configurator", "argparse", "none"]
    options: dict[str, Option] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    where: str = ""


def read_script(source: str, where: str, python: Version | None = None) -> Script:
    """Reads a script without running it; UsageProblem naming `where` if that cannot be done.

    `python` is the version that will run the script, if it is known: what that one cannot parse is
    refused, also where this Python can.
    """
    try:
        return _read(parse(source, where, python), where)
    except (RecursionError, MemoryError):
        raise UsageProblem(f"{where} is nested too deeply to be read") from None
    except ValueError as e:  # an integer of thousands of digits
        raise UsageProblem(f"{where} cannot be read: {e}") from None


def _read(tree: ast.Module, where: str) -> Script:
    style: Literal["configurator", "argparse", "none"] = "configurator"
    options = _configurator_options(tree)
    if options is None:
        options = _argparse_options(tree)
        style = "argparse" if options or calls(tree, "ArgumentParser") else "none"
    defaults = {name: option.default for name, option in options.items()}
    reads = checkpoints_read(tree, defaults)
    return Script(style, options, reads, checkpoints_written(tree), where)


def _configurator_options(tree: ast.Module) -> dict[str, Option] | None:
    """The module-level names before the configurator runs, or None: it does not."""
    mentioned = False
    for n, statement in enumerate(tree.body):
        mentioned = mentioned or mentions(statement, "configurator")
        if mentioned and calls(statement, "exec", "get_config"):
            bound = bindings(_before_config_keys(tree.body[:n]))
            return {
                name: Option(name, f"--{name}", binding.value, binding.type)
                for name, binding in bound.items()
                if not name.startswith("_") and _can_be_set(binding)
            }
    return None


def _before_config_keys(body: list[ast.stmt]) -> list[ast.stmt]:
    for n, statement in enumerate(body):
        if "config_keys" in bindings([statement]):
            return body[:n]
    return body


def _can_be_set(binding: Binding) -> bool:
    unknown = isinstance(binding.value, Expression) and binding.value.text[:1] not in "[({"
    return binding.type is not None or binding.value is None or unknown


def _argparse_options(tree: ast.Module) -> dict[str, Option]:
    names = {name: binding.value for name, binding in bindings(tree.body).items()}
    options: dict[str, Option] = {}
    for call in calls(tree, "add_argument"):
        given = [value_of(node, names) for node in call.args]
        flags = [f for f in given if isinstance(f, str) and f.startswith("-") and normal(f)]
        option = _argparse_option(call, flags, names) if flags else None
        for flag in flags:
            if option and (flag == option.flag or flag.startswith("--")):
                options.setdefault(normal(flag), option)
    return options


def _argparse_option(
    call: ast.Call, flags: list[str], names: Mapping[str, object]
) -> Option | None:
    given = {k.arg: k.value for k in call.keywords}
    values = {name: value_of(node, names) for name, node in given.items() if name}
    action = values.get("action", "store")
    if isinstance(action, Expression):
        action = last_name(given["action"])
    if action in ("help", "version"):
        return None
    flag = next((f for f in flags if f.startswith("--")), flags[0])
    takes_value = action not in (*FLAGS, SWITCH)
    default = _default(given, values, action)
    kind = _argparse_type(given, default) if takes_value else bool
    choices = values.get("choices")
    return Option(
        name=normal(flag),
        flag=flag,
        default=_as(kind, default) if isinstance(default, str) else default,
        type=kind,
        choices=tuple(str(_as(kind, c)) for c in choices) if isinstance(choices, tuple) else (),
        help=_text_of(given["help"], names) if "help" in given else "",
        required=values.get("required") is True,
        takes_value=takes_value,
        nargs=values.get("nargs"),
        action=str(action),
    )


def _default(
    given: Mapping[str | None, ast.expr], values: Mapping[str, object], action: object
) -> object:
    if "default" in values:
        return values["default"]
    if None in given:
        return Expression("**" + ast.unparse(given[None]))
    return {"store_true": False, "store_false": True}.get(str(action))


def _as(kind: type | None, value: Any) -> object:
    """As argparse converts a default and the choices are compared."""
    try:
        return kind(value) if kind in (int, float) else value
    except (TypeError, ValueError):
        return value


def _argparse_type(given: Mapping[str | None, ast.expr], default: object) -> type | None:
    """As argparse converts; without `type` that of the default, though argparse leaves a string."""
    if "type" in given:
        return SCALARS.get(last_name(given["type"]))
    if None in given:
        return None
    return type_of(given["default"], default) or str if "default" in given else str


def _text_of(node: ast.expr, names: Mapping[str, object]) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(
            f"{{{ast.unparse(part.value)}}}"
            if isinstance(part, ast.FormattedValue)
            else _text_of(part, names)
            for part in node.values
        )
    value = value_of(node, names)
    return value if isinstance(value, str) else ""


def normal(name: str) -> str:
    """`--init-lr-frac` and `init-lr-frac` as init_lr_frac."""
    return name.lstrip("-").replace("-", "_")


def apply(script: Script, wanted: Mapping[str, Value], user: Mapping[str, str]) -> list[str]:
    """Arguments that set the wanted options that the script has, and all of the user's, which win."""
    chosen: dict[str, Value] = {}
    for name, value in wanted.items():
        if normal(name) in script.options:
            chosen[script.options[normal(name)].name] = value
    for name, text in user.items():
        chosen[_find(script, name).name] = text
    return [argument for name, value in chosen.items() for argument in render(script, name, value)]


def _find(script: Script, name: str) -> Option:
    if found := script.options.get(normal(name)):
        return found
    typed = {key: option.flag.lstrip("-") for key, option in script.options.items()}
    near = [typed[key] for key in difflib.get_close_matches(normal(name), typed)]
    hint = f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    raise UsageProblem(f"unknown option {name} of {script.where}{hint}")


def render(script: Script, name: str, value: Value) -> list[str]:
    """The arguments that set one option, in the script's style and the option's type."""
    option = _find(script, name)
    try:
        if script.style == "configurator":
            return [f"{option.flag}={_literal(option, value)}"]
        if option.takes_value:
            return _with_values(option, value)
        return _flag(option, value)
    except ValueError as e:
        raise UsageProblem(f"{option.flag} of {script.where} {e}, not {value!r}") from None


def _converted(option: Option, value: Value) -> Value:
    """`value` in the option's type; as it is for a string or an unknown type."""
    if option.type is bool:
        truth = TRUTH.get(str(value).lower())
        if truth is None:
            raise ValueError(f"takes {TAKES[bool]}")
        return truth
    if option.type in (int, float):
        try:
            number: Value = option.type(str(value))
        except ValueError:
            raise ValueError(f"takes {TAKES[option.type]}") from None
        if number != number:
            raise ValueError(f"takes {TAKES[option.type]}")
        return number
    return value


def _literal(option: Option, value: Value) -> str:
    """What the configurator reads back, by `ast.literal_eval` or else as a string, in the right type."""
    value = _converted(option, value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("takes a finite number")
    if not isinstance(value, str) and option.type is not str:
        return repr(value)
    text = str(value)
    if "=" in text:
        raise ValueError("takes a value without '=' (nanochat's configurator splits there)")
    if PLAIN.fullmatch(text) or (option.type is None and _is_literal(text)):
        return text
    return ascii(text)


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError):
        return False
    return True


def _with_values(option: Option, value: Value) -> list[str]:
    """`--flag=value`, or `--flag value value` where nargs asks for several."""
    several = option.nargs not in (None, "?")
    texts = [_text(option, v) for v in (str(value).split() if several else [value])]
    if several and not _enough(option.nargs, len(texts)):
        raise ValueError(f"takes {_amount(option.nargs)}, separated by spaces")
    if len(texts) == 1:
        return [f"{option.flag}={texts[0]}"]
    if any(re.match(r"-(?!\.?\d)", text) for text in texts):
        raise ValueError("takes several values only if none begins with a dash")
    return [option.flag, *texts]


def _text(option: Option, value: Value) -> str:
    value = _converted(option, value)
    text = str(value)
    if option.choices and text not in option.choices:
        raise ValueError(f"takes one of {', '.join(option.choices)}")
    if "\0" in text:
        raise ValueError("takes no NUL character")
    # argparse makes a bool of a text by bool(text), or leaves the text: "False" would be true
    return "" if option.type is bool and not value else text


def _enough(nargs: object, count: int) -> bool:
    return nargs == "*" or nargs == count or (nargs == "+" and count > 0)


def _amount(nargs: object) -> str:
    if isinstance(nargs, Expression):
        return f"as many values as {nargs.text} says when it runs"
    return f"{nargs} values"


def _flag(option: Option, value: Value) -> list[str]:
    if _converted(option, value):
        return [option.flag]
    if option.action == "store_true" and option.default is True:
        raise ValueError("is always on")
    return [f"--no-{option.flag[2:]}"] if option.action == SWITCH else []
