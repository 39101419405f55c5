"""The box's main: `python cloud/train.py STATE WORK`, started by boot.sh as its last act."""
from __future__ import annotations

import sys
from pathlib import Path

from nanolan.box import main

if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
