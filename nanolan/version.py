"""The version of nanolan, as pyproject.toml has it, too; plan, receipt, report and --version show it."""

VERSION = "0.2.0"
