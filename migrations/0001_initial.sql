-- The first schema: packages, reports, attestations, receipts, chains, preimages.
--
-- Text that is compared or sorted has the collation "C": byte order, as in the memory store, whatever the database's locale.
-- Bodies are json, not jsonb: what was hashed comes back byte for byte.
-- No foreign keys: the tables are written in one transaction each, and key triggers plan on empty tables and stay slow.

create table packages (
    id uuid primary key,
    service_id text collate "C" not null,
    status text collate "C" not null
        constraint packages_status_known check (status in ('pending', 'refined', 'disputed', 'applied')),
    created_at timestamptz not null,
    created_by text collate "C" not null,
    idempotency_key text collate "C",
    fingerprint bytea not null,
    receipt_seq bigint,
    body json not null
);
create unique index packages_idempotency_key on packages (created_by, idempotency_key) where idempotency_key is not null;
-- Lists without a status merge the four lists with one: two indexes less to write for every package.
create index packages_by_status on packages (status, created_at, id);
create index packages_by_service on packages (service_id, status, created_at, id);

create table disputes (
    package_id uuid primary key,
    reason text not null,
    created_at timestamptz not null
);

create table reports (
    id uuid primary key,
    package_id uuid not null constraint reports_one_per_package unique,
    service_id text collate "C" not null,
    status text collate "C" not null
        constraint reports_status_known check (status in ('pending', 'refined', 'disputed', 'applied')),
    created_at timestamptz not null,
    receipt_seq bigint,
    body json not null
);
create index reports_by_status on reports (status, created_at, id);
create index reports_by_service on reports (service_id, status, created_at, id);

create table attestations (
    report_id uuid not null,
    worker_id text collate "C" not null,
    ordinal bigint generated always as identity,
    weight bigint not null,
    created_at timestamptz not null,
    body json not null,
    constraint attestations_once_per_worker primary key (report_id, worker_id)
);

-- The head of each chain; whoever appends locks it first, services in order.
create table accumulators (
    service_id text collate "C" primary key,
    seq bigint not null,
    root bytea not null,
    updated_at timestamptz not null
) with (fillfactor = 50);

create table receipts (
    service_id text collate "C" not null,
    seq bigint not null,
    entry_type text collate "C" not null,
    hash text collate "C" not null,
    prev_root bytea not null,
    new_root bytea not null,
    metadata_hash bytea not null,
    status text collate "C" not null,
    processed_at timestamptz not null,
    extra json,
    constraint receipts_no_fork primary key (service_id, seq)
);
create index receipts_by_time on receipts (processed_at, service_id, seq);
create index receipts_by_hash on receipts (hash, processed_at, service_id, seq);

create table preimages (
    hash bytea primary key,
    blob uuid not null,
    size bigint not null,
    media_type text not null,
    created_at timestamptz not null,
    uploader text not null,
    storage_class text not null,
    refcount bigint not null default 0 constraint preimages_refcount_not_negative check (refcount >= 0)
) with (fillfactor = 80);

-- The bytes of a blob, keyed by where in the blob they start; staged under the same key while the upload lasts.
create table blob_chunks (
    blob uuid not null,
    start bigint not null,
    bytes bytea not null,
    primary key (blob, start)
);
do $$
begin
    alter table blob_chunks alter column bytes set compression lz4;
exception when feature_not_supported then
    null; -- a server built without lz4 compresses with its own method
end
$$;

-- Uploads that are under way: what is left of a killed server is found here.
create table uploads (
    blob uuid primary key,
    touched_at timestamptz not null default now()
);
