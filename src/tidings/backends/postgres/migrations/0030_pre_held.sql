-- What waits for a provider that is out: counted when notifications are let in, and put sooner when the provider is back.
ALTER TABLE schedule ADD COLUMN held boolean NOT NULL DEFAULT false;
CREATE INDEX schedule_held ON schedule (topic, ready) WHERE held;
