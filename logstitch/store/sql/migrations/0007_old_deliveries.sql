-- Deliveries leave the log some time after they have ended: the oldest are found by this.
CREATE INDEX deliveries_ended ON deliveries (ended_at) WHERE ended_at IS NOT NULL;
