//! What the API server says of a quota that is in the way.

use std::collections::BTreeMap;

/// Whether the quota is just full: it counts the object that is there, so removing that makes room for the next. One that was lowered
/// below its use leaves none.
pub fn makes_room(message: &str) -> bool {
    let Some((_, told)) = message.split_once("exceeded quota: ") else { return false };
    let amounts = |list: &str| -> Option<BTreeMap<String, u64>> {
        list.split(',')
            .map(|amount| {
                let (what, number) = amount.split_once('=')?;
                Some((what.to_owned(), number.parse().ok()?))
            })
            .collect()
    };
    let both = told.split_once(", used: ").and_then(|(_, told)| told.split_once(", limited: "));
    let Some((Some(used), Some(limited))) = both.map(|(used, limited)| (amounts(used), amounts(limited))) else {
        return false;
    };
    used.iter().all(|(what, used)| limited.get(what).is_some_and(|limit| used <= limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quota_that_is_just_full_has_room_for_what_takes_the_place_of_another() {
        let told = |used: &str, limited: &str| {
            makes_room(&format!(
                "deployments.apps \"main\" is forbidden: exceeded quota: q, requested: count/deployments.apps=1, \
                 used: {used}, limited: {limited}"
            ))
        };
        assert!(told("count/deployments.apps=1", "count/deployments.apps=1"));
        assert!(!told("count/deployments.apps=1", "count/deployments.apps=0"), "it was lowered");
        assert!(told("count/deployments.apps=2,count/pods=1", "count/deployments.apps=2,count/pods=3"));
        assert!(!told("count/deployments.apps=2,count/pods=4", "count/deployments.apps=2,count/pods=3"));
        assert!(!told("requests.cpu=500m", "requests.cpu=500m"), "no object of ours asks for that");
        assert!(!makes_room("exceeded quota: q"), "nobody says by how much");
        assert!(!makes_room("denied: no"));
    }
}
