"""Saldo on one machine with nothing installed but Python: a real Kafka, a real PostgreSQL, services as processes.

- ``jars``: Kafka's jars by Maven coordinates, each checked against a committed SHA-256.
- ``kafka``, ``postgres``: how each server is prepared, started and known to be ready.
- ``guard``: the tiny parent of every child; it ends its child when the supervisor is gone, however it went.
- ``ports``: ports drawn once for an instance and kept.
- ``supervisor``: starts processes by stages, restarts what crashes, stops in order, says how all is.
- ``servers``: only Kafka and Postgres, for tests.
- ``stack``: the whole of Saldo as one instance under ``var/``; ``start_background``, ``start_attached``, ``stop``,
  ``status``.

Every listener binds to 127.0.0.1.
"""
