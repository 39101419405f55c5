"""What the trainer's tests share: tests/support/trainer_fixtures.py."""

from tests.support.trainer_fixtures import fixtures, tiny

__all__ = ["fixtures", "tiny"]
