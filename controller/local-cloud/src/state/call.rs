//! What is asked of the state, and what it answers.

use std::net::Ipv4Addr;

use fleet_mcp::{
    Resource,
    resource::ServerCall,
    types::{
        AddDisk, AddNic, AddPublicIpBlock, AntiAffinityRule, AppliedTag, ApplyTags, ChangeNetworkAdapter,
        ChangeServerMonitoringPlan, CloneServer, CreateAntiAffinityRule, CreateFirewallRule,
        CreateIpAddressList, CreateNatRule, CreatePortList, CreateStaticRoute, CreateTagKey, CustomerImage,
        Datacenter, DeployNetworkDomain, DeployServer, DeployUncustomizedServer, DeployVlan,
        EditFirewallRule, EditIpAddressList, EditNetworkDomain, EditPortList, EditServerMetadata, EditTagKey,
        EditVlan, EnableServerMonitoring, ExchangeNicVlans, ExpandVlan, FirewallRule, GeographicRegion,
        Image, IpAddressList, NatRule, NetworkDomain, NotifyNicIpChange, PortList, PublicIpBlock,
        ReconfigureServer, RemoveDisk, RemoveNic, RemoveTags, ReserveAddress, ReservedIpv6Address,
        ReservedPrivateIpv4Address, ReservedPublicIpv4Address, RestoreStaticRoutes, Server, StaticRoute,
        TagKey, Vlan,
    },
};
use serde_json::Value;

use crate::backing::Id;

/// Where a call comes from and whom it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The region whose API was called.
    pub region: String,
    /// Ids and names in it.
    pub mentions: Vec<Id>,
}

/// A call whose form is correct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Everything of a kind that passes the filters.
    List {
        /// Of what.
        kind: Kind,
        /// Query parameters as they came.
        query: Vec<(String, String)>,
    },
    /// One of a kind.
    Get {
        /// Of what.
        kind: Kind,
        /// Which.
        id: Id,
    },
    /// A change.
    Change(Box<Change>),
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the request of that name")]
pub enum Change {
    DeployNetworkDomain(DeployNetworkDomain),
    EditNetworkDomain(EditNetworkDomain),
    DeleteNetworkDomain(Id),
    DeployVlan(DeployVlan),
    /// One whose gateway is not ours.
    DeployDetachedVlan(DeployVlan, Ipv4Addr),
    ExpandVlan(ExpandVlan),
    EditVlan(EditVlan),
    DeleteVlan(Id),
    DeployServer(DeployServer),
    DeployUncustomizedServer(DeployUncustomizedServer),
    CloneServer(CloneServer),
    DeleteImage(Id),
    EditServerMetadata(EditServerMetadata),
    /// Name and description at once, then CPUs and memory.
    EditServer(EditServerMetadata, Option<ReconfigureServer>),
    Server(ServerCall, Id),
    DeleteServer(Id),
    Reconfigure(ReconfigureServer),
    AddDisk(AddDisk),
    /// The disk asked for goes to the controller of this id, whatever server that is.
    AddDiskTo(Id, AddDisk),
    RemoveDisk(RemoveDisk),
    ExpandDisk {
        server: Option<Id>,
        disk: Id,
        size_gb: u32,
    },
    ChangeDiskSpeed {
        server: Option<Id>,
        disk: Id,
        speed: String,
    },
    AddNic(AddNic),
    RemoveNic(RemoveNic),
    NotifyNicIpChange(NotifyNicIpChange),
    ExchangeNicVlans(ExchangeNicVlans),
    ChangeNetworkAdapter(ChangeNetworkAdapter),
    EnableMonitoring(EnableServerMonitoring),
    ChangeMonitoring(ChangeServerMonitoringPlan),
    AddPublicIpBlock(AddPublicIpBlock),
    RemovePublicIpBlock(Id),
    CreateNatRule(CreateNatRule),
    DeleteNatRule(Id),
    CreateFirewallRule(CreateFirewallRule),
    EditFirewallRule(EditFirewallRule),
    DeleteFirewallRule(Id),
    CreateIpAddressList(CreateIpAddressList),
    EditIpAddressList(EditIpAddressList),
    DeleteIpAddressList(Id),
    CreatePortList(CreatePortList),
    EditPortList(EditPortList),
    DeletePortList(Id),
    ReserveAddress(ReserveAddress),
    UnreserveAddress(ReserveAddress),
    CreateAntiAffinityRule(CreateAntiAffinityRule),
    DeleteAntiAffinityRule(Id),
    CreateTagKey(CreateTagKey),
    EditTagKey(EditTagKey),
    DeleteTagKey(Id),
    ApplyTags(ApplyTags),
    RemoveTags(RemoveTags),
    CreateStaticRoute(CreateStaticRoute),
    DeleteStaticRoute(Id),
    RestoreStaticRoutes(RestoreStaticRoutes),
}

/// Kinds that can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the resource of that name")]
pub enum Kind {
    Datacenter,
    OperatingSystem,
    GeographicRegion,
    OsImage,
    CustomerImage,
    NetworkDomain,
    Vlan,
    Server,
    PublicIpBlock,
    ReservedPublicIpv4Address,
    ReservedPrivateIpv4Address,
    ReservedIpv6Address,
    NatRule,
    FirewallRule,
    IpAddressList,
    PortList,
    AntiAffinityRule,
    StaticRoute,
    TagKey,
    Tag,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Datacenter,
        Self::OperatingSystem,
        Self::GeographicRegion,
        Self::OsImage,
        Self::CustomerImage,
        Self::NetworkDomain,
        Self::Vlan,
        Self::Server,
        Self::PublicIpBlock,
        Self::ReservedPublicIpv4Address,
        Self::ReservedPrivateIpv4Address,
        Self::ReservedIpv6Address,
        Self::NatRule,
        Self::FirewallRule,
        Self::IpAddressList,
        Self::PortList,
        Self::AntiAffinityRule,
        Self::StaticRoute,
        Self::TagKey,
        Self::Tag,
    ];

    /// Root of a list, name of one, path, words for people.
    const fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        const fn of<T: Resource>() -> (&'static str, &'static str, &'static str, &'static str) {
            (T::ROOT, T::ITEM, T::PATH, T::KIND)
        }
        match self {
            Self::Datacenter => of::<Datacenter>(),
            Self::OsImage => of::<Image>(),
            Self::CustomerImage => of::<CustomerImage>(),
            Self::NetworkDomain => of::<NetworkDomain>(),
            Self::Vlan => of::<Vlan>(),
            Self::Server => of::<Server>(),
            Self::PublicIpBlock => of::<PublicIpBlock>(),
            Self::ReservedPublicIpv4Address => of::<ReservedPublicIpv4Address>(),
            Self::NatRule => of::<NatRule>(),
            Self::FirewallRule => of::<FirewallRule>(),
            Self::IpAddressList => of::<IpAddressList>(),
            Self::PortList => of::<PortList>(),
            Self::OperatingSystem => {
                ("operatingSystems", "operatingSystem", "infrastructure/operatingSystem", "operating system")
            }
            Self::GeographicRegion => of::<GeographicRegion>(),
            Self::ReservedPrivateIpv4Address => of::<ReservedPrivateIpv4Address>(),
            Self::ReservedIpv6Address => of::<ReservedIpv6Address>(),
            Self::AntiAffinityRule => of::<AntiAffinityRule>(),
            Self::StaticRoute => of::<StaticRoute>(),
            Self::TagKey => of::<TagKey>(),
            Self::Tag => of::<AppliedTag>(),
        }
    }

    /// Root of a list in XML.
    pub const fn root(self) -> &'static str {
        self.names().0
    }

    /// One of it.
    pub const fn item(self) -> &'static str {
        self.names().1
    }

    /// Path below the organisation.
    pub const fn path(self) -> &'static str {
        self.names().2
    }

    /// For people.
    pub const fn words(self) -> &'static str {
        self.names().3
    }
}

/// What the state answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A page of a list.
    Page {
        /// Of what.
        kind: Kind,
        /// What is on the page.
        items: Vec<Value>,
        /// Number of the page, from 1.
        number: usize,
        /// Items that fit a page.
        size: usize,
        /// Items on all pages.
        total: usize,
    },
    /// One resource.
    Entity {
        /// Of what kind.
        kind: Kind,
        /// Its members as JSON shows them.
        value: Value,
    },
    /// A change was done or accepted.
    Done(Done),
}

/// A change was done or accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Accepted rather than done.
    pub in_progress: bool,
    /// For people.
    pub message: String,
    /// Ids of new things and the like.
    pub info: Vec<(&'static str, String)>,
    /// The domain whose packet filter must have caught up before a synchronous change is answered, and to
    /// which revision.
    pub filter: Option<(Id, u64)>,
}

impl Done {
    pub(crate) fn accepted(message: impl Into<String>) -> Self {
        Self { in_progress: true, message: message.into(), info: Vec::new(), filter: None }
    }

    pub(crate) fn at_once(message: impl Into<String>) -> Self {
        Self { in_progress: false, ..Self::accepted(message) }
    }

    pub(crate) fn info(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.info.push((name, value.into()));
        self
    }
}

/// The platform's refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refused {
    /// Response code.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl Refused {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Self::new("RESOURCE_NOT_FOUND", format!("{what} {id} not found."))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new("INVALID_INPUT_DATA", message)
    }

    pub(crate) fn busy(what: &str, id: &str, doing: &str) -> Self {
        Self::new("RESOURCE_BUSY", format!("{what} {id} is busy: {doing}. Please try again later."))
    }

    pub(crate) fn name_taken(what: &str, name: &str) -> Self {
        Self::new("NAME_NOT_UNIQUE", format!("Another {what} is named '{name}'."))
    }

    pub(crate) fn limit(what: &str, limit: impl std::fmt::Display) -> Self {
        Self::new("EXCEEDS_LIMIT", format!("At most {limit} {what}."))
    }
}
