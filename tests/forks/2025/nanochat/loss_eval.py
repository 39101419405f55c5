"""Bits per byte. Kept: it runs for a fixed number of tokens, whatever the size of the data."""

import math

import torch

from nanochat.common import sum_over_ranks


@torch.no_grad()
def evaluate_bpb(model, batches, steps, token_bytes):
    """Nats over the bytes of the targets, in bits; special tokens do not count."""
    nats = count = 0.0
    for _, (ids, targets) in zip(range(steps), batches, strict=False):
        loss = model(ids, targets, loss_reduction="none")
        known = targets.flatten().clamp(min=0)
        length = torch.where(targets.flatten() >= 0, token_bytes[known], 0)
        nats += float((loss * (length > 0)).sum())
        count += float(length.sum())
    nats, count = sum_over_ranks([nats, count], model.get_device())
    return nats / (math.log(2) * count) if count else float("inf")
