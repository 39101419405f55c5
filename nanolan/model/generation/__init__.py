"""Generation: prompts in, completions out, many at a time.

`engine.py` has the completions and the calculator calls, on the host; `decoder.py` the step that draws a token for every
row, on the device alone; `graphs.py` replays it; `kv_cache.py` has the keys and values, `sampling.py` the draws.
"""
