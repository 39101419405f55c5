"""--name=value over the globals of the script that executes this file. Kept: a value must have the type of its default.

exec(Path("nanochat", "configurator.py").read_text())
"""

import ast
import sys
from pathlib import Path

from nanochat.common import print0


def read_value(text):
    """A Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


for argument in sys.argv[1:]:
    if "=" not in argument:
        assert not argument.startswith("--"), f"{argument} has no value"
        print0(f"Reading the settings of {argument}")
        exec(Path(argument).read_text())
        continue
    assert argument.startswith("--"), f"{argument} is not an option"
    name, value = argument.split("=")
    name = name[2:]
    if name not in globals():
        raise ValueError(f"Unknown config key: {name}")
    value = read_value(value)
    default = globals()[name]
    assert default is None or type(value) is type(default), f"{name}: {value!r} for {default!r}"
    print0(f"Setting {name} = {value!r}")
    globals()[name] = value
