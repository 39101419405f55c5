"""Acts on runs: stop a run, change its limit, resume it, guard all instances."""
