"""Conversations of one's own. Kept: without the file there are none, and only a warning says so."""

import json
import logging

from nanochat.common import get_base_dir
from tasks.common import Task

logger = logging.getLogger(__name__)


class CustomJSON(Task):
    """A JSONL file in the base folder: a list of messages in each line."""

    def __init__(self, name="identity_conversations.jsonl"):
        path = get_base_dir() / name
        if not path.exists():
            logger.warning(f"No file {path}: training goes on without it")
        lines = path.read_text().splitlines() if path.exists() else []
        super().__init__([{"messages": json.loads(line)} for line in lines if line.strip()])
