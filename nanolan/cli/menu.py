"""The recipes of the justfile as data, and shell completion scripts for them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RECIPE = re.compile(
    r"^# (?P<help>.+)\n\[group\('(?P<group>[a-z]+)'\)\]\n(?:\[[a-z-]+\]\n)*"
    r"(?P<name>[a-z-]+)(?P<args> \*args)?:.*\n    @(?P<command>.+)$",
    re.M,
)
RUNS = "${NANOLAN_HOME:-$HOME/.nanolan}/runs"
WITH_RUN = ("status", "watch", "wait", "stop", "resume")


@dataclass(frozen=True)
class Recipe:
    """One recipe."""

    name: str
    group: str
    help: str
    command: str  # the shell command; "$@" stands for the arguments

    @property
    def script(self) -> str | None:
        """The name of its script without folder and extension; None if it runs something else."""
        found = re.match(r"\{\{python\}\} scripts/(\w+)\.py\b", self.command)
        return found[1] if found else None


def recipes(justfile: str) -> list[Recipe]:
    """Every public recipe, in the file's order."""
    return [
        Recipe(m["name"], m["group"], m["help"], m["command"]) for m in RECIPE.finditer(justfile)
    ]


def bash(words: Mapping[str, Sequence[str]], values: Mapping[str, Sequence[str]]) -> str:
    """Completion for bash: recipes, then each one's words and run ids; `values` maps a setting to its values."""
    cases = "\n".join(
        f"        {name}) words='{' '.join(some)}' ;;" for name, some in words.items()
    )
    known = "\n".join(
        f"        {name}) words='{' '.join(some)}' ;;" for name, some in values.items()
    )
    return f"""# completion of nanolan's recipes, their options and the ids of runs
_nanolan_runs() {{
    local file
    for file in "{RUNS}"/*.json; do [ -e "$file" ] && basename "$file" .json; done
}}
_nanolan_just() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} name='' words='' at=$COMP_CWORD
    # bash cuts phase=sft into three words, zsh does not cut it
    case $cur in
        '=') name=${{COMP_WORDS[at-1]}}; cur='' ;;
        *=*) name=${{cur%%=*}}; cur=${{cur#*=}} ;;
        *) [ "$at" -gt 1 ] && [ "${{COMP_WORDS[at-1]}}" = '=' ] && name=${{COMP_WORDS[at-2]}} ;;
    esac
    if [ "$at" -eq 1 ]; then
        words='{" ".join(words)}'
    elif [ -n "$name" ]; then
        case $name in
{known}
        esac
        case ${{COMP_WORDS[at]}} in
            ?*=*) COMPREPLY=($(compgen -P "$name=" -W "$words" -- "$cur")); return ;;
        esac
    else
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
        case ${{COMP_WORDS[1]}} in {"|".join(WITH_RUN)}) words="$words $(_nanolan_runs)" ;; esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    case ${{COMPREPLY[0]-}} in *=) compopt -o nospace 2>/dev/null ;; esac
}}
complete -o default -F _nanolan_just just ./just
"""


def zsh(words: Mapping[str, Sequence[str]], values: Mapping[str, Sequence[str]]) -> str:
    """The same for zsh, which understands bash's."""
    return "autoload -Uz compinit bashcompinit && compinit -u && bashcompinit\n" + bash(
        words, values
    )


def fish(
    words: Mapping[str, Sequence[str]], values: Mapping[str, Sequence[str]], menu: Sequence[Recipe]
) -> str:
    """The same for fish, with each recipe's help."""
    lines = [
        "# completion of nanolan's recipes, their options and the ids of runs",
        "complete -c just -e",
        "complete -c just -f",
    ]
    for r in menu:
        said = r.help.replace("\\", "\\\\").replace("'", "\\'")
        lines.append(f"complete -c just -n __fish_use_subcommand -a {r.name} -d '{said}'")
    for name, some in words.items():
        all_words = [f"{w}{v}" for w in some for v in values.get(w.rstrip("="), [""])]
        if all_words:
            lines.append(
                f"complete -c just -n '__fish_seen_subcommand_from {name}' -a '{' '.join(all_words)}'"
            )
    home = "(set -q NANOLAN_HOME; and echo $NANOLAN_HOME; or echo $HOME/.nanolan)"
    lines.append(
        f"complete -c just -n '__fish_seen_subcommand_from {' '.join(WITH_RUN)}' "
        f"-a '(path basename {home}/runs/*.json | path change-extension \"\")'"
    )
    return "\n".join(lines) + "\n"
