"""Stock out: which number each channel should show, and making it show that.

`handlers` (inventory's levels and items) and `facts` (a channel's own sales) keep what is heard and append the changes
it makes; `sender.Sender` runs a `push.Pusher` for each lane of a connection, for which `ledger.Ledger` claims changed
records, computes their numbers in `domain` and keeps the answers; `reconcile.Reconciler` looks at what channels really
show. `listings` says which number of a channel sells which SKU.
"""
