-- What a category says beyond opting out (retries, caps, quiet hours, dedupe), as JSON of the whole model struct.
ALTER TABLE category ADD COLUMN rules bytea NOT NULL DEFAULT '{}';
