"""Where settings come from: flags > environment > .env > cached `hf auth login` (token only) > defaults.

The only reader of os.environ and .env; .env is parsed as data, never sourced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nanolan.errors import UsageProblem, is_key
from nanolan.money import parse_limit
from nanolan.redact import Secret
from nanolan.settings.env_lines import LIMITS, EnvFile, nearest, read_env
from nanolan.settings.settings import FIELDS, OWN_TRAINER, TABLE, Settings
from nanolan.settings.values import is_url

MOST_CHARACTERS = 20_000  # of one setting: some parsers need a time that grows with the square
NOTHING_TYPED: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Layer:
    """A source of settings; `called` is how messages name a variable of it."""

    name: str
    values: Mapping[str, str | None]
    called: Callable[[str], str]


DEFAULT = Layer("default", {}, str)
LOGIN = Layer("hf auth login", {}, lambda env: f"{env} (from hf auth login)")


def load_settings(
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    *,
    env_file: Path | None = None,
    cached_token: Callable[[], str | None] = lambda: None,
    typed: Mapping[str, str] = NOTHING_TYPED,
) -> Settings:
    """Settings from typed `flags` (by field name), `environ`, the .env file and the cached Hub login. `typed` is how the
    options were written, by field name: messages name them so."""
    settings, wrong = usable_settings(flags, environ, env_file, cached_token, typed)
    if wrong:
        more = f" (and {len(wrong) - 1} more: just doctor)" if len(wrong) > 1 else ""
        raise UsageProblem(wrong[0] + more)
    return settings


def usable_settings(
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    env_file: Path | None,
    cached_token: Callable[[], str | None],
    typed: Mapping[str, str] = NOTHING_TYPED,
) -> tuple[Settings, tuple[str, ...]]:
    """The settings, with defaults for invalid ones, and a message for each invalid one. An invalid flag raises UsageProblem."""
    if blank := [k for k, v in flags.items() if v is not None and not v.strip()]:
        name = typed.get(blank[0], _typed(blank[0]))
        raise UsageProblem(f"{name} is empty: give a value, or leave it out")
    file = _env_file(env_file)
    wrong = [*file.problems, *_misspelt(environ)]
    layers = (
        Layer(
            "flag",
            {TABLE[k]["env"]: v for k, v in flags.items() if k in TABLE},
            lambda env: typed.get(FIELDS[env], _typed(FIELDS[env])),
        ),
        Layer("environment", environ, lambda env: f"{env} (environment)"),
        Layer(".env", file.values, lambda env: f"{env} ({env_file} line {file.lines[env]})"),
    )
    note_secrets(layers)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, meta in TABLE.items():
        layer = _first(meta, layers)
        try:
            if layer is DEFAULT and name == "hf_token" and (token := cached_token()):
                layer = Layer(LOGIN.name, {meta["env"]: token}, LOGIN.called)
            values[name] = _value(meta, layer)
            sources[name] = layer.name
        except UsageProblem as e:
            if layer.name == "flag":
                raise
            wrong.append(str(e))
            values[name] = _value(meta, DEFAULT)
            sources[name] = DEFAULT.name
    if env_file and sources["ssh_public_key"] == ".env":
        values["ssh_public_key"] = _relative_to(env_file, values["ssh_public_key"])
    if env_file and sources["trainer"] == ".env":
        values["trainer"] = _folder_relative_to(env_file, values["trainer"])
    settings = Settings(**values, sources=sources)
    settings = _gpu_and_count(_known_phase(settings, layers, wrong), layers, wrong)
    return settings, tuple(wrong)


def _known_phase(settings: Settings, layers: Iterable[Layer], wrong: list[str]) -> Settings:
    """Check the phases of nanolan's own trainer; those of a checkout are known once it was read."""
    layer = _first(TABLE["phase"], layers)
    try:
        settings.phases  # noqa: B018  # raises for an unknown one
        return settings
    except UsageProblem as e:
        text = f"{layer.called(TABLE['phase']['env'])}: {e}"
        if layer.name == "flag":
            raise UsageProblem(text) from None
        wrong.append(text)
        default = TABLE["phase"]["default"]
        return replace(settings, phase=default, sources=settings.sources | {"phase": DEFAULT.name})


def _relative_to(file: Path, text: str) -> str:
    """A path in a .env file is relative to the file's folder; the text of a key stays as it is."""
    return (
        text
        if " " in text and not text.endswith(".pub")
        else str(file.absolute().parent / Path(text).expanduser())
    )


def _folder_relative_to(file: Path, text: str) -> str:
    """The folder of a checkout, as `_relative_to`; nanolan's own trainer and an address stay as they are."""
    if text == OWN_TRAINER or text.startswith("~") or is_url(text):
        return text
    return str(file.absolute().parent / text)


def _typed(name: str) -> str:
    """A setting's name as it is typed on the command line."""
    return name.replace("_", "-")


def _env_file(path: Path | None) -> EnvFile:
    try:
        return read_env(path, list(FIELDS))
    except UsageProblem as e:
        return EnvFile(problems=(str(e),))


def _misspelt(environ: Mapping[str, str]) -> list[str]:
    """Messages for variables that look like a misspelt limit: ignoring one would cost money."""
    return [
        f"{name} (environment): not a setting; the setting is called {near}"
        for name in environ
        if name not in FIELDS and (near := nearest(name, LIMITS))
    ]


def note_secrets(layers: Iterable[Layer]) -> None:
    """Register every key and token of each layer with the mask: an overridden or refused one may still be printed."""
    for env in (meta["env"] for meta in TABLE.values() if meta["secret"]):
        for layer in layers:
            Secret((layer.values.get(env) or "").strip())


def _first(meta: Mapping[str, Any], layers: Iterable[Layer]) -> Layer:
    """The first layer that sets the value. Empty means unset, except for an amount of money that has a default."""
    money = meta["parse"] is parse_limit and meta["default"]
    for layer in layers:
        text = layer.values.get(meta["env"])
        if text is not None and (money or text.strip()):
            return layer
    return DEFAULT


def _value(meta: Mapping[str, Any], layer: Layer) -> Any:
    text = meta["default"] if layer is DEFAULT else (layer.values[meta["env"]] or "").strip()
    if text is None:
        return None
    try:
        if not text:
            raise UsageProblem(
                f"it is empty; give an amount in dollars, or remove it to use the default, {meta['default']}"
            )
        if len(text) > MOST_CHARACTERS:
            raise UsageProblem(f"it has {len(text):,} characters; {MOST_CHARACTERS:,} are the most")
        if not text.isprintable():
            raise UsageProblem("it contains a control character")
        if is_key(text) and not meta["secret"]:
            Secret(text)  # masked from now on
            raise UsageProblem("this is a key or token; it belongs into the setting for that key")
        return meta["parse"](text)
    except UsageProblem as e:
        raise UsageProblem(f"{layer.called(meta['env'])}: {e}") from None


def _gpu_and_count(settings: Settings, layers: Iterable[Layer], wrong: list[str]) -> Settings:
    """`H100:8` gives the count, too, unless a higher layer gives NUM_GPUS. Two counts in one layer that disagree are refused."""
    gpu, colon, text = settings.gpu.partition(":")
    if not colon:
        return settings
    count, of_gpu, of_count = int(text), settings.sources["gpu"], settings.sources["num_gpus"]
    ranks = [layer.name for layer in (*layers, DEFAULT)]
    if ranks.index(of_count) < ranks.index(of_gpu):
        return replace(settings, gpu=gpu)
    if of_count == of_gpu and settings.num_gpus != count:
        layer = _first(TABLE["gpu"], layers)
        problem = (
            f"{layer.called('GPU')} is {settings.gpu!r} and {layer.called('NUM_GPUS')} is {settings.num_gpus}: they "
            "disagree; give one of them"
        )
        if layer.name == "flag":
            raise UsageProblem(problem)
        wrong.append(problem)
    return replace(
        settings, gpu=gpu, num_gpus=count, sources=settings.sources | {"num_gpus": of_gpu}
    )
