"""General conversations. Kept: the rows are used as they are, of any length."""

from tasks.common import Task, read_table, shuffled


class SmolTalk(Task):
    """HuggingFaceTB/smol-smoltalk, train or test."""

    def __init__(self, split, stop=None):
        super().__init__(shuffled(read_table("HuggingFaceTB/smol-smoltalk", "data", split)), stop)

    def conversation(self, row):
        return {"messages": row["messages"]}
