use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Words of the API as enums that also hold words we do not know: a newer service is no reason to fail.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$word_doc])* $variant,)*
            /// A word this version does not know.
            Other(String),
        }

        impl $name {
            /// The word as the API writes it.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Other(word) => word,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                $(if word.eq_ignore_ascii_case($word) { return Self::$variant; })*
                Self::Other(word.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(|word| Self::from(word.trim()))
            }
        }
    )*};
}

words! {
    /// Where a resource is in its life.
    State {
        /// Nothing is under way.
        Normal = "NORMAL",
        /// Being made.
        PendingAdd = "PENDING_ADD",
        /// Being changed.
        PendingChange = "PENDING_CHANGE",
        /// Being deleted.
        PendingDelete = "PENDING_DELETE",
        /// Being removed after a failure.
        PendingClean = "PENDING_CLEAN",
        /// Could not be made.
        FailedAdd = "FAILED_ADD",
        /// Could not be changed.
        FailedChange = "FAILED_CHANGE",
        /// Could not be deleted.
        FailedDelete = "FAILED_DELETE",
        /// Only the operator of the cloud can help.
        RequiresSupport = "REQUIRES_SUPPORT",
    }

    /// Service plan of a network domain.
    DomainType {
        /// The plain one.
        Essentials = "ESSENTIALS",
        /// With load balancing and more.
        Advanced = "ADVANCED",
    }

    /// Service plan of monitoring.
    ServicePlan {
        /// The plain one.
        Essentials = "ESSENTIALS",
        /// The larger one.
        Advanced = "ADVANCED",
    }

    /// Where a VLAN's gateway sits in its range.
    Gateway {
        /// First address; .1 to .3 are reserved.
        Low = "LOW",
        /// Last addresses; .252 to .254 are reserved.
        High = "HIGH",
    }

    /// What a firewall rule does.
    Action {
        /// Lets the traffic pass.
        AcceptDecisively = "ACCEPT_DECISIVELY",
        /// Discards it.
        Drop = "DROP",
    }

    /// Version of IP a rule or list is about.
    IpVersion {
        /// IPv4.
        V4 = "IPV4",
        /// IPv6.
        V6 = "IPV6",
    }

    /// Protocol of a firewall rule.
    Protocol {
        /// Any protocol.
        Ip = "IP",
        /// ICMP, or ICMPv6 in an IPv6 rule.
        Icmp = "ICMP",
        /// TCP.
        Tcp = "TCP",
        /// UDP.
        Udp = "UDP",
    }

    /// What can bear tags.
    AssetType {
        /// A server.
        Server = "SERVER",
        /// A network domain.
        NetworkDomain = "NETWORK_DOMAIN",
        /// A VLAN.
        Vlan = "VLAN",
        /// An image of the customer's.
        CustomerImage = "CUSTOMER_IMAGE",
        /// A block of public addresses.
        PublicIpBlock = "PUBLIC_IP_BLOCK",
    }

    /// Where a firewall rule goes.
    Placing {
        /// Before all others.
        First = "FIRST",
        /// After all others.
        Last = "LAST",
        /// Right before the named rule.
        Before = "BEFORE",
        /// Right after the named rule.
        After = "AFTER",
    }

    /// What a busy server is doing.
    PowerAction {
        /// Being made.
        Deploy = "DEPLOY_SERVER",
        /// Powering on.
        Start = "START_SERVER",
        /// The guest shuts down.
        Shutdown = "SHUTDOWN_SERVER",
        /// Plug pulled.
        PowerOff = "POWER_OFF_SERVER",
        /// The guest reboots.
        Reboot = "REBOOT_SERVER",
        /// Hard reset.
        Reset = "RESET_SERVER",
        /// CPU or memory change.
        Reconfigure = "RECONFIGURE_SERVER",
        /// A disk is added.
        AddDisk = "ADD_DISK",
        /// A disk is removed.
        RemoveDisk = "REMOVE_DISK",
        /// A disk grows.
        ExpandDisk = "EXPAND_DISK",
        /// A disk changes its speed.
        ChangeDiskSpeed = "CHANGE_DISK_SPEED",
        /// A network card is added.
        AddNic = "ADD_NIC",
        /// A network card is removed.
        RemoveNic = "REMOVE_NIC",
        /// Being made, with other disk speeds than the image has.
        DeployWithDiskSpeed = "DEPLOY_SERVER_WITH_DISK_SPEED",
        /// A network card becomes another model.
        ChangeNetworkAdapter = "CHANGE_NETWORK_ADAPTER",
        /// Network cards change places.
        ExchangeNicVlans = "EXCHANGE_NIC_VLANS",
        /// The guest has other addresses.
        NotifyNicIpChange = "NOTIFY_NIC_IP_CHANGE",
        /// An image is made of it.
        CloneServer = "CLONE_SERVER",
        /// The guest tools are updated.
        UpdateTools = "UPDATE_VMWARE_TOOLS",
        /// Being deleted.
        Delete = "DELETE_SERVER",
        /// Being removed after a failure.
        Clean = "CLEAN_SERVER",
    }

    /// Whether the guest tools run.
    ToolsStatus {
        /// They run.
        Running = "RUNNING",
        /// They do not.
        NotRunning = "NOT_RUNNING",
        /// They are starting.
        Starting = "STARTING",
    }

    /// How old the guest tools are.
    ToolsVersion {
        /// Up to date.
        Current = "CURRENT",
        /// Too old.
        NeedUpgrade = "NEED_UPGRADE",
        /// None there.
        NotInstalled = "NOT_INSTALLED",
        /// Looked after by the guest.
        Unmanaged = "UNMANAGED",
    }
}

impl State {
    /// Nothing is under way and nothing failed.
    pub fn is_normal(&self) -> bool {
        *self == Self::Normal
    }

    /// It will not become normal by waiting.
    pub fn is_failed(&self) -> bool {
        matches!(self, Self::FailedAdd | Self::FailedChange | Self::FailedDelete | Self::RequiresSupport)
    }
}
