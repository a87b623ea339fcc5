-- The rate limit of all servers together: one bucket for each key, advanced by leases (docs/adr/0027).
--
-- Unlogged: a lease costs no flush, and after a crash of the database every server brings along what it spent itself.

create unlogged table rate_limits (
    key text collate "C" primary key,
    -- Until when the bucket is filled, and the length of the last lease; microseconds, since 1970 and alone.
    filled_until bigint not null,
    granted bigint not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- Buckets that an administrator emptied: every server drops what it holds of them.
create unlogged table rate_limit_resets (
    id bigint generated always as identity primary key,
    key text collate "C" not null,
    at timestamptz not null default now()
);

insert into schema_serves (schema, oldest) values (5, 2);
