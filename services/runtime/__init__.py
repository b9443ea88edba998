"""Not a service: what runs one as a process, from its migrations to a clean stop. What moves messages is the bus."""

from services.runtime.service import Service

__all__ = ["Service"]
