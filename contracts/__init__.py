"""All that services may say to each other: one module per owner and major version, one catalogue, one envelope.

This package imports nothing but Pydantic and the standard library, so that anybody can depend on it.
"""
