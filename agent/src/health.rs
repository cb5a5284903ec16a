//! From facts and reports to a level with reasons. Pure.

use std::time::Duration;

use fleet_model::Timestamp;
use fleet_proto::v1::{Facts, Health, HealthLevel};
use fleet_task::{Outcome, Report, age};

/// Percent of a file system that should be free; below it the node is degraded.
const DISK_LOW: u64 = 10;
/// Below this percent of free space it has failed: nothing can be written safely.
const DISK_OUT: u64 = 2;
/// Percent of memory that should be available.
const MEMORY_LOW: u64 = 5;
/// A clock off by more than this is worth attention. Well above what a starved machine adds to the measurement,
/// well below what certificates or logs would suffer from.
const CLOCK_OFF_MS: u64 = 5_000;
/// A clock off by more than this breaks certificates and clusters.
const CLOCK_BROKEN_MS: u64 = 30_000;

/// What health is judged from.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// What the node is.
    pub facts: &'a Facts,
    /// What came of its tasks.
    pub reports: &'a [Report],
    /// Now, by the controller's clock as far as known.
    pub now: Timestamp,
    /// Now, by this node's clock, which dates the reports.
    pub local: Timestamp,
    /// Why the last renewal failed, if it did.
    pub renewal_failing: Option<&'a str>,
    /// Why the newest desired state was not taken, if so.
    pub trouble: Option<&'a str>,
}

/// The level, and one line for each reason; the worst first.
pub fn assess(inputs: &Inputs<'_>) -> Health {
    let mut reasons: Vec<(HealthLevel, String)> = Vec::new();
    let facts = inputs.facts;
    for disk in &facts.disks {
        let percent = disk.free_bytes.saturating_mul(100).checked_div(disk.size_bytes).unwrap_or(100);
        if percent < DISK_LOW {
            let level =
                if percent < DISK_OUT { HealthLevel::HealthFailed } else { HealthLevel::HealthDegraded };
            reasons.push((level, format!("{} has {percent} % free", disk.mount_point)));
        }
    }
    let memory =
        facts.memory_available_bytes.saturating_mul(100).checked_div(facts.memory_bytes).unwrap_or(100);
    if memory < MEMORY_LOW {
        reasons.push((HealthLevel::HealthDegraded, format!("{memory} % of memory is available")));
    }
    let off = facts.clock_offset_ms.unsigned_abs();
    // One clock, one reason: the node's own time servers know better than a round trip does, unless it is far worse.
    let told = inputs.reports.iter().flat_map(|report| &report.warnings).any(|warning| is_offset(warning));
    let broken = off > CLOCK_BROKEN_MS;
    if broken || (off > CLOCK_OFF_MS && !told) {
        let level = if broken { HealthLevel::HealthFailed } else { HealthLevel::HealthDegraded };
        let direction = if facts.clock_offset_ms > 0 { "ahead of" } else { "behind" };
        let (whole, tenth) = (off / 1000, off % 1000 / 100);
        reasons.push((level, format!("the clock is {whole}.{tenth} s {direction} the controller's")));
    }
    reasons.extend(certificate(inputs));
    if let Some(trouble) = inputs.trouble {
        reasons.push((HealthLevel::HealthDegraded, trouble.to_owned()));
    }
    for report in inputs.reports {
        if let Outcome::Failed(why) = &report.outcome {
            reasons.push((HealthLevel::HealthFailed, format!("{}: {why}", report.task)));
        }
        if let Outcome::Drifted { lines, since } = &report.outcome {
            let age = age(inputs.local.since(*since));
            let what = lines.join(", ");
            reasons.push((
                HealthLevel::HealthDegraded,
                format!("{}: has drifted for {age}: {what}", report.task),
            ));
        }
        for warning in report.warnings.iter().filter(|warning| !broken || !is_offset(warning)) {
            reasons.push((HealthLevel::HealthDegraded, format!("{}: {warning}", report.task)));
        }
    }
    // Stable, so that reasons of one level keep the order they were found in.
    reasons.sort_by_key(|(level, _)| std::cmp::Reverse(*level as i32));
    let level = reasons.first().map_or(HealthLevel::HealthOk, |(level, _)| *level);
    Health { level: level.into(), reasons: reasons.into_iter().map(|(_, reason)| reason).collect() }
}

/// Whether a task speaks of the clock's offset.
fn is_offset(warning: &str) -> bool {
    warning.starts_with(crate::tasks::clock::OFF)
}

/// A certificate that runs out is only worth a word when renewing it fails: every healthy one is renewed
/// long before.
fn certificate(inputs: &Inputs<'_>) -> Option<(HealthLevel, String)> {
    let why = inputs.renewal_failing?;
    let left = Timestamp::from_millis(inputs.facts.certificate_not_after_ms).since(inputs.now);
    let level = if left < Duration::from_secs(3600) {
        HealthLevel::HealthFailed
    } else {
        HealthLevel::HealthDegraded
    };
    Some((
        level,
        format!("the certificate runs out in {} min and renewing it fails: {why}", left.as_secs() / 60),
    ))
}

#[cfg(test)]
mod tests {
    use fleet_proto::v1::DiskFact;
    use fleet_task::TaskId;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

    fn fine() -> Facts {
        Facts {
            memory_bytes: 4000,
            memory_available_bytes: 2000,
            disks: vec![DiskFact {
                mount_point: "/".into(),
                size_bytes: 1000,
                free_bytes: 500,
                ..DiskFact::default()
            }],
            certificate_not_after_ms: NOW.after(Duration::from_secs(12 * 3600)).as_millis(),
            ..Facts::default()
        }
    }

    fn report(outcome: Outcome, warnings: &[&str]) -> Report {
        Report {
            task: TaskId::new("lvm"),
            outcome,
            warnings: warnings.iter().map(ToString::to_string).collect(),
            missing_members: None,
            at: NOW,
            took: Duration::ZERO,
        }
    }

    fn check(
        edit: impl FnOnce(&mut Facts),
        reports: &[Report],
        renewal_failing: Option<&str>,
        level: HealthLevel,
        first: &str,
    ) {
        let mut facts = fine();
        edit(&mut facts);
        let inputs = Inputs { facts: &facts, reports, now: NOW, local: NOW, renewal_failing, trouble: None };
        let health = assess(&inputs);
        assert_eq!(health.level(), level, "{health:?}");
        assert_eq!(health.reasons.first().map_or("", String::as_str), first);
    }

    #[test]
    fn levels_and_their_reasons() {
        use HealthLevel::{HealthDegraded as Degraded, HealthFailed as Failed, HealthOk as Ok};
        check(|_| (), &[report(Outcome::Unchanged, &[])], None, Ok, "");
        check(|_| (), &[report(Outcome::Waiting("a disk".into()), &[])], None, Ok, "");
        check(|f| f.disks[0].free_bytes = 99, &[], None, Degraded, "/ has 9 % free");
        check(|f| f.disks[0].free_bytes = 19, &[], None, Failed, "/ has 1 % free");
        check(|f| f.disks[0].size_bytes = 0, &[], None, Ok, "");
        check(|f| f.memory_available_bytes = 100, &[], None, Degraded, "2 % of memory is available");
        check(|f| f.clock_offset_ms = 5000, &[], None, Ok, "");
        check(
            |f| f.clock_offset_ms = -7500,
            &[],
            None,
            Degraded,
            "the clock is 7.5 s behind the controller's",
        );
        check(
            |f| f.clock_offset_ms = 31_000,
            &[],
            None,
            Failed,
            "the clock is 31.0 s ahead of the controller's",
        );
        check(
            |_| (),
            &[],
            Some("no answer"),
            Degraded,
            "the certificate runs out in 720 min and renewing it fails: no answer",
        );
        check(
            |f| f.certificate_not_after_ms = NOW.as_millis() - 5,
            &[],
            Some("no answer"),
            Failed,
            "the certificate runs out in 0 min and renewing it fails: no answer",
        );
        check(
            |_| (),
            &[report(Outcome::Failed("why; next: what".into()), &[])],
            None,
            Failed,
            "lvm: why; next: what",
        );
        let since = NOW.before(Duration::from_secs(720));
        let drifted = report(Outcome::Drifted { lines: vec!["a line differs".into()], since }, &[]);
        check(|_| (), &[drifted], None, Degraded, "lvm: has drifted for 12 min: a line differs");
        let warned = report(Outcome::Unchanged, &["/dev/sdc was left alone: ext4"]);
        check(|_| (), &[warned], None, Degraded, "lvm: /dev/sdc was left alone: ext4");
    }

    #[test]
    fn one_clock_is_one_reason() {
        let reasons = |offset_ms: i64| {
            let facts = Facts { clock_offset_ms: offset_ms, ..fine() };
            let warning = "the clock is 7.0 s behind its time servers; 500 ms are allowed";
            let reports = [report(Outcome::Unchanged, &[warning, "something else"])];
            let inputs = Inputs {
                facts: &facts,
                reports: &reports,
                now: NOW,
                local: NOW,
                renewal_failing: None,
                trouble: None,
            };
            assess(&inputs).reasons
        };
        let own = "lvm: the clock is 7.0 s behind its time servers; 500 ms are allowed";
        assert_eq!(reasons(-7000), [own, "lvm: something else"]);
        let controllers = "the clock is 40.0 s behind the controller's";
        assert_eq!(reasons(-40_000), [controllers, "lvm: something else"]);
    }

    #[test]
    fn the_worst_reason_comes_first() {
        let reports = [report(Outcome::Failed("broken".into()), &[])];
        check(|f| f.disks[0].free_bytes = 50, &reports, None, HealthLevel::HealthFailed, "lvm: broken");
    }
}
