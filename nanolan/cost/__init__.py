"""Dollars: the limits, the forecast and what it learns from earlier runs, the bill, and when an instance has outlived its limits.
In: offers, plans, receipts. Out: integer cents and seconds. Pure.
"""
