"""accept: HTTP bodies and vendors' receipts become queue items, durably, before they are answered."""
