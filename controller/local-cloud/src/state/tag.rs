//! Tag keys, and tags on things.

use fleet_mcp::{
    Id,
    types::{ApplyTags, AssetType, CreateTagKey, EditTagKey, RemoveTags, Tag, TagById, TagKey},
};
use serde_json::{Value, json};

use super::{Context, Done, Mark, Refused, State, Work, deploy::check_name, uuid};

type Changed = Result<(Done, Vec<Work>), Refused>;

/// Tags one thing may bear.
const MAX_TAGS: usize = 10;
/// Longest value of a tag.
const MAX_VALUE: usize = 255;

impl State {
    pub(crate) fn create_tag_key(&mut self, request: &CreateTagKey, cx: &mut Context<'_>) -> Changed {
        check_name(&request.name)?;
        self.check_key_name(&request.name, None)?;
        let id = uuid(cx.rng);
        self.tag_keys.push(TagKey {
            id: Id::new(id.clone()),
            name: request.name.clone(),
            description: request.description.clone(),
            value_required: request.value_required.unwrap_or(true),
            display_on_report: request.display_on_report.unwrap_or(true),
        });
        let done = Done::at_once(format!("Tag Key '{}' has been created.", request.name));
        Ok((done.info("tagKeyId", id), Vec::new()))
    }

    pub(crate) fn edit_tag_key(&mut self, request: &EditTagKey) -> Changed {
        let id = request.id.as_str();
        let index = self.tag_keys.iter().position(|key| key.id == request.id);
        let index = index.ok_or_else(|| Refused::not_found("Tag Key", id))?;
        let old = &self.tag_keys[index];
        let new = TagKey {
            id: old.id.clone(),
            name: request.name.clone().unwrap_or_else(|| old.name.clone()),
            description: request.description.clone().or_else(|| old.description.clone()),
            value_required: request.value_required.unwrap_or(old.value_required),
            display_on_report: request.display_on_report.unwrap_or(old.display_on_report),
        };
        if new == *old {
            let message = "At least one of name, description, valueRequired or displayOnReport must be changed \
                           from its current value.";
            return Err(Refused::new("NO_CHANGE", message));
        }
        check_name(&new.name)?;
        self.check_key_name(&new.name, Some(id))?;
        let done = Done::at_once(format!("Tag Key '{}' has been edited.", new.name));
        self.tag_keys[index] = new;
        Ok((done, Vec::new()))
    }

    /// Tags with the key go with it.
    pub(crate) fn delete_tag_key(&mut self, id: &str) -> Changed {
        let index = self.tag_keys.iter().position(|key| key.id.as_str() == id);
        let index = index.ok_or_else(|| Refused::not_found("Tag Key", id))?;
        self.tag_keys.remove(index);
        self.marks.retain(|mark| mark.key != id);
        Ok((Done::at_once(format!("Tag Key (Id:{id}) has been deleted.")), Vec::new()))
    }

    fn check_key_name(&self, name: &str, except: Option<&str>) -> Result<(), Refused> {
        let taken = |key: &TagKey| key.name.eq_ignore_ascii_case(name) && Some(key.id.as_str()) != except;
        if self.tag_keys.iter().any(taken) {
            return Err(Refused::name_taken("Tag Key", name));
        }
        Ok(())
    }

    pub(crate) fn apply_tags(&mut self, request: &ApplyTags) -> Changed {
        self.asset(&request.asset_type, &request.asset_id)?;
        let wanted = self.wanted_tags(&request.tag, &request.tag_by_id)?;
        if wanted.is_empty() {
            return Err(Refused::invalid("At least one tag or tagById is needed."));
        }
        self.put_marks(&request.asset_type, &request.asset_id, wanted)?;
        Ok((Done::at_once("Tag(s) successfully applied."), Vec::new()))
    }

    pub(crate) fn remove_tags(&mut self, request: &RemoveTags) -> Changed {
        self.asset(&request.asset_type, &request.asset_id)?;
        let by_name = request.tag_key_name.iter().map(|name| self.key_by_name(name));
        let by_id = request.tag_key_id.iter().map(|id| self.key_by_id(id.as_str()));
        let keys: Vec<String> =
            by_name.chain(by_id).map(|key| key.map(|key| key.id.to_string())).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(Refused::invalid("At least one tagKeyName or tagKeyId is needed."));
        }
        let borne =
            |key: &&String| self.marks.iter().any(|mark| mark.asset == request.asset_id && mark.key == **key);
        if let Some(missing) = keys.iter().find(|key| !borne(key)) {
            let message = format!("Tag Key(s) ({missing}) not applied to {}.", request.asset_id);
            return Err(Refused::new("RESOURCE_NOT_FOUND", message));
        }
        self.marks.retain(|mark| mark.asset != request.asset_id || !keys.contains(&mark.key));
        Ok((Done::at_once("Tag(s) successfully removed."), Vec::new()))
    }

    /// Keys and values asked for; nothing is changed yet.
    pub(crate) fn wanted_tags(
        &self,
        by_name: &[Tag],
        by_id: &[TagById],
    ) -> Result<Vec<(String, Option<String>)>, Refused> {
        let missing = || Refused::invalid("A tag needs the name or id of its key.");
        let by_name = by_name.iter().map(|tag| {
            let name = tag.tag_key_name.as_deref().ok_or_else(missing)?;
            Ok((self.key_by_name(name)?, tag.value.clone()))
        });
        let by_id = by_id.iter().map(|tag| {
            let id = tag.tag_key_id.as_deref().ok_or_else(missing)?;
            Ok((self.key_by_id(id)?, tag.value.clone()))
        });
        let mut wanted = Vec::new();
        for tag in by_name.chain(by_id) {
            let (key, value) = tag?;
            let value = value.filter(|value| !value.is_empty());
            if key.value_required && value.is_none() {
                return Err(Refused::invalid(format!("Tag Key '{}' requires a value.", key.name)));
            }
            if value.as_ref().is_some_and(|value| value.chars().count() > MAX_VALUE) {
                return Err(Refused::invalid(format!("A tag's value has at most {MAX_VALUE} characters.")));
            }
            wanted.push((key.id.to_string(), value));
        }
        if wanted.len() > MAX_TAGS {
            return Err(Refused::limit("tags per asset", MAX_TAGS));
        }
        Ok(wanted)
    }

    /// Puts tags on a thing that is there.
    pub(crate) fn put_marks(
        &mut self,
        kind: &AssetType,
        asset: &str,
        wanted: Vec<(String, Option<String>)>,
    ) -> Result<(), Refused> {
        let mut marks = self.marks.clone();
        for (key, value) in wanted {
            marks.retain(|mark| mark.asset != asset || mark.key != key);
            marks.push(Mark { kind: kind.clone(), asset: asset.to_owned(), key, value });
        }
        if marks.iter().filter(|mark| mark.asset == asset).count() > MAX_TAGS {
            return Err(Refused::limit("tags per asset", MAX_TAGS));
        }
        self.marks = marks;
        Ok(())
    }

    /// Tags of things that are gone go as well.
    pub(crate) fn forget_marks(&mut self) {
        let marks = std::mem::take(&mut self.marks);
        self.marks = marks.into_iter().filter(|mark| self.asset(&mark.kind, &mark.asset).is_ok()).collect();
    }

    fn key_by_name(&self, name: &str) -> Result<&TagKey, Refused> {
        let found = self.tag_keys.iter().find(|key| key.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| Refused::new("RESOURCE_NOT_FOUND", format!("Tag Key(s) ({name}) not found.")))
    }

    fn key_by_id(&self, id: &str) -> Result<&TagKey, Refused> {
        self.tag_keys
            .iter()
            .find(|key| key.id.as_str() == id)
            .ok_or_else(|| Refused::not_found("Tag Key", id))
    }

    /// Name and data centre of something that can bear tags.
    fn asset(&self, kind: &AssetType, id: &str) -> Result<(String, String), Refused> {
        match kind {
            AssetType::Server => self
                .record(id)
                .map(|server| (server.entity.name.clone(), server.entity.datacenter_id.to_string())),
            AssetType::NetworkDomain => self
                .domain(id)
                .map(|domain| (domain.entity.name.clone(), domain.entity.datacenter_id.to_string())),
            AssetType::Vlan => {
                self.network(id).map(|vlan| (vlan.entity.name.clone(), vlan.entity.datacenter_id.to_string()))
            }
            AssetType::CustomerImage => {
                let image = self.copies.iter().map(|copy| &copy.entity).find(|image| image.id.as_str() == id);
                let image = image.ok_or_else(|| Refused::not_found("Customer image", id));
                image.map(|image| (image.name.clone(), image.datacenter_id.to_string()))
            }
            AssetType::PublicIpBlock => {
                let block = self.blocks.iter().find(|block| block.id.as_str() == id);
                let block = block.ok_or_else(|| Refused::not_found("Public IPv4 block", id));
                block.map(|block| (block.base_ip.to_string(), block.datacenter_id.to_string()))
            }
            AssetType::Other(word) => Err(Refused::invalid(format!("Asset type '{word}' cannot be tagged."))),
        }
    }

    /// All tags as the list of tags shows them.
    pub(crate) fn tags(&self) -> Vec<Value> {
        let shown = self.marks.iter().filter_map(|mark| {
            let (name, datacenter) = self.asset(&mark.kind, &mark.asset).ok()?;
            let key = self.key_by_id(&mark.key).ok()?;
            let mut shown = json!({
                "assetType": mark.kind, "assetId": mark.asset, "assetName": name, "datacenterId": datacenter,
                "tagKeyId": key.id, "tagKeyName": key.name, "displayOnReport": key.display_on_report,
                "valueRequired": key.value_required,
            });
            if let Some(value) = &mark.value {
                shown["value"] = json!(value);
            }
            Some(shown)
        });
        shown.collect()
    }

    /// The tags of one thing, as the thing itself shows them.
    pub(crate) fn tags_of(&self, asset: &str) -> Vec<Tag> {
        let own = self.marks.iter().filter(|mark| mark.asset == asset);
        let shown = own.filter_map(|mark| {
            let key = self.key_by_id(&mark.key).ok()?;
            Some(Tag { tag_key_name: Some(key.name.clone()), value: mark.value.clone() })
        });
        shown.collect()
    }
}
