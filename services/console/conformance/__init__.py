"""The contract kit: hits somebody's service with what may come over its streams, and tells what it did.

All that is looked at is in Kafka: the committed offsets of its consumer groups and what it publishes.
"""
