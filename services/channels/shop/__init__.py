"""The retailer's own shop: an HTTP API for its storefront, and a channel like the others behind it.

A basket is an order of the connector `shop` from its first second: what changes about it is a body that goes through
intake as a marketplace's would, and what becomes of it is told by orders as `OrderProgress`. The numbers that the shop
shows are pushed to it, lowered by its own sales, and kept here, because there is no other place where they would be.
"""
