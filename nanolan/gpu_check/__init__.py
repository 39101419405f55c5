"""`just gpu-check`: whether this machine's GPUs can train, and how fast they do, in ten minutes.

In: the number of GPUs and a time limit. Out: gpu-check.json and a table, one row a part. Each part is a process of its own with
a time limit; one that fails or hangs is a row with its reason. What the parts measure is the trainer itself and the programs of
nanolan/train/probe/. It was never run on a GPU: on the CPU each part is rehearsed at a toy size.
"""
