"""The trainer: one phase (mid, sft, rl) from a folder with a checkpoint to a folder with a checkpoint. In: JOB.json. Out: files
that the box watches: checkpoint with manifest, metrics.jsonl, heartbeat. Knows neither Shadeform nor the Hub.
"""
