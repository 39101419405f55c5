"""Who rented this machine: how the box program sees the machine and its bill, how it begins there, and how it ends.

In: the plan, the secrets. Out: a row of `PLATFORMS`. No other module of the box program asks who the platform is.
"""
