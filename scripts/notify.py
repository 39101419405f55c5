"""Send a test notification to NOTIFY_URL.

just notify                              a standard text
just notify "a text of your own"         your text
just notify --notify-url ntfy://topic    to this address instead of the one in .env
"""

from __future__ import annotations

import outside_venv  # noqa: F401

from typing import Any

import click

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from


@click.command(cls=KeyValueCommand)
@click.argument("text", default="It works: this is what a run would tell.")
@setting_options("notify_url")
def notify(text: str, **flags: Any) -> int:
    """Send TEXT to every address of NOTIFY_URL."""
    from nanolan.notify import Notifier

    s = settings_from(flags)
    s.need("notify_url")
    problems: list[str] = []
    notifier = Notifier(s.notify_url, "nanolan", say=problems.append)
    notifier.send("a test", text)
    notifier.close()
    for problem in problems or ["sent"]:
        click.echo(problem, err=bool(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    run(notify)
