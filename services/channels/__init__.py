"""channels: the door to marketplaces and shops, in and out.

Owns `channels.sales.v1`, `channels.buyers.v1`, `channels.listings.v1`, `channels.connections.v1`.
Consumes `inventory.levels.v1`, `inventory.items.v1`, `orders.orders.v1`, `channels.commands.v1`.
Never decides who gets stock; never applies a number read from a channel to the ledger.
"""
