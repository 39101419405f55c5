"""States of an unfinished phase: saved beside the training, and resumed from. In: model, optimizer, job; out: folders
step-NNNNNN. The final checkpoint does not belong here (nanolan/model/checkpoint.py)."""
