//! What this process remembers of each instance between two reconciles: it saves reads, and losing it costs only reads.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jam_plan::{JamInstance, JamInstanceStatus, ObjectRef};
use tokio::time::Instant;

use super::backoff::{INSTANCE, Jitter};
use super::children::Mark;
use super::key::Key;

/// What was refused is asked again after this time, and only when there is a reason to look at all: rules may have changed.
const REFUSED_FOR: Duration = Duration::from_mins(5);
/// What nobody has changed for so long after it might have been made again is made again at once the next time.
const REMADE_FOR: Duration = Duration::from_mins(10);

/// Of every instance.
#[derive(Debug, Default)]
pub struct Memory(Mutex<HashMap<Key, Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    uid: String,
    /// Children that were as wanted, each with the hash of the wish and the mark of the object.
    proven: HashMap<ObjectRef, (String, Mark)>,
    /// What the API server refused of each child.
    refused: HashMap<ObjectRef, Refused>,
    /// Children that were removed to be made again: the pauses of each, and when it may be next.
    remade: HashMap<ObjectRef, (Jitter, Instant)>,
    /// The word for the content of the Secret of hashes that every pod has taken in, and how many pods said so.
    read: Option<(String, usize)>,
    published: Option<Published>,
}

/// A wish that the API server refused.
#[derive(Debug)]
struct Refused {
    /// The hash of the wish.
    hash: String,
    /// The object that was to be changed; none when it was to be made.
    uid: Option<String>,
    /// Its words.
    words: String,
    at: Instant,
}

/// The status as it was last written here.
#[derive(Debug, Clone)]
pub struct Published {
    /// The resourceVersion that the write made.
    pub version: u64,
    /// What was written.
    pub status: JamInstanceStatus,
    /// When.
    pub at: Instant,
}

impl Memory {
    /// Whether the child was proven to be as wanted in just this state.
    pub fn is_proven(&self, instance: &Key, object: &ObjectRef, hash: &str, mark: &Mark) -> bool {
        let proven = self.lock();
        let found = proven.get(instance).and_then(|remembered| remembered.proven.get(object));
        found.is_some_and(|(wish, state)| wish == hash && state == mark)
    }

    /// The child in this state is as wanted.
    pub fn prove(&self, instance: &Key, object: &ObjectRef, hash: &str, mark: Mark) {
        let mut all = self.lock();
        let remembered = all.entry(instance.clone()).or_default();
        remembered.refused.remove(object);
        remembered.proven.insert(object.clone(), (hash.to_owned(), mark));
    }

    /// The API server refused this wish, for the object of this uid or for a new one: it would again.
    pub fn refuse(&self, instance: &Key, object: &ObjectRef, hash: &str, uid: Option<&str>, words: String) {
        let refused = Refused { hash: hash.to_owned(), uid: uid.map(str::to_owned), words, at: Instant::now() };
        let mut all = self.lock();
        let remembered = &mut all.entry(instance.clone()).or_default().refused;
        remembered.retain(|_, refused| refused.at.elapsed() < REFUSED_FOR);
        remembered.insert(object.clone(), refused);
    }

    /// What the API server said to this very wish, not long ago. What it said of a change says nothing of a new object.
    pub fn refused(&self, instance: &Key, object: &ObjectRef, hash: &str, uid: Option<&str>) -> Option<String> {
        let all = self.lock();
        let Refused { hash: wish, uid: of, words, at } = all.get(instance)?.refused.get(object)?;
        (wish == hash && of.as_deref() == uid && at.elapsed() < REFUSED_FOR).then(|| words.clone())
    }

    /// Whether a child that somebody changed may be removed now, to be made again: the first time at once, and then ever less often.
    pub fn remake(&self, instance: &Key, object: &ObjectRef) -> bool {
        let now = Instant::now();
        let mut all = self.lock();
        let remade = &mut all.entry(instance.clone()).or_default().remade;
        remade.retain(|_, (_, next)| now < *next + REMADE_FOR);
        let (pauses, next) = remade.entry(object.clone()).or_insert_with(|| (Jitter::new(INSTANCE), now));
        let is_due = now >= *next;
        if is_due {
            *next = now + pauses.pause();
        }
        is_due
    }

    /// So many pods, which is all, have taken in this content of the Secret of hashes; those that come read it when they begin.
    pub fn read(&self, instance: &Key, word: String, pods: usize) {
        self.lock().entry(instance.clone()).or_default().read = Some((word, pods));
    }

    /// How many pods took it in, where all did. What was taken in before another content counts no longer.
    pub fn readers(&self, instance: &Key, word: &str) -> Option<usize> {
        let mut all = self.lock();
        let remembered = all.get_mut(instance)?;
        remembered.read = remembered.read.take().filter(|(read, _)| read == word);
        remembered.read.as_ref().map(|(_, pods)| *pods)
    }

    /// A child that was removed.
    pub fn drop_child(&self, instance: &Key, object: &ObjectRef) {
        if let Some(remembered) = self.lock().get_mut(instance) {
            remembered.proven.remove(object);
        }
    }

    /// The instance with the newest status known: our own last write may not have come back through the watch yet.
    pub fn freshest(&self, instance: &JamInstance) -> JamInstance {
        let mut newest = instance.clone();
        if let Some(published) = self.published(instance)
            && published.version >= version_of(instance.metadata.resource_version.as_deref())
        {
            newest.status = Some(published.status);
        }
        newest
    }

    /// What was last written for this very instance.
    pub fn published(&self, instance: &JamInstance) -> Option<Published> {
        let mut all = self.lock();
        let remembered = all.entry(Key::of(instance)).or_default();
        let uid = instance.metadata.uid.clone().unwrap_or_default();
        if remembered.uid != uid {
            // Another instance of the same name: nothing of the old one holds.
            *remembered = Remembered { uid, ..Remembered::default() };
        }
        remembered.published.clone()
    }

    /// A status was written.
    pub fn publish(&self, instance: &Key, version: Option<&str>, status: JamInstanceStatus) {
        let published = Published { version: version_of(version), status, at: Instant::now() };
        self.lock().entry(instance.clone()).or_default().published = Some(published);
    }

    /// The instance is gone.
    pub fn forget(&self, instance: &Key) {
        self.lock().remove(instance);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Remembered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A resourceVersion as a number that grows; 0 when it is none (then the watch's word counts).
fn version_of(version: Option<&str>) -> u64 {
    version.and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(uid: &str, version: &str) -> JamInstance {
        let mut instance = JamInstance::new("main", jam_plan::JamInstanceSpec::default());
        instance.metadata.namespace = Some("jam".into());
        instance.metadata.uid = Some(uid.into());
        instance.metadata.resource_version = Some(version.into());
        instance
    }

    #[test]
    fn our_own_last_write_counts_until_the_watch_is_newer() {
        let memory = Memory::default();
        memory.published(&instance("a", "5"));
        let status = JamInstanceStatus { observed_generation: Some(3), ..JamInstanceStatus::default() };
        memory.publish(&Key::new("jam", "main"), Some("7"), status.clone());
        assert_eq!(memory.freshest(&instance("a", "5")).status.as_ref(), Some(&status));
        assert_eq!(memory.freshest(&instance("a", "7")).status, Some(status), "also what the server left out of it");
        assert_eq!(memory.freshest(&instance("a", "8")).status, None, "somebody changed it since");
        assert_eq!(memory.freshest(&instance("b", "5")).status, None, "another instance of the same name");
    }

    #[tokio::test(start_paused = true)]
    async fn each_refused_child_is_remembered_as_the_object_that_it_was_until_it_is_written_or_rules_may_have_changed()
    {
        let (memory, key) = (Memory::default(), Key::new("jam", "main"));
        let [one, other] =
            [jam_plan::Kind::Service, jam_plan::Kind::Ingress].map(|kind| ObjectRef { kind, name: "main".into() });
        memory.refuse(&key, &one, "a", Some("uid"), "one".into());
        memory.refuse(&key, &other, "b", None, "other".into());
        assert_eq!(memory.refused(&key, &one, "a", Some("uid")).as_deref(), Some("one"));
        assert_eq!(memory.refused(&key, &other, "b", None).as_deref(), Some("other"));
        for uid in [None, Some("another")] {
            assert_eq!(memory.refused(&key, &one, "a", uid), None, "another object");
        }
        assert_eq!(memory.refused(&key, &one, "b", Some("uid")), None, "another wish");
        memory.prove(&key, &one, "a", Mark::of(&kube::core::ObjectMeta::default()));
        assert_eq!(memory.refused(&key, &one, "a", Some("uid")), None, "it was written");
        tokio::time::advance(REFUSED_FOR).await;
        assert_eq!(memory.refused(&key, &other, "b", None), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_changes_again_and_again_is_made_again_at_once_and_then_ever_less_often() {
        let (memory, key) = (Memory::default(), Key::new("jam", "main"));
        let [job, other] = ["a", "b"].map(|name| ObjectRef { kind: jam_plan::Kind::Job, name: name.into() });
        let mut times = 0;
        for _ in 0..36_000 {
            times += u32::from(memory.remake(&key, &job));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert!((12..200).contains(&times), "{times} times within an hour");
        assert!(memory.remake(&key, &other), "each has its own pauses");
        tokio::time::advance(INSTANCE.most + REMADE_FOR).await;
        assert!(memory.remake(&key, &job), "long ago");
        tokio::time::advance(INSTANCE.least * 3).await;
        assert!(memory.remake(&key, &job), "from the least pause again");
    }
}
