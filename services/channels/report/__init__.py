"""Telling channels what became of their orders: invoice, parcels, deliveries, cancels of ours."""
