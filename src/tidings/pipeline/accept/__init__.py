"""accept: turn HTTP bodies and vendors' receipts into queue items, and answer once these are durable."""
