"""Shared by every command: `key=value` words, an option per setting, one-line errors. Imports only click
at the top."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanolan.cli.help import HELP_ALL_OPTION, TOO_MANY, GroupedHelp
from nanolan.cli.words import OFF, TRAIN_OPTIONS, flag_word, joined_train_words, value_after
from nanolan.errors import quoted, without_keys
from nanolan.redact import redact_stream, short
from nanolan.settings.invoked import as_invoked, invoked

if TYPE_CHECKING:
    from nanolan.settings.settings import Settings

PROFILE = "profile"
profile_option = click.option(
    f"--{PROFILE}",
    metavar="NAME",
    expose_value=False,  # its settings stand in for it among the words
    help="the settings of that table in profiles.toml; what is typed beside it wins",
)
TYPED = "nanolan.typed"  # in the context: how each option was written, by its field name


class TypedPath(click.Path):
    """A path relative to the folder of the caller, not of the checkout."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        from nanolan.settings.paths import typed

        return super().convert(typed(value), param, ctx)


class KeyValueCommand(GroupedHelp):
    """A command that takes `key=value` words and `--key value` alike, and suggests a name for a typo."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        more = [HELP_ALL_OPTION] if len(self.params) > TOO_MANY else []
        return [*super().get_params(ctx), *more]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_any, ctx.allow_extra_args = ctx.allow_extra_args, True
        flags = self._flags(ctx, args)
        try:
            rest = super().parse_args(ctx, [*flags])
        except click.NoSuchOption as e:
            raise self._unknown(ctx, e.option_name, value_after(e.option_name, flags)) from None
        ctx.params |= dict.fromkeys(ctx.meta.get(OFF, ()), "no")
        if rest and not takes_any and not ctx.resilient_parsing:
            raise self._stray(ctx, rest)
        return rest

    def _flags(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = self._options(ctx)
        args = joined_train_words(args, ctx) if TRAIN_OPTIONS in known else args
        args = _with_profile(args, known) if PROFILE in known else args
        out: list[str] = []
        seen: set[str] = set()
        for i, arg in enumerate(args):
            if arg == "--":
                return out + args[i:]
            word = not arg.startswith("-") and "=" in arg and not _is_value(known, args, i)
            key = arg.lstrip("-").partition("=")[0].replace("_", "-")
            if word and key not in known:
                raise self._unknown(ctx, *arg.partition("=")[::2])
            if word or arg.startswith("--"):
                if key in seen:
                    raise click.UsageError(f"{key} is given twice", ctx)
                seen.add(key)
                ctx.meta.setdefault(TYPED, {})[key.replace("-", "_")] = arg.partition("=")[0]
            if word and known[key].is_flag:
                out += flag_word(key, arg.partition("=")[2], known[key], ctx)
            elif word:
                out.append(f"--{key}={arg.partition('=')[2]}")
            else:
                out.append(
                    arg.replace(arg.partition("=")[0], "--" + key, 1)
                    if arg.startswith("--")
                    else arg
                )
        return out

    def _unknown(self, ctx: click.Context, typed: str, value: str = "") -> click.UsageError:
        """The error for an option that there is not, with the one that was probably meant."""
        from nanolan.cli.suggest import option_for, with_value
        from nanolan.settings.settings import TABLE

        options = self._options(ctx)
        name, hint = typed.lstrip("-"), f"See: {ctx.command_path} --help"
        if near := option_for(name, options):
            secret = TABLE.get(near.replace("-", "_"), {}).get("secret", False)
            meant = with_value(near, value, flag=options[near].is_flag, secret=secret)
            hint = f"Did you mean {meant}?"
        return click.UsageError(f"no setting called {quoted(name, 40)}. {hint}", ctx)

    def _stray(self, ctx: click.Context, words: list[str]) -> click.UsageError:
        """The error for words that belong to no option."""
        from nanolan.cli.suggest import option_of

        options = self._options(ctx)
        flags = {name: option.is_flag for name, option in options.items()}
        meant = [option_of(word, flags) for word in words]
        hint = (
            f"Did you mean {without_keys(' '.join(meant))}?"
            if all(meant)
            else f"Options are words such as NAME=VALUE. See: {ctx.command_path} --help"
        )
        return click.UsageError(
            f"{quoted(' '.join(words[:3]), 120)} belongs to no option. {hint}", ctx
        )

    def _options(self, ctx: click.Context) -> dict[str, click.Option]:
        return {
            name.lstrip("-"): p
            for p in self.get_params(ctx)
            if isinstance(p, click.Option)
            for name in p.opts
            if name.startswith("--")
        }


def _is_value(known: Mapping[str, click.Option], args: list[str], i: int) -> bool:
    """True when the previous word is an option that still needs its value."""
    before = args[i - 1] if i else ""
    option = known.get(before.lstrip("-").replace("_", "-")) if before.startswith("--") else None
    return option is not None and "=" not in before and not option.is_flag


def _key(arg: str) -> str:
    """The setting that a word or a flag gives; "" for a value, which may be any text."""
    given = arg.startswith("--") or "=" in arg and not arg.startswith("-")
    return arg.lstrip("-").partition("=")[0].replace("_", "-") if given else ""


def _with_profile(args: list[str], known: Mapping[str, click.Option]) -> list[str]:
    """The words, and in front those of the profile that they name, but for settings that are typed or not this command's."""
    end = args.index("--") if "--" in args else len(args)
    keys = ["" if _is_value(known, args, i) else _key(args[i]) for i in range(end)]
    if PROFILE not in keys:
        return args
    from nanolan.errors import UsageProblem
    from nanolan.settings.profiles import FILE, profile_words

    at = keys.index(PROFILE)
    name = args[at].partition("=")[2] or next(iter(args[at + 1 : end]), "")
    path = env_file().with_name(FILE)
    try:
        values = profile_words(path, name)
    except UsageProblem as e:
        raise click.UsageError(str(e)) from None
    words = [f"{k}={v}" for k, v in values.items() if k in known and k not in keys]
    shown = without_keys(" ".join(words)) or "nothing for this command"
    click.echo(f"Profile {name}: {shown}", err=True)
    return [*words, *args]


def setting_options(*names: str) -> Callable[[Any], Any]:
    """Click options for the named settings (all of them if none is named), from the settings table."""

    def add(command: Any) -> Any:
        from nanolan.settings.settings import TABLE

        for name in reversed(names or tuple(TABLE)):
            meta = TABLE[name]
            flag = "--" + name.replace("_", "-")
            if meta["flag"]:
                command = click.option(flag, flag_value="yes", default=None, help=meta["help"])(
                    command
                )
                continue
            default = f"  [{meta['default']}]" if meta["default"] else ""
            command = click.option(flag, metavar=meta["metavar"], help=meta["help"] + default)(
                command
            )
        return command

    return add


def settings_from(flags: dict[str, Any], strict: bool = True) -> Settings:
    """Settings from a command's options, the environment, .env and the cached Hub login.

    Without `strict` (for commands that end spending or show it) wrong values in the environment and .env are reported and
    ignored."""
    from nanolan.errors import UsageProblem
    from nanolan.settings.credentials import note_credentials
    from nanolan.settings.library_variables import untold
    from nanolan.settings.load import load_settings, usable_settings

    note_credentials(os.environ)
    context = click.get_current_context(silent=True)
    typed = context.meta.get(TYPED, {}) if context else {}
    path = env_file()
    if path.is_file() and path.stat().st_mode & 0o077 and os.name == "posix":
        click.echo(f"note: others on this machine can read {path}; run: chmod 600 {path}", err=True)
    unusable = untold()
    if _is_missing(path):
        unusable.append(f"NANOLAN_ENV_FILE (environment): {path} is not there")
    if strict and unusable:
        raise UsageProblem(unusable[0])
    if strict:
        return load_settings(
            flags, os.environ, env_file=path, cached_token=cached_token, typed=typed
        )
    s, wrong = usable_settings(flags, os.environ, path, cached_token, typed)
    for text in (*unusable, *wrong):
        say_not_used(text)
    return s


def say_not_used(text: str) -> None:
    """The line about a wrong setting without which the command goes on."""
    click.echo(f"note: not used: {text}", err=True)


def _is_missing(path: Path) -> bool:
    """Whether a named file is missing. A missing .env in the checkout is fine: all settings may be in the environment."""
    return bool(os.environ.get("NANOLAN_ENV_FILE")) and not os.path.lexists(path)


def env_file() -> Path:
    """The path of .env: NANOLAN_ENV_FILE, or in the checkout."""
    from nanolan.settings.paths import typed
    from nanolan.settings.settings import ROOT

    given = os.environ.get("NANOLAN_ENV_FILE")
    return typed(given) if given else ROOT / ".env"


def cached_token() -> str | None:
    """The Hub token of `hf auth login`."""
    from huggingface_hub import constants, get_token

    from nanolan.errors import UsageProblem
    from nanolan.settings.credentials import check_old_token

    check_old_token(os.environ)
    try:
        return get_token()
    except (OSError, UnicodeError) as e:
        raise UsageProblem(
            f"{constants.HF_TOKEN_PATH} cannot be read ({type(e).__name__}): make it readable, log in again "
            "with: just hf auth login, or set HF_TOKEN"
        ) from None


def run(command: click.Command, *, insist: bool = False, verbatim: bool = False) -> None:
    """Run a command and exit with its code. Its output is redacted; an error is one line, with --debug also the traceback.
    `insist`: the command controls spending, so it continues when its output can no longer be written. `verbatim`: stdout is
    the text of others, in which `just resume` is no advice."""
    from nanolan.errors import NanolanError
    from nanolan.settings.library_variables import take_out, untold
    from nanolan.times import SERVICE_CLOCK

    take_out(os.environ)  # before anything imports the Hub's client
    sys.stdout, sys.stderr = (
        redact_stream(sys.stdout if verbatim else as_invoked(sys.stdout), insist=insist),
        redact_stream(as_invoked(sys.stderr), insist=insist),
    )
    SERVICE_CLOCK.on_difference = lambda text: click.echo(f"note: {text}", err=True)
    terminated = sigterm_as_ctrl_c()
    argv, debug = _words(command)
    try:
        name = f"{invoked()} {command.name}"
        code = command.main(args=argv, prog_name=name, standalone_mode=False)
    except click.ClickException as e:
        shown = io.StringIO()
        e.show(shown)
        click.echo(without_keys(shown.getvalue()), err=True, nl=False)  # click quotes the words
        code = e.exit_code
    except NanolanError as e:
        if debug:
            traceback.print_exc()
        click.echo(f"error: {e}", err=True)
        code = e.exit_code
    except (KeyboardInterrupt, click.Abort) as e:  # click turns the first into the second
        why = str(e) or str(e.__cause__ or "")
        click.echo(
            f"\nstopped by {'SIGTERM' if terminated else 'Ctrl-C'}" + (f": {why}" if why else ""),
            err=True,
        )
        code = 130
    except OSError as e:  # names the file and the reason
        if debug:
            traceback.print_exc()
        click.echo(f"error: {_file_error(e)}", err=True)
        code = 1
    except Exception as e:
        if debug:
            traceback.print_exc()
        click.echo(
            f"error: {type(e).__name__}: {short(str(e))} (a bug in nanolan; details with --debug)",
            err=True,
        )
        code = 1
    for text in untold():  # of a command that reads no settings
        say_not_used(text)
    if terminated and code == 130:
        end_by(terminated[0])
    sys.exit(code if isinstance(code, int) else 0)


def _words(command: click.Command) -> tuple[list[str], bool]:
    """The words of the command line without --debug, and whether it was there."""
    words = own = sys.argv[1:]
    if not command.context_settings.get("allow_interspersed_args", True):
        own = [*takewhile(lambda w: w[:1] == "-", words)]  # the rest may belong to another program
    return [*(w for w in own if w != "--debug"), *words[len(own) :]], "--debug" in own


def sigterm_as_ctrl_c() -> list[int]:
    """Let SIGTERM end a command as Ctrl-C does, with a message about what may bill; returns a list that collects the signals."""
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    return received


def end_by(number: int) -> None:
    """End by the signal, so that the sender sees it in the exit status."""
    sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _file_error(e: OSError) -> str:
    """The message of a file error. An OSError without a file name is a bug: its caller should have handled it."""
    if e.filename is None:
        return f"{type(e).__name__}: {short(str(e))} (a bug in nanolan; details with --debug)"
    name = os.fsdecode(e.filename) if isinstance(e.filename, bytes) else str(e.filename)
    return f"{short(name)}: {e.strerror or type(e).__name__}. Check that it exists, is writable and has room"
