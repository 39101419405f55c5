"""Science questions. Kept: a few rows have digits in place of letters."""

from tasks.common import Task, multiple_choice, read_table, shuffled


class ARC(Task):
    """allenai/ai2_arc: subset ARC-Easy or ARC-Challenge."""

    eval_type = "categorical"

    def __init__(self, subset, split, stop=None):
        super().__init__(shuffled(read_table("allenai/ai2_arc", subset, split)), stop)

    def conversation(self, row):
        choices = row["choices"]
        return multiple_choice(row["question"], choices["label"], choices["text"], row["answerKey"])
