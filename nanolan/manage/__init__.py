"""Acts on a run that is going or has ended: stop it, change its limit, resume it, guard all of them."""
