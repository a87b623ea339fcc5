-- The blob store: bytes of preimages in objects outside of the database (docs/adr/0030).
--
-- Expand only. The release before this one keeps its bytes in the database; it can't read what is outside of it.

-- Objects that no preimage has: on their way to one, or to be removed. A line is written before its object, and goes in the
-- transaction that makes the object a preimage's: what is left of a killed server is found here.
create table objects_in_doubt (
    blob uuid primary key,
    storage_class text not null,
    -- The multipart upload that brings the bytes, where there is one: parts of it are no object yet.
    upload text,
    -- Nothing may make it a preimage's any more.
    doomed boolean not null default false,
    touched_at timestamptz not null default now()
);

-- Whatever deletes a record, a release that knows nothing of objects or a hand, its object is not forgotten.
create function doubt_object() returns trigger language plpgsql as $$
begin
    insert into objects_in_doubt (blob, storage_class, doomed, touched_at)
    values (old.blob, old.storage_class, true, '-infinity') on conflict (blob) do nothing;
    return null;
end
$$;
create trigger preimages_leave_no_object after delete on preimages
    for each row when (old.storage_class <> 'database') execute function doubt_object();

insert into schema_serves (schema, oldest) values (7, 2);
