"""Who gets the stock: items, a double-entry ledger over accounts, reservations that follow an order's demand, levels.

Listens to the demand of orders and to the stock commands of people; tells how each demand was met, every movement, and
the level of every SKU after each decision. It never cancels anything and never asks a marketplace.
"""
