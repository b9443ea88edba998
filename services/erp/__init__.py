"""The fiscal side of orders: their invoices, and the journal of documents, money and stock movements."""
