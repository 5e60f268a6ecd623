-- Which items of a leased claim were begun, by their positions. NULL in the claims of the version before, which began all of
-- them at once.
ALTER TABLE queue.claim ADD COLUMN begun integer[];
