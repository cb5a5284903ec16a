//! Who goes in which wave.

use fleet_model::NodeName;

use super::{Order, Policy};
use crate::member::Member;

/// The waves, canaries first; every member is in exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Nodes of each wave in the order in which they start.
    pub waves: Vec<Vec<NodeName>>,
}

/// The lot of a node in a release: the same on every controller and in every build, different for every release.
///
/// FNV-1a (64 bit) over identity, a zero byte and release, spread by the finaliser of MurmurHash3: what the standard
/// library offers may change with its version, and two controllers must draw the same waves.
pub fn lot(identity: &str, release: &str) -> u64 {
    let bytes = identity.bytes().chain([0]).chain(release.bytes());
    let mut hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

/// Draws the waves of `release` over `members`.
pub fn draw(policy: &Policy, members: &[Member], release: &str) -> Drawn {
    let total = members.len();
    let mut lots: Vec<(&Member, u64)> = members.iter().map(|m| (m, lot(&m.identity, release))).collect();
    lots.sort_by(|(a, x), (b, y)| (a.seed, x, &a.node).cmp(&(b.seed, y, &b.node)));

    let named = |m: &Member| policy.canaries.named.contains(&m.node);
    let mut canaries: Vec<NodeName> =
        lots.iter().filter(|(m, _)| named(m)).map(|(m, _)| m.node.clone()).collect();
    // A fleet of one is its own canary; otherwise the seed is never drawn.
    let lone = total == 1;
    let drawn = policy.canaries.drawn.at_most(total);
    canaries.extend(
        lots.iter().filter(|(m, _)| !named(m) && (!m.seed || lone)).take(drawn).map(|(m, _)| m.node.clone()),
    );

    let mut rest: Vec<(&Member, u64)> =
        lots.iter().filter(|(m, _)| !canaries.contains(&m.node)).copied().collect();
    rest.sort_by_key(|(m, lot)| (m.seed, rank(&policy.order, m), *lot, m.node.clone()));

    let mut waves = vec![canaries];
    let mut rest = rest.into_iter().map(|(m, _)| m.node.clone()).peekable();
    for size in &policy.waves {
        let wave: Vec<NodeName> = rest.by_ref().take(size.at_most(total)).collect();
        waves.push(wave);
    }
    waves.push(rest.collect());
    waves.retain(|wave| !wave.is_empty());
    Drawn { waves }
}

fn rank(order: &Order, member: &Member) -> usize {
    let place = |list: &[String], value: Option<&String>| {
        value.and_then(|value| list.iter().position(|x| x == value)).unwrap_or(list.len())
    };
    match order {
        Order::ByLot => 0,
        Order::ByLocation(list) => place(list, Some(&member.location)),
        Order::ByLabel { label, values } => place(values, member.labels.get(label)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::policy::{Amount, Canaries};

    fn fleet(n: usize) -> Vec<Member> {
        (0..n)
            .map(|i| Member {
                location: ["EU6", "EU7"][i % 2].into(),
                seed: i == 0,
                ..Member::new(format!("n{i}").parse().expect("a name"))
            })
            .collect()
    }

    #[test]
    fn the_lot_is_fixed_for_ever() {
        // Stored rollouts and other controllers rely on these values.
        assert_eq!(lot("spiffe://f/node/1", "sha256:aa"), 0xaac0_f7ff_e6dd_7e22_u64);
    }

    #[test]
    fn every_node_is_in_one_wave_and_the_seed_in_the_last() {
        for n in 1..60 {
            let members = fleet(n);
            let drawn = draw(&Policy::default(), &members, "r1");
            let all: Vec<_> = drawn.waves.iter().flatten().collect();
            assert_eq!(all.len(), n);
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), n);
            assert_eq!(**all.last().expect("somebody"), members[0].node, "of {n}");
            assert_eq!(drawn.waves[0].len(), 1);
        }
    }

    #[test]
    fn another_release_draws_other_canaries() {
        let members = fleet(100);
        let first: BTreeSet<_> = (0..50)
            .map(|r| draw(&Policy::default(), &members, &format!("r{r}")).waves[0][0].clone())
            .collect();
        assert!(first.len() > 25, "{} different canaries in 50 releases", first.len());
    }

    #[test]
    fn sizes_are_shares_or_counts() {
        let policy = Policy {
            canaries: Canaries { named: vec!["n7".parse().expect("a name")], drawn: Amount::Count(2) },
            waves: vec![Amount::Count(7), Amount::Percent(25)],
            ..Policy::default()
        };
        let drawn = draw(&policy, &fleet(100), "r");
        let sizes: Vec<_> = drawn.waves.iter().map(Vec::len).collect();
        assert_eq!(sizes, [3, 7, 25, 65]);
        assert!(drawn.waves[0].contains(&"n7".parse().expect("a name")));
    }

    #[test]
    fn locations_come_in_the_order_of_the_plan() {
        let policy = Policy { order: Order::ByLocation(vec!["EU7".into()]), ..Policy::default() };
        let members = fleet(40);
        let drawn = draw(&policy, &members, "r");
        let places: Vec<_> = drawn.waves[1..]
            .iter()
            .flatten()
            .filter_map(|name| members.iter().find(|m| m.node == *name && !m.seed))
            .map(|m| m.location.as_str())
            .collect();
        assert!(places.is_sorted_by(|a, b| !(*a == "EU6" && *b == "EU7")), "{places:?}");
    }
}
