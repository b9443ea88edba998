"""Stock out: which number each channel should show, and making it show that.

What the rest of the service calls, all in `store`:

* `upsert_listings(connection, tenant, connection_id, rows, ...)` when listings are imported,
* `link_listing(connection, tenant, connection_id, listing, sku, pack)` when a person links one to a SKU of ours,
* `sku_for_item(connection, tenant, connection_id, adverts)` to resolve the lines of an order,
* `note_own_sales(connection, [(tenant, sale), ...])` in the transaction that takes snapshots of orders in.

`handlers.take_levels` and `handlers.take_items` consume inventory's state; `push.Sender` and `reconcile.Reconciler`
are the loops that talk to channels.
"""
