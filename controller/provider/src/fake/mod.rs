//! A cloud in memory, for tests: the rules of the real one, no delays, and faults on request.
//!
//! [`FakeCloud`] refuses what the real cloud refuses (names taken, dependencies, wrong power state, busy servers) and
//! takes a few looks to settle what it makes. A [`Fault`] can be put on any call by its number, counted from zero
//! over reads and changes alike.

mod state;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use fleet_mcp::{
    Id, McpError,
    error::Refusal,
    types::{
        Datacenter, FirewallRule, Image, IpAddressList, NatRule, NetworkDomain, PublicIpBlock,
        ReservedPublicIpv4Address, Server, Vlan,
    },
};
use tokio::sync::Notify;

use crate::cloud::{Change, Cloud};

pub use state::{State, images};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is lost: no effect, no answer.
    LostRequest,
    /// The answer is lost: the effect is there.
    LostAnswer,
    /// The service is in trouble before it did anything (503).
    Trouble,
    /// The service is in trouble after it did what was asked (503).
    TroubleAfter,
    /// The resource is busy.
    Busy,
    /// There are too many calls; this one is turned away for so long.
    Throttled {
        /// How long.
        after: Duration,
    },
    /// The call never returns; whether its effect comes is told.
    Hang {
        /// Whether the effect is there.
        effect: bool,
    },
}

/// A cloud in memory.
#[derive(Debug, Default)]
pub struct FakeCloud {
    state: Mutex<State>,
    script: Mutex<Script>,
    hung: Notify,
}

#[derive(Debug, Default)]
struct Script {
    faults: BTreeMap<usize, Fault>,
    calls: usize,
    changes: Vec<&'static str>,
    reads: Vec<&'static str>,
    unanswered: Vec<&'static str>,
}

impl FakeCloud {
    /// A cloud with an image `Debian 12` everywhere, in which nothing happens by itself for `looks` looks.
    pub fn new(looks: u32) -> Self {
        Self { state: Mutex::new(State::new(looks)), ..Self::default() }
    }

    /// The same in which every operation takes so long, however often it is looked at.
    pub fn slow(takes: Duration) -> Self {
        Self { state: Mutex::new(State::slow(takes)), ..Self::default() }
    }

    /// Puts `fault` on the call of this number, counted from the last [`FakeCloud::count_anew`].
    pub fn fault(&self, call: usize, fault: Fault) {
        self.script().faults.insert(call, fault);
    }

    /// Counts calls from zero again and forgets faults that did not come up.
    pub fn count_anew(&self) {
        *self.script() = Script::default();
    }

    /// How many calls there were.
    pub fn calls(&self) -> usize {
        self.script().calls
    }

    /// Names of the changing calls there were.
    pub fn changes(&self) -> Vec<&'static str> {
        self.script().changes.clone()
    }

    /// Names of the calls that only looked.
    pub fn reads(&self) -> Vec<&'static str> {
        self.script().reads.clone()
    }

    /// Names of the calls that had their effect without an answer that says so.
    pub fn unanswered(&self) -> Vec<&'static str> {
        self.script().unanswered.clone()
    }

    /// Resolves once a call hangs.
    pub async fn hung(&self) {
        self.hung.notified().await;
    }

    /// What it holds, to be looked at or tampered with.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call: its fault if it has one, else `effect`.
    async fn call<T>(
        &self,
        operation: &'static str,
        change: bool,
        effect: impl FnOnce(&mut State) -> Result<T, McpError>,
    ) -> Result<T, McpError> {
        // As on a real network, other work runs between a call and its answer.
        tokio::task::yield_now().await;
        let fault = {
            let mut script = self.script();
            if change {
                script.changes.push(operation);
            } else {
                script.reads.push(operation);
            }
            script.calls += 1;
            let number = script.calls - 1;
            let fault = script.faults.remove(&number);
            if matches!(fault, Some(Fault::LostAnswer | Fault::TroubleAfter)) {
                script.unanswered.push(operation);
            }
            fault
        };
        let lost =
            || McpError::Transport { operation: operation.into(), sent: true, source: "no answer".into() };
        match fault {
            None => effect(&mut self.state()),
            Some(Fault::LostRequest) => Err(lost()),
            Some(Fault::LostAnswer) => effect(&mut self.state()).and(Err(lost())),
            Some(Fault::Trouble) => Err(McpError::Transient(refusal(operation, "HTTP 503"))),
            Some(Fault::TroubleAfter) => {
                effect(&mut self.state()).and(Err(McpError::Transient(refusal(operation, "HTTP 503"))))
            }
            Some(Fault::Busy) => Err(McpError::Busy(refusal(operation, "RESOURCE_BUSY"))),
            Some(Fault::Throttled { after }) => {
                let refusal = refusal(operation, "HTTP 429");
                Err(McpError::Throttled(Refusal { retry_after: Some(after), ..refusal }))
            }
            Some(Fault::Hang { effect: happens }) => {
                if happens {
                    effect(&mut self.state()).ok();
                }
                self.hung.notify_one();
                std::future::pending().await
            }
        }
    }
}

fn refusal(operation: &str, code: &str) -> Refusal {
    Refusal {
        operation: operation.into(),
        code: code.into(),
        message: String::new(),
        request_id: None,
        retry_after: None,
    }
}

#[async_trait]
impl Cloud for FakeCloud {
    async fn network_domains(&self) -> Result<Vec<NetworkDomain>, McpError> {
        self.call("LIST_NETWORK_DOMAIN", false, |state| Ok(state.look_domains())).await
    }
    async fn network_domain(&self, id: &Id<NetworkDomain>) -> Result<Option<NetworkDomain>, McpError> {
        self.call("GET_NETWORK_DOMAIN", false, |state| Ok(state.look_domain(id))).await
    }
    async fn vlans(&self) -> Result<Vec<Vlan>, McpError> {
        self.call("LIST_VLAN", false, |state| Ok(state.look_vlans())).await
    }
    async fn vlan(&self, id: &Id<Vlan>) -> Result<Option<Vlan>, McpError> {
        self.call("GET_VLAN", false, |state| Ok(state.look_vlan(id))).await
    }
    async fn servers(&self) -> Result<Vec<Server>, McpError> {
        self.call("LIST_SERVER", false, |state| Ok(state.look_servers())).await
    }
    async fn servers_in(&self, domain: &Id<NetworkDomain>) -> Result<Vec<Server>, McpError> {
        self.call("LIST_SERVER", false, |state| {
            let listed = state.servers_in(domain).filter(|server| state.is_listed(&server.id));
            Ok(listed.cloned().collect())
        })
        .await
    }
    async fn server(&self, id: &Id<Server>) -> Result<Option<Server>, McpError> {
        self.call("GET_SERVER", false, |state| Ok(state.look_server(id))).await
    }
    async fn date(&self) -> Result<Option<String>, McpError> {
        self.call("MY_ACCOUNT", false, |_| Ok(Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned()))).await
    }
    async fn datacenters(&self) -> Result<Vec<Datacenter>, McpError> {
        self.call("LIST_DATACENTER", false, |state| Ok(state.datacenters())).await
    }
    async fn platform_images(&self) -> Result<Vec<Image>, McpError> {
        // Data centres of every plan of the tests.
        let everywhere =
            |_: &mut State| Ok((0..10).flat_map(|at| state::images(&format!("EU{at}"))).collect());
        self.call("LIST_OS_IMAGE", false, everywhere).await
    }
    async fn customer_images(&self) -> Result<Vec<Image>, McpError> {
        self.call("LIST_CUSTOMER_IMAGE", false, |state| Ok(state.customer_images.clone())).await
    }
    async fn public_ip_blocks(&self, domain: &Id<NetworkDomain>) -> Result<Vec<PublicIpBlock>, McpError> {
        let inside = |state: &mut State| {
            Ok(state.blocks.values().filter(|block| block.network_domain_id == *domain).cloned().collect())
        };
        self.call("LIST_PUBLIC_IP_BLOCK", false, inside).await
    }
    async fn reserved_addresses(
        &self,
        domain: &Id<NetworkDomain>,
    ) -> Result<Vec<ReservedPublicIpv4Address>, McpError> {
        let reserved = |state: &mut State| Ok(state.reserved_in(domain));
        self.call("LIST_RESERVED", false, reserved).await
    }
    async fn nat_rules(&self, domain: &Id<NetworkDomain>) -> Result<Vec<NatRule>, McpError> {
        let inside = |state: &mut State| {
            Ok(state.nats.values().filter(|nat| nat.network_domain_id == *domain).cloned().collect())
        };
        self.call("LIST_NAT_RULE", false, inside).await
    }
    async fn firewall_rules(&self, domain: &Id<NetworkDomain>) -> Result<Vec<FirewallRule>, McpError> {
        let inside = |state: &mut State| {
            Ok(state.rules.values().filter(|rule| rule.network_domain_id == *domain).cloned().collect())
        };
        self.call("LIST_FIREWALL_RULE", false, inside).await
    }
    async fn address_lists(&self, domain: &Id<NetworkDomain>) -> Result<Vec<IpAddressList>, McpError> {
        let inside = |state: &mut State| Ok(state.lists_in(domain).cloned().collect());
        self.call("LIST_IP_ADDRESS_LIST", false, inside).await
    }
    async fn change(&self, change: &Change) -> Result<Option<String>, McpError> {
        self.call(change.name(), true, |state| state.change(change)).await
    }
}
