"""Chaos: the whole of Saldo under a seeded schedule of faults, judged from outside by what clients were told."""
