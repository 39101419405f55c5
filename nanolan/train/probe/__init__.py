"""Short programs that show whether the GPUs of a machine work and how fast: one for each question, run under torchrun.

In: a setup as JSON. Out: rank 0 writes figures as JSON. The box runs one of them before it downloads anything, `just gpu-check`
all of them. What a whole phase shows (steps, saves) is measured with the trainer itself, not here.
"""
