-- Events: what each transaction did, written by its own last statement (docs/adr/0028).
--
-- Expand only: no table that is there changes. What the release before this one does leaves no event.

create table events (
    -- The transaction's id, moved by `base`: readers go no further than the oldest transaction that is still under way, so
    -- that nothing ever appears behind them.
    step bigint primary key,
    at timestamptz not null default now(),
    body text not null
);
do $$
begin
    alter table events alter column body set compression lz4;
exception when feature_not_supported then
    null; -- a server built without lz4 compresses with its own method
end
$$;

create table event_log (
    one boolean primary key default true constraint event_log_one_row check (one),
    -- 0, until the tables are restored into a cluster whose transaction ids are behind theirs.
    base bigint not null,
    -- The last step that was deleted.
    forgotten bigint not null
);
insert into event_log (base, forgotten) values (0, 0);

insert into schema_serves (schema, oldest) values (6, 2);
