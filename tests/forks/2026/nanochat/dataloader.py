"""Conversations packed into rows. Kept: num_iterations counts micro-batches, so progress can pass 1."""

import torch

BUFFER = 100  # conversations to choose from


class PackedLoader:
    """Endless micro-batches (inputs, targets) of B rows of T tokens; `last` once the data or the iterations end."""

    def __init__(self, dataset, tokenizer, B, T, rank, ranks, device, num_iterations=-1):
        self.dataset, self.tokenizer = dataset, tokenizer
        self.B, self.T = B, T
        self.rank, self.ranks, self.device = rank, ranks, device
        self.num_iterations = num_iterations
        self.next_row, self.batches, self.epoch = rank, 0, 1
        self.buffer = []
        self.last, self.progress = False, 0.0

    def __iter__(self):
        while True:
            rows = [self.pack() for _ in range(self.B)]
            self.batches += 1
            self.count()
            ids = torch.tensor([row[0] for row in rows], device=self.device)
            targets = torch.tensor([row[1] for row in rows], device=self.device)
            yield ids, targets

    def count(self):
        """How far this is, and whether it was the last: the end of the data ends it in any case."""
        self.progress = 1.0 if self.epoch > 1 else self.next_row / len(self.dataset)
        if self.num_iterations > 0:
            self.progress = self.batches / self.num_iterations
        asked = 0 < self.num_iterations <= self.batches
        self.last = self.last or asked or self.epoch > 1

    def refill(self):
        """Render conversations until the buffer is full; start over at the end of the data."""
        while len(self.buffer) < BUFFER:
            conversation = self.dataset[self.next_row % len(self.dataset)]
            self.buffer.append(self.tokenizer.render_conversation(conversation, self.T))
            self.next_row += self.ranks
            if self.next_row >= len(self.dataset):
                self.next_row, self.epoch = self.rank, self.epoch + 1

    def pack(self):
        """Inputs and targets of one row: the longest conversations that fit, then padding without targets."""
        ids, mask = [], []
        while True:
            self.refill()
            room = self.T + 1 - len(ids)
            fitting = [pair for pair in self.buffer if len(pair[0]) <= room]
            if not fitting:
                break
            best = max(fitting, key=lambda pair: len(pair[0]))
            self.buffer.remove(best)
            ids += best[0]
            mask += best[1]
        pad = self.T + 1 - len(ids)
        ids += [self.tokenizer.get_bos_token_id()] * pad
        mask += [0] * pad
        targets = [i if trained else -1 for i, trained in zip(ids[1:], mask[1:], strict=True)]
        return ids[:-1], targets
