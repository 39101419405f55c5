"""Conversations as one stream of tokens. Kept: all tokens are trained, and num_iterations counts micro-batches."""

import torch


class StreamLoader:
    """Endless micro-batches (inputs, targets) of B rows of T tokens; `last` once the data or the iterations end."""

    def __init__(self, dataset, tokenizer, B, T, rank, ranks, device, num_iterations=-1):
        self.dataset, self.tokenizer = dataset, tokenizer
        self.B, self.T = B, T
        self.rank, self.ranks, self.device = rank, ranks, device
        self.num_iterations = num_iterations
        self.next_row, self.batches = rank, 0
        self.tokens = []
        self.last, self.progress = False, 0.0

    def __iter__(self):
        needed = self.B * self.T + 1
        while True:
            while len(self.tokens) < needed:
                self.read()
            taken = torch.tensor(self.tokens[:needed], device=self.device)
            del self.tokens[:needed]
            self.batches += 1
            self.count()
            yield taken[:-1].view(self.B, self.T), taken[1:].view(self.B, self.T)

    def read(self):
        """Append one conversation; start over, and say so, at the end of the data."""
        ids, _ = self.tokenizer.render_conversation(self.dataset[self.next_row])
        self.tokens += ids
        self.next_row += self.ranks
        if self.next_row >= len(self.dataset):
            self.next_row = self.rank % len(self.dataset)
            self.last = True

    def count(self):
        """How far this is."""
        self.progress = 1.0 if self.last else self.next_row / len(self.dataset)
        if self.num_iterations > 0:
            self.progress = self.batches / self.num_iterations
            self.last = self.last or self.batches >= self.num_iterations
