"""Stock out: which number each channel should show, and making it show that.

`handlers` (inventory's levels and items) and `facts` (a channel's own sales) keep what is heard and append the changes
it makes; `push.Sender` claims changed records, computes their numbers in `domain` and writes them;
`reconcile.Reconciler` looks at what channels really show. `listings` says which number of a channel sells which SKU.
"""
