//! Acceptance of packages, many in one transaction: decided in memory from what was read under the lock, then written whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jam_domain::digest::HashAlgorithm;
use jam_domain::receipt::Entry;
use jam_domain::refine::Engine;
use jam_domain::submission::passed_expiry;
use jam_domain::{PreimageHash, Receipt, ServiceId, TokenId, WorkPackage};
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use super::error::Failure;
use super::packages::{self, Existing};
use super::pool::{Begin, begin};
use super::{preimages, receipts};
use crate::work::{field_of, preimages_of};
use crate::{NewPackage, SubmitError, Submitted};

/// A submission with everything that can be made of it before its turn comes, so that a turn is short.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) new: NewPackage,
    body: String,
    /// The entry of the package's receipt; `None` when receipts are not kept.
    entry: Option<(HashAlgorithm, Entry)>,
}

impl Candidate {
    pub(super) fn of(new: NewPackage, engine: &Engine) -> Result<Self, Failure> {
        let body = packages::body_of(&new.package)?;
        let algorithm = engine.algorithm;
        let entry = engine.receipts.then(|| (algorithm, Entry::of_package(algorithm, &new.package)));
        Ok(Self { new, body, entry })
    }

    /// About how many bytes it adds to a batch.
    pub(super) fn weight(&self) -> usize {
        self.body.len()
    }
}

/// What becomes of one candidate.
type Verdict = Result<Submitted, SubmitError>;

/// Decides and stores one batch in one transaction. With `repeated`, the batch may have been committed before without our
/// knowing, because the connection broke: then packages with a server's id are found by it, too.
pub(super) async fn submit(pool: &PgPool, batch: &[Candidate], repeated: bool) -> Result<Vec<Verdict>, Failure> {
    let mut transaction = begin(pool, Begin::Submit).await?;
    let mut desk = Desk::open(&mut transaction, batch, repeated).await?;
    let mut verdicts: Vec<Verdict> = batch.iter().map(|candidate| desk.judge(candidate)).collect();
    let accepted: Vec<usize> = (0..batch.len()).filter(|at| desk.accepted.contains(at)).collect();
    if accepted.is_empty() && desk.kept.is_empty() {
        transaction.rollback().await?;
        return Ok(verdicts);
    }
    let made = store(&mut transaction, batch, &accepted, &desk.references).await?;
    packages::keep_keys(&mut transaction, &desk.kept).await?;
    transaction.commit().await?;
    attach(&mut verdicts, batch, &made);
    Ok(verdicts)
}

/// Writes the accepted packages with their receipts, which it returns by place in the batch.
async fn store(
    transaction: &mut PgConnection,
    batch: &[Candidate],
    accepted: &[usize],
    references: &BTreeMap<PreimageHash, u64>,
) -> Result<HashMap<usize, Receipt>, Failure> {
    if accepted.is_empty() {
        return Ok(HashMap::new());
    }
    preimages::refer(transaction, references).await?;
    let made = append(transaction, batch, accepted).await?;
    let row = |at: &usize| {
        let Candidate { new, body, entry: _ } = &batch[*at];
        packages::NewRow { new, body, receipt: made.get(at).map(|receipt| receipt.seq) }
    };
    let rows: Vec<packages::NewRow<'_>> = accepted.iter().map(row).collect();
    packages::insert(transaction, &rows).await?;
    Ok(made)
}

/// What is known while the candidates of one batch are judged one after the other.
struct Desk {
    by_id: HashMap<Uuid, Stored>,
    by_key: HashMap<(TokenId, String), Uuid>,
    known: BTreeSet<PreimageHash>,
    pending: u64,
    pending_of: HashMap<ServiceId, u64>,
    references: BTreeMap<PreimageHash, u64>,
    accepted: BTreeSet<usize>,
    /// Keys under which packages that had none were sent again.
    kept: Vec<(Uuid, String)>,
    judged: usize,
    repeated: bool,
}

/// A package that is there already, or accepted earlier in this batch.
struct Stored {
    package: WorkPackage,
    fingerprint: Vec<u8>,
    has_key: bool,
    receipt: Option<Receipt>,
}

impl Desk {
    async fn open(connection: &mut PgConnection, batch: &[Candidate], repeated: bool) -> Result<Self, Failure> {
        let (mut ids, mut keys, mut hashes) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut service_caps: BTreeMap<&ServiceId, u32> = BTreeMap::new();
        for Candidate { new, .. } in batch {
            if new.id_from_client || repeated {
                ids.push(new.package.id.0);
            }
            keys.extend(new.idempotency_key.as_deref().map(|key| (new.package.created_by.as_str(), key)));
            hashes.extend(preimages_of(&new.package));
            let cap = service_caps.entry(&new.package.service_id).or_default();
            *cap = (*cap).max(new.service_pending_cap);
        }
        let mut desk = Self {
            by_id: HashMap::new(),
            by_key: HashMap::new(),
            known: preimages::hold(connection, &hashes).await?,
            pending: 0,
            pending_of: HashMap::new(),
            references: BTreeMap::new(),
            accepted: BTreeSet::new(),
            kept: Vec::new(),
            judged: 0,
            repeated,
        };
        for existing in packages::existing(connection, &ids, &keys).await? {
            desk.remember(existing);
        }
        // The highest cap of the batch decides how far to count: a count that stops there has reached every lower cap.
        let cap = batch.iter().map(|candidate| candidate.new.pending_cap).max().unwrap_or_default();
        if cap > 0 {
            desk.pending = packages::pending_up_to(connection, cap, None).await?;
        }
        for (service, cap) in service_caps.into_iter().filter(|(_, cap)| *cap > 0) {
            let count = packages::pending_up_to(connection, cap, Some(service.as_str())).await?;
            desk.pending_of.insert(service.clone(), count);
        }
        Ok(desk)
    }

    fn remember(&mut self, existing: Existing) {
        let Existing { package, fingerprint, idempotency_key, receipt } = existing;
        let has_key = idempotency_key.is_some();
        if let Some(key) = idempotency_key {
            self.by_key.insert((package.created_by.clone(), key), package.id.0);
        }
        self.by_id.insert(package.id.0, Stored { package, fingerprint, has_key, receipt });
    }

    /// The checks in the order of their answers: replay, expiry, preimages, the instance's cap, the service's cap.
    fn judge(&mut self, candidate: &Candidate) -> Verdict {
        let Candidate { new, .. } = candidate;
        let at = self.judged;
        self.judged += 1;
        if let Some(replay) = self.replay(new)? {
            self.keep_key(new, replay.package.id.0);
            return Ok(replay);
        }
        if let Some(expiry) = passed_expiry(&new.package) {
            return Err(SubmitError::Expired(expiry));
        }
        let hashes = preimages_of(&new.package);
        if let Some(unknown) = hashes.iter().find(|hash| !self.known.contains(*hash)) {
            let field = field_of(&new.package, unknown);
            return Err(SubmitError::UnknownPreimage { hash: *unknown, field });
        }
        let service = &new.package.service_id;
        if new.pending_cap > 0 && self.pending >= u64::from(new.pending_cap) {
            return Err(SubmitError::PendingLimit { cap: new.pending_cap, service: None });
        }
        let of_service = self.pending_of.entry(service.clone()).or_default();
        if new.service_pending_cap > 0 && *of_service >= u64::from(new.service_pending_cap) {
            return Err(SubmitError::PendingLimit { cap: new.service_pending_cap, service: Some(service.clone()) });
        }
        *of_service += 1;
        self.pending += 1;
        for hash in hashes {
            *self.references.entry(hash).or_default() += 1;
        }
        self.accepted.insert(at);
        self.remember(Existing {
            package: new.package.clone(),
            fingerprint: new.fingerprint.to_vec(),
            idempotency_key: new.idempotency_key.clone(),
            receipt: None,
        });
        Ok(Submitted { package: new.package.clone(), receipt: None, replayed: false })
    }

    /// A key that was answered by the id of the package stands for it from now on, as if it had come the first time.
    fn keep_key(&mut self, new: &NewPackage, id: Uuid) {
        let (Some(key), Some(stored)) = (&new.idempotency_key, self.by_id.get_mut(&id)) else { return };
        if stored.has_key || stored.package.created_by != new.package.created_by {
            return;
        }
        stored.has_key = true;
        self.by_key.insert((new.package.created_by.clone(), key.clone()), id);
        self.kept.push((id, key.clone()));
    }

    fn replay(&self, new: &NewPackage) -> Result<Option<Submitted>, SubmitError> {
        let key = new.idempotency_key.as_ref().map(|key| (new.package.created_by.clone(), key.clone()));
        let by_key = key.and_then(|key| self.by_key.get(&key)).and_then(|id| self.by_id.get(id));
        let by_id = self.by_id.get(&new.package.id.0).filter(|_| new.id_from_client || self.repeated);
        let (stored, what) = match (by_key, by_id) {
            (Some(stored), _) => (stored, "Idempotency-Key"),
            (None, Some(stored)) => (stored, "id"),
            (None, None) => return Ok(None),
        };
        let other_id = new.id_from_client && stored.package.id != new.package.id;
        if other_id || stored.fingerprint != new.fingerprint {
            return Err(SubmitError::Conflict { what });
        }
        // A package under the very id that this server made is this submission itself, stored by the first attempt.
        let own = stored.package.id == new.package.id && !new.id_from_client;
        Ok(Some(Submitted { package: stored.package.clone(), receipt: stored.receipt.clone(), replayed: !own }))
    }
}

/// Hangs the receipts of the accepted packages on their chains; returns them by place in the batch.
async fn append(
    connection: &mut PgConnection,
    batch: &[Candidate],
    accepted: &[usize],
) -> Result<HashMap<usize, Receipt>, Failure> {
    let entries = accepted.iter().filter_map(|at| batch[*at].entry.as_ref().map(|entry| (*at, entry)));
    let receipted: Vec<(usize, &(HashAlgorithm, Entry))> = entries.collect();
    let services: BTreeSet<&ServiceId> = receipted.iter().map(|(at, _)| &batch[*at].new.package.service_id).collect();
    if services.is_empty() {
        return Ok(HashMap::new());
    }
    let mut chains = receipts::lock_heads(connection, &services).await?;
    let mut made = Vec::with_capacity(receipted.len());
    for (at, (algorithm, entry)) in &receipted {
        let package = &batch[*at].new.package;
        let chain = chains.get_mut(&package.service_id).ok_or(Failure::Gone("a chain's head vanished"))?;
        made.push(chain.append(*algorithm, entry.clone(), package.created_at));
    }
    receipts::append(connection, &chains, &made).await?;
    Ok(receipted.into_iter().map(|(at, ..)| at).zip(made).collect())
}

/// Gives the answers their receipts: those of the batch, and replays of packages that the same batch accepted.
fn attach(verdicts: &mut [Verdict], batch: &[Candidate], made: &HashMap<usize, Receipt>) {
    let by_package: HashMap<Uuid, &Receipt> =
        made.iter().map(|(at, receipt)| (batch[*at].new.package.id.0, receipt)).collect();
    for submitted in verdicts.iter_mut().filter_map(|verdict| verdict.as_mut().ok()) {
        if submitted.receipt.is_none() {
            submitted.receipt = by_package.get(&submitted.package.id.0).map(|receipt| (*receipt).clone());
        }
    }
}
