-- Fills in ROWS applied packages of 50 services with report, attestation and both receipts. Links come in the order in which a chain grows:
-- filled in kind by kind, every page keeps a hole that a smaller row fits into, and each submission writes one more cold
-- page. Their roots are made up: nothing that reads chains may read services of these names.
create temporary table fill as
    select n, md5('package' || n)::uuid as package, md5('report' || n)::uuid as report, 'stored-' || n % 50 as service,
        now() - interval '1 day' + n * interval '10 milliseconds' as at, md5(n::text) || md5('x' || n) as hash
    from generate_series(1, ROWS) as n;
insert into packages (id, service_id, status, created_at, created_by, fingerprint, receipt_seq, body)
    select package, service, 'applied', at, '0badcafe', decode(hash, 'hex'), 2 * n - 1,
        json_build_object('items', json_build_array(json_build_object('id', report, 'package_id', package,
            'kind', 'figure', 'params_hash', hash)), 'nonce', n::text) from fill order by n;
insert into reports (id, package_id, service_id, status, created_at, receipt_seq, body)
    select report, package, service, 'applied', at, 2 * n,
        json_build_object('refine_output_hash', hash, 'refine_output_compact', hash) from fill order by n;
insert into attestations (report_id, worker_id, weight, created_at, body)
    select report, 'local', 1, at, json_build_object('signature', hash, 'engine', 'hash-refiner') from fill order by n;
insert into receipts
        (service_id, seq, entry_type, hash, prev_root, new_root, metadata_hash, status, processed_at, extra)
    select service, 2 * n - 1 + k, entry, case k when 0 then package::text else hash end, decode(hash, 'hex'),
        decode(hash, 'hex'), decode(hash, 'hex'), status, at,
        case k when 1 then json_build_object('package_id', package, 'report_id', report) end
    from fill cross join (values (0, 'package', 'pending'), (1, 'report', 'applied')) as e(k, entry, status)
    order by n, k;
insert into accumulators (service_id, seq, root, updated_at)
    select service, 2 * ROWS, decode(min(hash), 'hex'), now() from fill group by service;
drop table fill;
analyze;
