"""The report or the model card of a run, from the files of its run folder.

    python -m nanolan.report page|card      stdin: JSON {name: content}; stdout: the page or the card

The rented machine runs this as a child process, without keys.
"""

from __future__ import annotations

import json
import sys

from nanolan.report.final import rendered

if __name__ == "__main__":
    sys.stdout.buffer.write(rendered(sys.argv[1], json.load(sys.stdin.buffer)).encode())
