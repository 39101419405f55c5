"""Multiple choice, from the subset all."""

from tasks.common import Task, multiple_choice, read_table, shuffled

LETTERS = "ABCD"


class MMLU(Task):
    """cais/mmlu: subset all, split auxiliary_train or test."""

    eval_type = "categorical"

    def __init__(self, subset, split, stop=None):
        rows = shuffled(read_table("cais/mmlu", subset, split))
        super().__init__(rows, stop)

    def conversation(self, row):
        answer = LETTERS[row["answer"]]
        return multiple_choice(row["question"], LETTERS, row["choices"], answer)
