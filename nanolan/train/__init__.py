"""The trainer: one phase (mid, sft, rl) from a folder with a checkpoint to a folder with a checkpoint. In: JOB.json. Out: files
that the box watches: checkpoint with manifest, metrics.jsonl, heartbeat. Does not use Shadeform or the Hub. A new phase is added in
nanolan/phases.py; its recipe goes into recipe.py, its data into data/mixtures.py.
"""
