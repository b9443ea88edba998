"""What the crm service says about customers, by ids alone: who is one, consent, erasure."""
