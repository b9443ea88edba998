-- Beginning with the SKU, which nearly always tells two rows apart, a new row finds its place with half the comparisons:
-- these two indexes were a quarter of what reserving a line cost here.
DROP INDEX reservations_open;
CREATE INDEX reservations_open ON reservations (sku, tenant) WHERE state = 'reserved' AND quantity > 0;
DROP INDEX movements_by_sku;
CREATE INDEX movements_by_sku ON movements (sku, tenant, epoch, sku_version);
