-- A listing of versions does not read their contents, which may have a megabyte each. NULL: written by the release before,
-- which knows only the body.
ALTER TABLE template_version ADD COLUMN created_at bigint;
UPDATE template_version SET created_at = coalesce((convert_from(body, 'UTF8')::json ->> 'created_at')::bigint, 0);
