"""The demo: a seeded retailer, buyers on every connection, a live view, and a verdict that trusts no counter."""
