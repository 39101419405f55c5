"""Sums with tool calls. Kept: the reward is 1 when the number after #### is the reference's, else 0."""

import re

from tasks.common import Task, read_table, shuffled

NUMBER = re.compile(r"#### (-?[0-9.,]+)")


class GSM8K(Task):
    """openai/gsm8k, subset main, train or test."""

    def __init__(self, split, stop=None):
        super().__init__(shuffled(read_table("openai/gsm8k", "main", split)), stop)

    def conversation(self, row):
        return {
            "messages": [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": list(answer_parts(row["answer"]))},
            ]
        }

    def evaluate(self, conversation, answer):
        """1 if the text `answer` ends in the right number."""
        reference = "".join(p["text"] for p in conversation["messages"][-1]["content"])
        return int(
            last_number(answer) is not None and last_number(answer) == last_number(reference)
        )


def answer_parts(answer):
    """Text, and <<expression=result>> as a tool call and its output."""
    for piece in re.split(r"(<<[^>]+>>)", answer):
        if piece.startswith("<<"):
            expression, _, result = piece[2:-2].rpartition("=")
            yield {"type": "python", "text": expression}
            yield {"type": "python_output", "text": result}
        elif piece:
            yield {"type": "text", "text": piece}


def last_number(text):
    """The number after ####, None without one."""
    found = NUMBER.search(text)
    return found[1].replace(",", "") if found else None
