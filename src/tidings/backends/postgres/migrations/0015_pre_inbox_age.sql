-- concurrently
-- Ids begin with their instant, so the oldest items of all users are at its beginning, and new ones go to its end.
CREATE INDEX CONCURRENTLY inbox_item_id ON inbox_item (id);
