-- There is no default partition any more. What is in it moves to its day, a day at a time; rows of days that are more
-- than 400 days away from today are no facts of ours (a broken clock, a forged id): they are kept apart, in tables
-- named `…_stray`, for a person to look at.

DO $$
DECLARE
    today bigint := extract(epoch FROM now())::bigint / 86400;
    parent text;
    wanted bigint;
    left_over boolean;
BEGIN
    FOR wanted IN
        SELECT DISTINCT dated FROM (
            SELECT minute_of(id) / 1440 AS dated FROM notification_default
            UNION ALL
            SELECT minute_of(id) / 1440 FROM event_default
        ) AS days WHERE dated BETWEEN today - 400 AND today + 7 ORDER BY dated
    LOOP
        PERFORM ensure_partitions(wanted, 1);
    END LOOP;
    FOREACH parent IN ARRAY ARRAY['notification', 'event'] LOOP
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, parent || '_default');
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', parent || '_default') INTO left_over;
        IF left_over THEN
            EXECUTE format('ALTER TABLE %I RENAME TO %I', parent || '_default', parent || '_stray');
        ELSE
            EXECUTE format('DROP TABLE %I', parent || '_default');
        END IF;
    END LOOP;
END
$$;

-- What old code wrote since the first half is neither noted as a letter nor marked.
SELECT note_all_letters();
UPDATE day SET dirty = true;

DROP FUNCTION note_all_letters();
DROP FUNCTION furthest_facts(uuid, bytea, integer);
DROP INDEX event_letter;
DROP INDEX event_carried_id_rank_step_idx;

CREATE OR REPLACE FUNCTION ensure_partitions(first_day bigint, days integer) RETURNS integer
    LANGUAGE plpgsql
    SET lock_timeout = '5s'
    AS $$
DECLARE
    parent text;
    part text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7166200103);
    FOR wanted IN first_day::integer .. first_day::integer + days - 1 LOOP
        CONTINUE WHEN EXISTS (SELECT FROM day WHERE number = wanted AND state <> 'open');
        FOREACH parent IN ARRAY ARRAY['notification', 'event', 'letter'] LOOP
            part := parent || '_' || to_char(date '1970-01-01' + wanted, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(part) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent);
            EXECUTE format(
                'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                parent, part, first_id(wanted::bigint * 86400000), first_id((wanted + 1)::bigint * 86400000)
            );
            made := made + 1;
        END LOOP;
        INSERT INTO day (number, state) VALUES (wanted, 'open') ON CONFLICT (number) DO NOTHING;
    END LOOP;
    RETURN made;
END
$$;
