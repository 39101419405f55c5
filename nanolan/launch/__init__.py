"""From settings to an instance that trains: checks, `Plan`, the create request, renting, waiting, the next offer. Nothing is
rented before every check has passed and somebody has agreed.
"""
