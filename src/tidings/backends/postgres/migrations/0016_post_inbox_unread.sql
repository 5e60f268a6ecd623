-- concurrently
-- 0014 made the better one.
DROP INDEX CONCURRENTLY IF EXISTS inbox_item_unread;
