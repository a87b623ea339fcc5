-- Retention: finished packages move to tables of their own before they are deleted, with their reports.
--
-- Expand only: no column of schema 2 changes its meaning, so the release before this one keeps working. Because rows move,
-- its statements neither see what is archived nor scan past it.

-- A restored package stays for another retention period.
alter table packages add column restored_at timestamptz;

create table archived_packages (
    id uuid primary key,
    service_id text collate "C" not null,
    status text collate "C" not null
        constraint archived_packages_status_known check (status in ('disputed', 'applied')),
    created_at timestamptz not null,
    created_by text collate "C" not null,
    idempotency_key text collate "C",
    fingerprint bytea not null,
    receipt_seq bigint,
    body json not null,
    archived_at timestamptz not null
);
-- Not unique: the release before this one does not look here when it accepts a key.
create index archived_packages_by_key on archived_packages (created_by, idempotency_key) where idempotency_key is not null;
create index archived_packages_by_status on archived_packages (status, created_at, id);
create index archived_packages_by_service on archived_packages (service_id, status, created_at, id);
create index archived_packages_by_age on archived_packages (archived_at, id);

create table archived_reports (
    id uuid primary key,
    package_id uuid not null constraint archived_reports_one_per_package unique,
    service_id text collate "C" not null,
    status text collate "C" not null
        constraint archived_reports_status_known check (status in ('disputed', 'applied')),
    created_at timestamptz not null,
    receipt_seq bigint,
    body json not null
);

-- The last cleanup, and the sums of all: one row.
create table cleanups (
    one boolean primary key default true constraint cleanups_one_row check (one),
    started_at timestamptz not null,
    finished_at timestamptz not null,
    cutoff timestamptz,
    error text,
    succeeded_at timestamptz,
    archived_packages bigint not null,
    archived_reports bigint not null,
    deleted_packages bigint not null,
    deleted_reports bigint not null,
    deleted_preimages bigint not null,
    runs_succeeded bigint not null,
    runs_failed bigint not null,
    all_deleted_packages bigint not null,
    all_deleted_reports bigint not null,
    all_deleted_preimages bigint not null
);

-- For each schema that serves releases older than itself, the schema of the oldest of them (docs/adr/0014).
create table schema_serves (
    schema bigint primary key,
    oldest bigint not null
);
insert into schema_serves (schema, oldest) values (3, 2);
