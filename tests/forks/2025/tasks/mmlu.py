"""Multiple choice. Kept: the rows of auxiliary_train are wrapped in a field named train."""

from tasks.common import Task, multiple_choice, read_table, shuffled

LETTERS = "ABCD"


class MMLU(Task):
    """cais/mmlu: subset auxiliary_train (split train) or all (split test)."""

    eval_type = "categorical"

    def __init__(self, subset, split, stop=None):
        rows = shuffled(read_table("cais/mmlu", subset, split))
        super().__init__([row.get("train") or row for row in rows], stop)

    def conversation(self, row):
        answer = LETTERS[row["answer"]]
        return multiple_choice(row["question"], LETTERS, row["choices"], answer)
