"""Marketplaces to run against: the documented HTTP interfaces, stock of their own, durable books, real vices."""
