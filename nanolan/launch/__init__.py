"""From settings to an instance that trains: checks (preflight.py), `Plan` (make_plan.py), the create request (request.py), renting
(rent.py), waiting, the next offer (failover.py). Nothing is rented before every check has passed and somebody has agreed.
"""
