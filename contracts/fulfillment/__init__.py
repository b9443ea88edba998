"""What the fulfillment service obeys and says: parcels, their tracking, returns, delivery options."""
