-- A token that may see a few services only lists their receipts by time: without this, the list walks over everybody else's.
create index receipts_of_service_by_time on receipts (service_id, processed_at, seq);
