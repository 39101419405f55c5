"""Money: the spend limit, the forecast and the figures of earlier runs behind it, the bill, and when an instance is overdue.

The spend limit ("budget") is decided in cost/budget.py: the bill at which training stops, the bill at which uploads are given
up, and the date and bill at which the provider deletes the instance.
In: offers, plans, receipts. Out: integer cents and seconds. Pure.
"""
