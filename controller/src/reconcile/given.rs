//! A plan as it was given, and what it means.

use std::sync::Arc;

use fleet_model::FleetName;
use fleet_plan::{Problems, ResolvedPlan, resolved::OperatorUnknown};

use crate::records::{FleetRecord, PlanRecord};

/// A plan that was read without problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// As the operator gave it.
    pub record: PlanRecord,
    /// What it means, the operator's addresses put in.
    pub plan: Arc<ResolvedPlan>,
}

/// Why a plan means nothing.
#[derive(Debug, thiserror::Error)]
pub enum Misgiven {
    /// It is wrong.
    #[error("{0}")]
    Problems(Problems),
    /// It needs to know where the operator is.
    #[error(transparent)]
    Operator(#[from] OperatorUnknown),
    /// It needs the operator's keys.
    #[error("the plan lets the operator in by key, and no key of the operator was given")]
    NoKeys,
    /// It is for another cloud than the one the fleet is in.
    #[error("fleet `{0}` lives in another cloud than the plan says")]
    Elsewhere(FleetName),
}

impl Misgiven {
    /// The next step.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Problems(_) => "correct the plan; `fleetctl plan check` says the same",
            Self::Operator(unknown) => unknown.hint(),
            Self::Elsewhere(_) => "run `fleetctl down` first, or give the plan another fleet name",
            Self::NoKeys => "make a key with `ssh-keygen`, or write the keys into the plan's `access` task",
        }
    }
}

impl Given {
    /// Reads a plan; the same record always means the same.
    ///
    /// # Errors
    /// [`Misgiven`].
    pub fn read(record: PlanRecord) -> Result<Self, Misgiven> {
        let loaded = fleet_plan::load(&record.file, &record.text, &record.parameters);
        let mut plan = loaded.map_err(Misgiven::Problems)?.plan;
        plan.place_operator(&record.operator_addresses)?;
        if plan.wants_operator_keys() && record.operator_keys.is_empty() {
            return Err(Misgiven::NoKeys);
        }
        Ok(Self { record, plan: Arc::new(plan) })
    }

    /// Whether `fleet` may come to be what the plan says.
    ///
    /// # Errors
    /// [`Misgiven::Elsewhere`].
    pub fn fits(&self, fleet: &FleetRecord) -> Result<(), Misgiven> {
        match fleet.is_elsewhere(&self.plan.cloud) {
            true => Err(Misgiven::Elsewhere(self.plan.fleet.clone())),
            false => Ok(()),
        }
    }
}
