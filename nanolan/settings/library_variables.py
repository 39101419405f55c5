"""Environment variables that libraries parse while they are imported: huggingface_hub and the tqdm that it draws with.

An odd value of one would end every command, also those that end spending, with the library's traceback. So they are checked
before the first import, and those that the library cannot read are taken out of the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from urllib.parse import urlsplit

from nanolan.errors import quoted

ENVIRONMENT = "(environment)"
_untold: list[str] = []  # messages about variables that were taken out


def take_out(environ: MutableMapping[str, str]) -> list[str]:
    """Remove every variable that a library could not read; a message for each. `untold` has them until somebody asks."""
    found = dict(_unreadable(environ))
    for name in found:
        del environ[name]
    _untold.extend(found.values())
    return list(found.values())


def untold() -> list[str]:
    """The messages about variables taken out so far, each returned once."""
    texts = list(_untold)
    _untold.clear()
    return texts


def _unreadable(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, (reads, kind) in READERS.items():
        if name in environ and not reads(environ[name]):
            text = environ[name]
            wrong = f"{quoted(text)} is not" if text.strip() else "it is empty, which is not"
            yield name, f"{name} {ENVIRONMENT}: {wrong} {kind}; correct it or unset {name}"


def _seconds(text: str) -> bool:
    return _converts(int, text) and int(text) >= 0  # a time-out below 0 fails in each call


def _converts(kind: Callable[[str], object], text: str) -> bool:
    try:
        kind(text)
        return True
    except ValueError:
        return False


def _whole(text: str) -> bool:
    return _converts(int, text)


def _number(text: str) -> bool:
    return _converts(float, text)


def _address(text: str) -> bool:
    return _converts(lambda address: urlsplit(address).port, text)


SECONDS = (_seconds, "a whole number of seconds, such as 30")
WHOLE = (_whole, "a whole number")
NUMBER = (_number, "a number")
# What huggingface_hub/constants.py and tqdm/std.py convert; all their other variables are texts, or read as yes and no
READERS: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "HF_HUB_DOWNLOAD_TIMEOUT": SECONDS,
    "HF_HUB_ETAG_TIMEOUT": SECONDS,
    "HF_ENDPOINT": (_address, "an address, such as https://huggingface.co"),
    **dict.fromkeys(
        ("TQDM_NCOLS", "TQDM_NROWS", "TQDM_POSITION", "TQDM_INITIAL", "TQDM_UNIT_DIVISOR"), WHOLE
    ),
    **dict.fromkeys(
        (
            "TQDM_MININTERVAL",
            "TQDM_MAXINTERVAL",
            "TQDM_MINITERS",
            "TQDM_SMOOTHING",
            "TQDM_DELAY",
            "TQDM_TOTAL",
        ),
        NUMBER,
    ),
}
