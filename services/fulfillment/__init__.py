"""fulfillment: from an order that may leave to a parcel at the door.

Picks, packs, weighs, chooses carrier and service, buys and prints labels, follows parcels and takes them back. Never
decides who gets stock, never talks to a marketplace; recipients' data stays here only while a parcel needs it.
"""
