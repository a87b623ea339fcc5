//! Events: what happened, in the order in which it became visible to everybody, each with an id that readers resume at.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::EntryType;
use crate::{PackageId, ReportId, ServiceId, Timestamp};

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EventType {
    /// A package was accepted.
    #[serde(rename = "package.submitted")]
    PackageSubmitted,
    /// A package was refined: it has a report.
    #[serde(rename = "package.refined")]
    PackageRefined,
    /// A package can't be refined.
    #[serde(rename = "package.disputed")]
    PackageDisputed,
    /// A package's report was accumulated.
    #[serde(rename = "package.applied")]
    PackageApplied,
    /// A package was archived.
    #[serde(rename = "package.archived")]
    PackageArchived,
    /// A receipt was appended to its service's chain.
    #[serde(rename = "receipt.appended")]
    ReceiptAppended,
}

impl EventType {
    /// Every type.
    pub const ALL: [Self; 6] = [
        Self::PackageSubmitted,
        Self::PackageRefined,
        Self::PackageDisputed,
        Self::PackageApplied,
        Self::PackageArchived,
        Self::ReceiptAppended,
    ];

    /// The name that readers see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PackageSubmitted => "package.submitted",
            Self::PackageRefined => "package.refined",
            Self::PackageDisputed => "package.disputed",
            Self::PackageApplied => "package.applied",
            Self::PackageArchived => "package.archived",
            Self::ReceiptAppended => "receipt.appended",
        }
    }
}

impl FromStr for EventType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no type of event; there are {}", known()))
    }
}

/// Where an event stands among all of a store. Ids are compared as they are: by number here, byte by byte as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// The step that made it: what one transaction did.
    pub step: u64,
    /// Which event of the step.
    pub place: u32,
}

impl EventId {
    /// Before every event.
    pub const FIRST: Self = Self { step: 0, place: 0 };

    /// After every event of the step.
    pub fn end_of(step: u64) -> Self {
        Self { step, place: MOST_PLACES }
    }
}

/// What six hex digits hold; a step has far fewer events.
const MOST_PLACES: u32 = 0x00ff_ffff;

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:06x}", self.step, self.place)
    }
}

impl FromStr for EventId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no id of an event: send one as it came, or 0 for every event that is kept");
        if text == "0" {
            return Ok(Self::FIRST);
        }
        let is_hex = |part: &str, digits: usize| {
            part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let (step, place) = text.split_once('-').ok_or_else(wrong)?;
        if !is_hex(step, 16) || !is_hex(place, 6) {
            return Err(wrong());
        }
        let step = u64::from_str_radix(step, 16).map_err(|_| wrong())?;
        Ok(Self { step, place: u32::from_str_radix(place, 16).map_err(|_| wrong())? })
    }
}

/// What an event says about a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EventReceipt {
    /// Its number in the service's chain.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
    /// What it is for.
    pub entry_type: EntryType,
}

/// One event, as readers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Event {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// To which service.
    pub service_id: ServiceId,
    /// To which package.
    pub package_id: PackageId,
    /// The report, of a package that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report_id: Option<ReportId>,
    /// The receipt that was appended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<EventReceipt>,
    /// When; the order of events is that of their ids.
    pub at: Timestamp,
}

/// A link of a chain, as a happening remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link(pub u64, pub String);

/// What was done to one package in one step, as stores keep it: short, because it is written with every package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Happening {
    /// Accepted; with the number of its receipt.
    #[serde(rename = "s")]
    Submitted(ServiceId, PackageId, Option<u64>),
    /// Refined and not accumulated yet.
    #[serde(rename = "r")]
    Refined(ServiceId, PackageId, ReportId),
    /// Refined and accumulated in one step.
    #[serde(rename = "w")]
    Worked(ServiceId, PackageId, ReportId, Option<Link>),
    /// Accumulated after a further attestation.
    #[serde(rename = "a")]
    Applied(ServiceId, PackageId, ReportId, Option<Link>),
    /// Disputed.
    #[serde(rename = "d")]
    Disputed(ServiceId, PackageId),
    /// Archived.
    #[serde(rename = "x")]
    Archived(ServiceId, PackageId),
}

impl Happening {
    /// The events of it, in order.
    pub fn events(&self, at: Timestamp) -> Vec<Event> {
        let event = |kind, service: &ServiceId, package: PackageId, report: Option<ReportId>| Event {
            kind,
            service_id: service.clone(),
            package_id: package,
            report_id: report,
            receipt: None,
            at,
        };
        let appended = |like: &Event, entry_type, seq: u64, hash: String| Event {
            kind: EventType::ReceiptAppended,
            receipt: Some(EventReceipt { seq, hash, entry_type }),
            ..like.clone()
        };
        match self {
            Self::Submitted(service, package, seq) => {
                let submitted = event(EventType::PackageSubmitted, service, *package, None);
                let receipt = seq.map(|seq| appended(&submitted, EntryType::Package, seq, package.to_string()));
                [Some(submitted), receipt].into_iter().flatten().collect()
            }
            Self::Refined(service, package, report) => {
                vec![event(EventType::PackageRefined, service, *package, Some(*report))]
            }
            Self::Worked(service, package, report, link) | Self::Applied(service, package, report, link) => {
                let refined = matches!(self, Self::Worked(..))
                    .then(|| event(EventType::PackageRefined, service, *package, Some(*report)));
                let applied = event(EventType::PackageApplied, service, *package, Some(*report));
                let receipt =
                    link.as_ref().map(|Link(seq, hash)| appended(&applied, EntryType::Report, *seq, hash.clone()));
                [refined, receipt, Some(applied)].into_iter().flatten().collect()
            }
            Self::Disputed(service, package) => vec![event(EventType::PackageDisputed, service, *package, None)],
            Self::Archived(service, package) => vec![event(EventType::PackageArchived, service, *package, None)],
        }
    }
}

/// What one step did, as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number: steps are read in this order, and none appears before one that was read.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// What was done.
    pub happened: Vec<Happening>,
}

impl Step {
    /// Its events with their ids, in order.
    pub fn events(&self) -> impl Iterator<Item = (EventId, Event)> + '_ {
        let events = self.happened.iter().flat_map(|happening| happening.events(self.at));
        (1..).zip(events).map(|(place, event)| (EventId { step: self.number, place }, event))
    }
}

/// How far the events of a store reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The last step that was deleted; 0 when none was.
    pub forgotten: u64,
    /// The last step that can be read; not before `forgotten`.
    pub last: u64,
}

impl Reach {
    /// Whether every event after this id is still there, and the id is one of this store at all.
    pub fn resumes(self, after: EventId) -> bool {
        let is_kept = self.forgotten < after.step && after.step <= self.last;
        after == EventId::FIRST || is_kept || after == EventId::end_of(self.forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> ServiceId {
        "s".parse().unwrap()
    }

    #[test]
    fn ids_are_ordered_as_text_as_they_are_as_numbers_and_read_back() {
        let ids = [(1, 1), (1, 2), (9, 0xff_ffff), (10, 1), (255, 16), (1 << 40, 3)];
        let ids = ids.map(|(step, place)| EventId { step, place });
        let texts = ids.map(|id| id.to_string());
        assert!(ids.is_sorted() && texts.is_sorted());
        for (id, text) in ids.iter().zip(&texts) {
            assert_eq!(text.parse(), Ok(*id));
        }
        assert_eq!("0".parse(), Ok(EventId::FIRST));
        for wrong in ["", "1", "x", "1-1", "000000000000000A-000001", "+00000000000000a-000001"] {
            assert!(wrong.parse::<EventId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_package_is_submitted_before_its_receipt_and_refined_before_it_is_applied() {
        let (package, report, at) = (PackageId::new(), ReportId::new(), Timestamp::from_micros(7));
        let happened = vec![
            Happening::Submitted(service(), package, Some(1)),
            Happening::Worked(service(), package, report, Some(Link(2, "ff".into()))),
            Happening::Refined(service(), package, report),
            Happening::Applied(service(), package, report, None),
            Happening::Disputed(service(), package),
            Happening::Archived(service(), package),
        ];
        let text = serde_json::to_string(&happened).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Happening>>(&text).unwrap(), happened);
        let step = Step { number: 5, at, happened };
        let (ids, events): (Vec<EventId>, Vec<Event>) = step.events().unzip();
        let names: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(
            names,
            [
                "package.submitted",
                "receipt.appended",
                "package.refined",
                "receipt.appended",
                "package.applied",
                "package.refined",
                "package.applied",
                "package.disputed",
                "package.archived"
            ]
        );
        assert!(ids.is_sorted() && ids[0] > EventId::FIRST && ids[8] < EventId::end_of(5));
        let json = serde_json::to_value(&events[3]).unwrap();
        assert_eq!(json["receipt"], serde_json::json!({"seq": 2, "hash": "ff", "entry_type": "report"}));
        assert_eq!((&json["type"], &json["service_id"]), (&"receipt.appended".into(), &"s".into()));
        assert_eq!(serde_json::to_value(events[0].kind).unwrap(), "package.submitted");
        for kind in EventType::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
    }

    #[test]
    fn a_reader_resumes_where_nothing_is_missing() {
        let reach = Reach { forgotten: 4, last: 9 };
        let resumes = |step, place| reach.resumes(EventId { step, place });
        assert!(resumes(0, 0) && resumes(5, 3) && resumes(9, 1) && reach.resumes(EventId::end_of(4)));
        assert!(!resumes(3, 9) && !resumes(4, 3) && !resumes(0, 1) && !resumes(10, 1));
    }
}
