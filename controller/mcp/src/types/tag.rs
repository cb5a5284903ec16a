use serde::{Deserialize, Serialize};

use super::{AssetType, Datacenter, Tag, TagById};
use crate::{Id, Operation, Resource, resource::Deletable};

/// A key that tags may have; keys exist before tags do, and belong to the whole organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagKey {
    /// Its id.
    pub id: Id<Self>,
    /// Its name, unique in the organisation.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Whether a tag of this key needs a value.
    #[serde(default)]
    pub value_required: bool,
    /// Whether usage reports show it.
    #[serde(default)]
    pub display_on_report: bool,
}

/// Makes a tag key; synchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateTagKey {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Whether a tag of this key needs a value; yes if absent.
    pub value_required: Option<bool>,
    /// Whether usage reports show it; yes if absent.
    pub display_on_report: Option<bool>,
}

/// Changes a tag key; absent members stay. `NO_CHANGE` if nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EditTagKey {
    /// Which.
    pub id: Id<TagKey>,
    /// New name.
    pub name: Option<String>,
    /// New description.
    pub description: Option<String>,
    /// Whether a tag of this key needs a value.
    pub value_required: Option<bool>,
    /// Whether usage reports show it.
    pub display_on_report: Option<bool>,
}

/// A tag on something, as the list of tags shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedTag {
    /// What kind of thing bears it.
    pub asset_type: AssetType,
    /// Which one.
    pub asset_id: String,
    /// Its name.
    pub asset_name: Option<String>,
    /// Where it is.
    pub datacenter_id: Option<Id<Datacenter>>,
    /// The tag's key.
    pub tag_key_id: Id<TagKey>,
    /// The key's name.
    pub tag_key_name: String,
    /// The tag's value.
    pub value: Option<String>,
    /// Whether usage reports show it.
    #[serde(default)]
    pub display_on_report: bool,
    /// Whether it needs a value.
    #[serde(default)]
    pub value_required: bool,
}

/// Puts tags on something, in place of those with the same keys; synchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyTags {
    /// What kind of thing.
    pub asset_type: AssetType,
    /// Which one.
    pub asset_id: String,
    /// Tags by the names of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tag: Vec<Tag>,
    /// Tags by the ids of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tag_by_id: Vec<TagById>,
}

/// Takes tags off something; synchronous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveTags {
    /// What kind of thing.
    pub asset_type: AssetType,
    /// Which one.
    pub asset_id: String,
    /// Names of keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tag_key_name: Vec<String>,
    /// Ids of keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tag_key_id: Vec<Id<TagKey>>,
}

impl Resource for TagKey {
    const KIND: &'static str = "tag key";
    const ROOT: &'static str = "tagKeys";
    const ITEM: &'static str = "tagKey";
    const PATH: &'static str = "tag/tagKey";
}

impl Deletable for TagKey {
    const DELETE: &'static str = "tag/deleteTagKey";
}

impl Resource for AppliedTag {
    const KIND: &'static str = "tag";
    const ROOT: &'static str = "tags";
    const ITEM: &'static str = "tag";
    const PATH: &'static str = "tag/tag";
}

impl Operation for CreateTagKey {
    const PATH: &'static str = "tag/createTagKey";
}

impl Operation for EditTagKey {
    const PATH: &'static str = "tag/editTagKey";
}

impl Operation for ApplyTags {
    const PATH: &'static str = "tag/applyTags";
}

impl Operation for RemoveTags {
    const PATH: &'static str = "tag/removeTags";
}
