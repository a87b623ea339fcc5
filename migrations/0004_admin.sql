-- The admin plane: what administrators did, and what they set at run time.
--
-- Expand only: tables that no earlier release knows, and two indexes. The release before this one neither writes here nor
-- heeds what is set here; for as long as its pods run, so does what they were started with.

-- Who did what, how it was before and how it is after; written in the transaction of the effect, and never deleted.
create table audit (
    id bigint primary key,
    at timestamptz not null,
    token_id text collate "C" not null,
    action text collate "C" not null,
    target text collate "C" not null,
    before json not null,
    after json not null
);

-- What is set at run time: overrides of settings, quotas of services, delegates of services.
create table controls (
    kind text collate "C" not null
        constraint controls_kind_known check (kind in ('override', 'quota', 'delegate')),
    name text collate "C" not null,
    value json not null,
    set_at timestamptz not null,
    set_by text collate "C" not null,
    primary key (kind, name)
);

-- Counts the changes of `controls`: every replica looks at this one row twice a second.
create table controls_version (
    one boolean primary key default true constraint controls_version_one_row check (one),
    version bigint not null
);
insert into controls_version (version) values (0);

-- Archived reports are listed for administrators.
create index archived_reports_by_status on archived_reports (status, created_at, id);
create index archived_reports_by_service on archived_reports (service_id, status, created_at, id);

insert into schema_serves (schema, oldest) values (4, 2);
