"""Reads a fork's scripts without running them: their options, the checkpoints that they read and write.

In: the source of a script. Out: `Script` with its `Option`s, and the arguments that set them. Knows
no generation of nanochat.
"""
