-- concurrently
-- The count of what is unread, and the page of it, read the index alone, in the order of ids.
CREATE INDEX CONCURRENTLY inbox_item_unread_id ON inbox_item (tenant, user_id, id)
    WHERE read_at IS NULL AND archived_at IS NULL;
