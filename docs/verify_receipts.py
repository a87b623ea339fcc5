#!/usr/bin/env python3
"""Verifies a JAM receipt chain with Python's standard library alone; shares no code with the server (docs/receipts.md).

  verify_receipts.py [FILE...]                    pages of /jam/receipts?service_id=S&order=asc, in order; - or none: stdin
  verify_receipts.py --url URL --service S        reads the pages itself; the token is in --token-file or in JAM_TOKEN
  verify_receipts.py --vectors docs/receipts.md   recomputes the published vectors

Exit code: 0 the chain is whole, 1 it is broken (where is printed), 2 it could not be checked.
"""

import argparse
import base64
import datetime
import hashlib
import json
import math
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

DOMAIN = "jam-receipt-v1"
TEXTS = ("hash", "service_id", "entry_type", "prev_root", "new_root", "status", "processed_at", "metadata_hash")
# The shortest time that a package is kept, and how far clocks may be apart, in seconds.
KEPT, CLOCKS = 86_400, 60


class Broken(Exception):
    """The chain is not what it claims to be."""


class Unchecked(Exception):
    """It could not be checked: bad usage, unreadable input, no answer."""

    def __init__(self, problem, status=None, said=None, wait=0):
        super().__init__(problem)
        # Of a server that answered: its status, the JSON that it sent, and for how many seconds it wants to be left alone.
        self.status, self.said, self.wait = status, said or {}, wait


def hashed_bytes(receipt):
    """The eight fields as text, each after its length in bytes as a 4-byte big-endian number."""
    fields = (
        DOMAIN,
        receipt["prev_root"],
        receipt["entry_type"],
        receipt["hash"],
        receipt["metadata_hash"],
        receipt["status"],
        str(receipt["seq"]),
        receipt["processed_at"],
    )
    return parts(fields)


def parts(fields):
    encoded = (field.encode("utf-8") for field in fields)
    return b"".join(len(field).to_bytes(4, "big") + field for field in encoded)


def signed_bytes(report, word):
    """What the worker in the server signs of its word for a report."""
    report_hash = metadata_hash_of({**report, "status": "refined"})
    texts = (word[name] for name in ("created_at", "engine", "engine_version"))
    return parts(("jam-attestation-v2", report_hash, word["worker_id"], str(word["weight"]), *texts))


def root_of(receipt):
    return hashlib.sha256(hashed_bytes(receipt)).hexdigest()


def metadata_hash_of(record):
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def moment(text):
    """A time as seconds since 1970; of what is none, what is neither before nor after anything."""
    try:
        at = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")
    except (TypeError, ValueError):
        return math.nan
    return at.replace(tzinfo=datetime.timezone.utc).timestamp()


class Chain:
    """The part of a chain that was checked so far."""

    def __init__(self, service, hash_is_known=False):
        self.service, self.seq, self.root, self.hash_is_known = service, 0, "", hash_is_known

    def append(self, receipt):
        if not isinstance(receipt, dict):
            raise Broken(f"after seq {self.seq}: a receipt is not an object")
        seq = receipt.get("seq")
        if type(seq) is not int or not all(isinstance(receipt.get(name), str) for name in TEXTS):
            raise Broken(f"after seq {self.seq}: a receipt lacks a field, or one has another type")
        if self.service is None:
            self.service = receipt["service_id"]
        if receipt["service_id"] != self.service:
            raise Broken(f"seq {seq}: belongs to service {receipt['service_id']}")
        if seq != self.seq + 1:
            raise Broken(f"seq {seq} where {self.seq + 1} belongs")
        if receipt["prev_root"] != self.root:
            raise Broken(f"seq {seq}: prev_root is not the new_root of seq {seq - 1}")
        if receipt["new_root"] != root_of(receipt):
            # A receipt does not say how it was hashed; the first root that fits does.
            if self.seq == 0 and not self.hash_is_known:
                raise Unchecked(
                    f"seq {seq}: new_root is not the sha256 of the fields: one of them was changed, "
                    "or the chain is blake3-256: see accumulator_hash of /jam/status"
                )
            raise Broken(f"seq {seq}: new_root does not follow from the stored fields: one of them was changed")
        self.seq, self.root = seq, receipt["new_root"]

    def reaches(self, seq, root):
        """Compares the head that the caller knows: a chain that was cut or rewritten as a whole is found by it."""
        if seq is not None and self.seq < seq:
            raise Broken(f"the receipts end at seq {self.seq}, the root is at seq {seq}")
        if root is not None and self.seq == seq and self.root != root:
            raise Broken(f"seq {seq}: the root is {root}, the receipts give {self.root}")


def documents(text, name):
    """Every JSON document in the text: pages may simply be written one after the other."""
    decoder, place = json.JSONDecoder(), 0
    while True:
        place = re.compile(r"\s*").match(text, place).end()
        if place == len(text):
            return
        try:
            document, place = decoder.raw_decode(text, place)
        except ValueError as error:
            raise Unchecked(f"{name}: not JSON: {error}") from error
        yield document


def items_of(page, name):
    """A page is an envelope with `items`, or the bare array of legacy_list_response."""
    items = page.get("items") if isinstance(page, dict) else page
    if not isinstance(items, list):
        raise Unchecked(f"{name}: neither a list of receipts nor an object with items")
    return items


def verify_files(names, chain, head_seq, head_root):
    for name in names or ["-"]:
        try:
            with sys.stdin if name == "-" else open(name, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise Unchecked(f"{name}: {error}") from error
        for page in documents(text, name):
            for receipt in items_of(page, name):
                chain.append(receipt)
                if chain.seq == head_seq:
                    chain.reaches(head_seq, head_root)
    if chain.seq == 0:
        raise Unchecked("there are no receipts in the input")
    chain.reaches(chain.seq if head_seq is None else head_seq, head_root)


class Api:
    """A server, asked with GET only."""

    # How often a server that turns us away is asked again, and how many seconds are waited at most each time.
    TURNS, PATIENCE = 8, 60

    def __init__(self, address, token):
        self.address, self.token = address.rstrip("/"), token

    def get(self, path, **query):
        """The answer; 429 and 503 are waited out as long as Retry-After says."""
        for _ in range(self.TURNS):
            try:
                return self.ask(path, query)
            except Unchecked as problem:
                if problem.status not in (429, 503):
                    raise
                time.sleep(min(problem.wait, self.PATIENCE))
        return self.ask(path, query)

    def ask(self, path, query):
        wanted = {name: value for name, value in query.items() if value is not None}
        request = urllib.request.Request(f"{self.address}{path}?{urllib.parse.urlencode(wanted)}")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise refused(path, error) from error
        except (OSError, ValueError) as error:
            raise Unchecked(f"GET {path}: {error}") from error


def refused(path, error):
    body = error.read(65536).decode("utf-8", "replace")
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    after = error.headers.get("Retry-After", "")
    # 0 is no wait: a server that says so turns us away in all our turns within a moment.
    wait = max(1, int(after)) if after.isdecimal() else 1
    return Unchecked(f"GET {path}: {error.code} {body[:400]}", error.code, said if isinstance(said, dict) else None, wait)


class Records:
    """The packages and reports behind a chain, as far as they are still there."""

    def __init__(self, api):
        self.api, self.gone, self.applied, self.lost = api, 0, set(), {}

    def check(self, receipt):
        try:
            self.compare(receipt)
        except Unchecked as problem:
            if problem.status == 404 and problem.said.get("code") == "jam_not_found":
                self.gone += 1
                self.lost[receipt["metadata_hash"]] = receipt["seq"]
            elif problem.status == 500:
                raise Broken(f"seq {receipt['seq']}: its record can't be read: {problem}") from problem
            else:
                raise

    def compare(self, receipt):
        """Recomputes metadata_hash from the record itself; `extra` is not hashed, but must lead to that record."""
        seq, report = receipt["seq"], receipt["entry_type"] == "report"
        if report and (not isinstance(receipt.get("extra"), dict) or set(receipt["extra"]) != {"package_id", "report_id"}):
            raise Broken(f"seq {seq}: extra is not {{package_id, report_id}}")
        package_id = receipt["extra"]["package_id"] if report else receipt["hash"]
        path = f"/jam/packages/{urllib.parse.quote(str(package_id), safe='')}"
        self.applied.discard(path)
        found = self.report(path) if report else self.api.get(path)
        if not report and found["status"] == "applied":
            self.applied.add(path)
        # A package is hashed as it was accepted, a report as it was accumulated.
        whole = found and metadata_hash_of({**found, "status": receipt["status"]}) == receipt["metadata_hash"]
        if not whole and self.used_again(path, receipt, found):
            self.gone += 1
            if report:
                self.lost[receipt["metadata_hash"]] = seq
            return
        if not found:
            raise Broken(f"seq {seq}: package {package_id} is there, and its report is not")
        if not whole:
            raise Broken(f"seq {seq}: metadata_hash is not the hash of {path}{'/report' if report else ''}")
        if report and found["status"] != receipt["status"]:
            raise Broken(f"seq {seq}: report {found['id']} is {found['status']}, its receipt says {receipt['status']}")
        if report and (receipt["extra"].get("report_id"), receipt["hash"]) != (found["id"], found["refine_output_hash"]):
            raise Broken(f"seq {seq}: extra or hash names another report than {found['id']}")

    def report(self, path):
        """The report; nothing where its package is there without one."""
        try:
            return self.api.get(f"{path}/report")["report"]
        except Unchecked as problem:
            if (problem.said.get("details") or {}).get("status"):
                return None
            raise

    def end(self):
        """A report that seems to be gone may be another package's than `extra` says."""
        for path in self.applied if self.lost else ():
            found = self.report(path)
            seq = found and self.lost.get(metadata_hash_of(found))
            if seq:
                raise Broken(f"seq {seq}: extra does not name {path}, whose report this is")

    def used_again(self, path, receipt, found):
        """Whether the id was given to another package once the record of this receipt was deleted (docs/receipts.md)."""
        bundle = self.api.get(path, include_receipt="true")
        package, own = bundle["package"], bundle.get("receipt") or {}
        ours = own.get("service_id") == receipt["service_id"] and own.get("seq")
        if ours and (ours <= receipt["seq"] or own.get("hash") != package["id"]):
            return False
        # Times have one form, and sort as text.
        if package["created_at"] <= receipt["processed_at"]:
            return False
        of_report = receipt["entry_type"] == "report"
        # A changed one has kept its id.
        if of_report and found and found["id"] == receipt["extra"].get("report_id"):
            return False
        if ours:
            return True
        created, earliest = moment(package["created_at"]), moment(receipt["processed_at"])
        # A report may come long after its package, and go at once: nothing but the order is known.
        if not of_report:
            earliest += KEPT - CLOCKS
        if not earliest <= created <= time.time() + CLOCKS:
            return False
        # Reports leave together with their packages: where an older one is there, its package can't have been deleted.
        report = self.report(path)
        return not report or created <= moment(report["created_at"]) + CLOCKS


def verify_url(api, chain, records):
    status, behind = api.get("/jam/status", service_id=chain.service), Records(api)
    if status.get("accumulator_hash") != "sha256":
        raise Unchecked(f"accumulator_hash is {status.get('accumulator_hash')}: this program computes sha256 only")
    chain.hash_is_known = True
    head, cursor, offset = status.get("accumulator_root"), None, 0
    if not head:
        found = items_of(api.get("/jam/receipts", service_id=chain.service, limit=1), "/jam/receipts")
        # The first one may have come between the two questions.
        head = found and api.get("/jam/status", service_id=chain.service).get("accumulator_root")
        if not found:
            raise Unchecked(f"service {chain.service} has no receipts")
        if not head:
            raise Broken(f"the head is missing: the server has a receipt with seq {found[0].get('seq')} and no root of the chain")
    while True:
        start = {"cursor": cursor} if cursor else {"offset": offset}
        page = api.get("/jam/receipts", service_id=chain.service, order="asc", limit=200, **start)
        items = items_of(page, "/jam/receipts")
        for receipt in items:
            chain.append(receipt)
            if chain.seq == head["seq"]:
                chain.reaches(head["seq"], head["root"])
            if records:
                behind.check(receipt)
        offset += len(items)
        cursor = page.get("next_cursor") if isinstance(page, dict) else None
        # A bare array does not say whether more follow: only an empty one is surely the end.
        if not items or (isinstance(page, dict) and not cursor):
            break
    chain.reaches(head["seq"], head["root"])
    behind.end()
    return behind.gone


def verify_vectors(name):
    """Recomputes every published vector whose hash the standard library has."""
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read()
        vectors, attestations = (
            json.loads(re.search(rf"^```json {kind}\n(.*?)^```$", text, re.M | re.S).group(1))
            for kind in ("vectors", "attestations")
        )
    except (OSError, ValueError, AttributeError) as error:
        raise Unchecked(f"{name}: no vectors: {error}") from error
    checked = 0
    for vector in vectors:
        receipt, said = vector["receipt"], vector["name"]
        if hashed_bytes(receipt).hex() != vector["bytes"]:
            raise Broken(f"vector {said}: the bytes differ")
        if vector["accumulator_hash"] != "sha256":
            continue
        if root_of(receipt) != receipt["new_root"]:
            raise Broken(f"vector {said}: the root differs")
        if "record" in vector and metadata_hash_of(vector["record"]) != receipt["metadata_hash"]:
            raise Broken(f"vector {said}: the metadata_hash differs")
        checked += 1
    for vector in attestations:
        signed, word = signed_bytes(vector["report"], vector["attestation"]), vector["attestation"]
        if vector["accumulator_hash"] == "sha256" and signed.hex() != vector["bytes"]:
            raise Broken(f"attestation of {word['worker_id']}: the bytes differ")
        if vector["accumulator_hash"] == "sha256" and base64.b64encode(hashlib.sha256(signed).digest()).decode() != word["signature"]:
            raise Broken(f"attestation of {word['worker_id']}: the signature differs")
    print(f"{len(vectors)} vectors have the documented bytes, {checked} of them sha256 with the documented root")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--service", help="whose chain it must be; from files by default that of the first receipt")
    parser.add_argument("--seq", type=int, help="the seq that the chain must reach at least")
    parser.add_argument("--root", help="the root that the chain must have at --seq, or at its end")
    parser.add_argument("--url", help="a server, e.g. http://localhost:8080")
    parser.add_argument("--token-file", help="a file with the bearer token; else the variable JAM_TOKEN")
    parser.add_argument("--records", action="store_true", help="with --url: also fetch every package and report")
    parser.add_argument("--vectors", metavar="PAGE", help="recompute the vectors of this page")
    given = parser.parse_args()
    if given.url and (given.files or not given.service):
        parser.error("--url needs --service and takes no files")
    if given.records and not given.url:
        parser.error("--records needs --url")
    return given


def token_of(given):
    if not given.token_file:
        return os.environ.get("JAM_TOKEN", "")
    try:
        with open(given.token_file, encoding="utf-8") as file:
            return file.read().strip()
    except OSError as error:
        raise Unchecked(f"{given.token_file}: {error}") from error


def main():
    given = arguments()
    chain, gone = Chain(given.service), 0
    try:
        if given.vectors:
            verify_vectors(given.vectors)
            return 0
        if given.url:
            gone = verify_url(Api(given.url, token_of(given)), chain, given.records)
        else:
            verify_files(given.files, chain, given.seq, given.root)
    except Broken as problem:
        print(f"the chain of service {chain.service} is broken: {problem}", file=sys.stderr)
        print(f"{chain.seq} receipts verified up to the break", file=sys.stderr)
        return 1
    except Unchecked as problem:
        print(f"can't check: {problem}", file=sys.stderr)
        return 2
    print(f"service {chain.service}: {chain.seq} receipts verified, root {chain.root} (sha256)")
    if gone:
        print(f"{gone} records are gone: not compared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
