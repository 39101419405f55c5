"""The version of nanolan, here and nowhere else: pyproject.toml reads it; plan, receipt, report and --version show it."""

VERSION = "0.2.0"
